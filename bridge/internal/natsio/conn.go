// Package natsio is the bridge's way to NATS: the connection ([Connect]), what its errors
// mean ([Classify]), how to try again ([Retry]), and what a stream has to be
// ([CheckStream]). It does not know what is published.
package natsio

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/metrics"
)

// A Conn is a connection that never gives up.
type Conn struct {
	*nats.Conn
	events *reporter
}

// Connect opens a connection to NATS that never gives up: when no server can be
// reached it retries in the background, also after authentication errors,
// which a rotated credential ends. It fails only for options that cannot be used.
// The caller closes the connection.
//
// Nothing is buffered while the connection is down: a publish fails, and the
// events wait in the bridge's own queue.
func Connect(cfg config.Config, name string, log *slog.Logger) (*Conn, error) {
	r := &reporter{log: log, servers: config.RedactURLs(cfg.Servers)}
	opts := append(Options(&cfg, name),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(r.delay),
		nats.ReconnectBufSize(-1),
		// A write that the network does not take blocks everything else on the
		// connection, a minute by default, and what it had is gone.
		nats.WriteBufferSize(256<<10), // a batch of events in a few writes
		nats.FlusherTimeout(writeTimeout),
		nats.SetCustomDialer(newDialer(connectTimeout)),
		nats.ReconnectOnFlusherError(),
		nats.PingInterval(20*time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(r.connected),
		nats.ReconnectHandler(r.connected),
		nats.ReconnectErrHandler(r.failed),
		nats.DisconnectErrHandler(r.disconnected),
		nats.LameDuckModeHandler(r.lameDuck),
		nats.ErrorHandler(r.asyncError),
	)
	nc, err := nats.Connect(strings.Join(cfg.Servers, ","), opts...)
	if err != nil {
		return nil, err
	}
	return &Conn{nc, r}, nil
}

// Options are those that every connection of this configuration has, also one that is
// tried only once: who we are, and how long to wait.
func Options(cfg *config.Config, name string) []nats.Option {
	opts := append([]nats.Option{nats.Name(name), nats.Timeout(connectTimeout)}, authOptions(cfg.Auth)...)
	if prefix := cfg.InboxPrefix(); prefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(prefix))
	}
	return opts
}

func authOptions(a config.Auth) []nats.Option {
	var opts []nats.Option
	switch {
	case a.CredsFile != "":
		opts = append(opts, nats.UserCredentials(a.CredsFile))
	case a.NKeyFile != "":
		opt, err := nats.NkeyOptionFromSeed(a.NKeyFile)
		opts = append(opts, func(o *nats.Options) error { // the file was good when the settings were checked
			if err != nil {
				return err
			}
			return opt(o)
		})
	case a.User != "":
		opts = append(opts, nats.UserInfo(a.User, a.Password))
	case a.Token != "":
		opts = append(opts, nats.Token(a.Token))
	}
	if a.CAFile != "" {
		opts = append(opts, nats.RootCAs(a.CAFile))
	}
	if a.CertFile != "" {
		opts = append(opts, nats.ClientCert(a.CertFile, a.KeyFile))
	}
	return opts
}

// Fault returns why there is no connection; nil when there is one.
func (c *Conn) Fault() *Fault {
	if c.IsConnected() {
		return nil
	}
	c.events.mu.Lock()
	defer c.events.mu.Unlock()
	if c.events.fault != nil {
		return c.events.fault
	}
	fault := Classify(ErrNotConnected)
	return &fault
}

// Register registers the connection's metrics.
func (c *Conn) Register(to metrics.Registry) {
	to.GaugeFunc("nats_connected", "1 when there is a connection to NATS.",
		func() float64 { return metrics.Bool(c.IsConnected()) })
	to.CounterFunc("nats_reconnects_total", "Times that the connection to NATS was lost and is there again.",
		func() float64 { return float64(c.Stats().Reconnects) })
}

// WhileConnected returns a context that ends with ctx, and with the cause
// [ErrDisconnected] when the connection is lost: an answer that was waited for will
// not come on another one. The caller calls stop.
func WhileConnected(ctx context.Context, nc *nats.Conn) (while context.Context, stop func()) {
	while, cancel := context.WithCancelCause(ctx)
	lost := nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	if !nc.IsConnected() { // before there was anyone to tell
		cancel(ErrDisconnected)
	}
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case <-lost:
			cancel(ErrDisconnected)
		case <-while.Done():
		}
	})
	return while, func() {
		cancel(nil)
		watcher.Wait()
		nc.RemoveStatusListener(lost)
	}
}

// A reporter logs what becomes of a connection: each state once, and an error that
// lasts once a minute, so that an outage of a night does not fill a disk. The client
// library calls it, one call at a time but for delay.
type reporter struct {
	log     *slog.Logger
	servers string // without secrets

	mu     sync.Mutex
	since  time.Time            // of the outage; zero: there is none
	fault  *Fault               // of the last attempt to connect; nil: none has failed
	logged map[string]time.Time // when each error was logged, in the last minute
}

const (
	repeatAfter = time.Minute // when an error that was logged is logged again
	maxLogged   = 100         // different ones in that time: each refused subject is one
)

// delay is how long to wait after all servers were tried so many times. A server
// that is back is found within 2 s; one that refuses our credentials is not
// asked more often than every 30 s, since a person has to do something.
func (r *reporter) delay(attempts int) time.Duration {
	r.mu.Lock()
	limit := 2 * time.Second
	if r.fault != nil && r.fault.Reason == Credentials {
		limit = 30 * time.Second
	}
	r.mu.Unlock()
	wait := min(250*time.Millisecond<<min(max(attempts-1, 0), 10), limit)
	return wait/2 + rand.N(wait/2)
}

func (r *reporter) connected(nc *nats.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	attrs := []any{"server", nc.ConnectedUrlRedacted(), "version", nc.ConnectedServerVersion()}
	if r.since.IsZero() {
		r.log.Info("connected to NATS", attrs...)
	} else {
		r.log.Info("connected to NATS again", append(attrs, "after", time.Since(r.since).Round(time.Millisecond))...)
	}
	r.since, r.fault, r.logged = time.Time{}, nil, nil
}

func (r *reporter) disconnected(nc *nats.Conn, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if nc.IsClosed() || nc.IsDraining() {
		return
	}
	r.since = time.Now()
	if err == nil {
		err = errors.New("the server closed the connection")
	}
	r.log.Warn("lost the connection to NATS; reconnecting", "cause", err)
}

// failed is called after each attempt to connect that failed.
func (r *reporter) failed(_ *nats.Conn, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since.IsZero() {
		r.since = time.Now()
	}
	if errors.Is(err, nats.ErrNoServers) { // the sum of the first attempts: the next one has a cause
		return
	}
	fault := Classify(err)
	r.fault = &fault
	if r.isNews(err) {
		r.log.Warn("cannot connect to NATS; retrying", append([]any{"servers", r.servers}, fault.attrs()...)...)
	}
}

// asyncError is called with errors that answer nothing: for example a refused subject,
// and while reconnecting also refused credentials, every second.
func (r *reporter) asyncError(_ *nats.Conn, _ *nats.Subscription, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fault := Classify(err)
	if fault.Reason == Credentials {
		r.fault = &fault
	}
	if !r.isNews(err) {
		return
	}
	if fault.Reason == Permission {
		r.log.Error("NATS refuses a subject to this user; once it is granted, the bridge goes on by itself", fault.attrs()...)
		return
	}
	r.log.Warn("NATS reports an error", fault.attrs()...)
}

// lameDuck is called when the server is about to stop.
func (r *reporter) lameDuck(nc *nats.Conn) {
	r.log.Info("the NATS server is shutting down and asks its clients to move", "server", nc.ConnectedUrlRedacted())
	if len(nc.Servers()) > 1 { // now, rather than when it cuts the connection
		_ = nc.ForceReconnect()
	}
}

// isNews reports whether an error is to be logged: it was not in the last minute. The
// caller has the lock.
func (r *reporter) isNews(err error) bool {
	now := time.Now()
	maps.DeleteFunc(r.logged, func(_ string, at time.Time) bool { return now.Sub(at) >= repeatAfter })
	if _, known := r.logged[err.Error()]; known || len(r.logged) == maxLogged {
		return false
	}
	if r.logged == nil {
		r.logged = map[string]time.Time{}
	}
	r.logged[err.Error()] = now
	return true
}
