package bridge

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/config"
)

// Connect opens a connection to NATS that never gives up: when no server can be
// reached it goes on trying in the background, also after authentication errors,
// which a rotated credential ends. It fails only for options that cannot be used.
// The caller closes the connection.
//
// Nothing is buffered while the connection is down: a publish fails, and the
// events wait in the bridge's own queue.
func Connect(cfg config.Config, name string, log *slog.Logger) (*nats.Conn, error) {
	r := &reporter{log: log}
	opts := []nats.Option{
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(r.delay),
		nats.ReconnectBufSize(-1),
		// A write that the network does not take blocks everything else on the
		// connection, a minute by default, and what it had is gone.
		nats.WriteBufferSize(256 << 10), // a batch of events in a few writes
		nats.FlusherTimeout(2 * time.Second),
		nats.ReconnectOnFlusherError(),
		nats.Timeout(3 * time.Second),
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(r.connected),
		nats.ReconnectHandler(r.connected),
		nats.ReconnectErrHandler(r.failed),
		nats.DisconnectErrHandler(r.disconnected),
		nats.LameDuckModeHandler(func(nc *nats.Conn) {
			log.Info("the NATS server is shutting down and asks its clients to move", "server", nc.ConnectedUrlRedacted())
			if len(nc.Servers()) > 1 { // now, rather than when it cuts the connection
				_ = nc.ForceReconnect()
			}
		}),
		nats.ErrorHandler(r.asyncError),
	}
	if cfg.Token != "" {
		opts = append(opts, nats.CustomInboxPrefix(cfg.InboxPrefix()))
	}
	opts = append(opts, authOptions(cfg.Auth)...)
	r.servers = config.RedactURLs(cfg.Servers)
	nc, err := nats.Connect(strings.Join(cfg.Servers, ","), opts...)
	if err != nil {
		return nil, err
	}
	return nc, nil
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

var errDisconnected = errors.New("the connection to NATS was lost")

// whileConnected returns a context that ends with ctx, and with the cause
// errDisconnected when the connection is lost: an answer that was waited for will
// not come on another one. The caller calls stop.
func whileConnected(ctx context.Context, nc *nats.Conn) (while context.Context, stop func()) {
	while, cancel := context.WithCancelCause(ctx)
	lost := nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	if !nc.IsConnected() { // before there was anyone to tell
		cancel(errDisconnected)
	}
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case <-lost:
			cancel(errDisconnected)
		case <-while.Done():
		}
	})
	return while, func() {
		cancel(nil)
		watcher.Wait()
		nc.RemoveStatusListener(lost)
	}
}

// A reporter logs what becomes of a connection: each state once, and a failure
// that lasts once a minute, so that an outage of a night is not a full disk.
type reporter struct {
	log     *slog.Logger
	servers string // without secrets

	mu       sync.Mutex
	since    time.Time // of the outage
	lastText string
	lastTime time.Time
	refused  bool // the last attempt: by a server that does not want us
}

// delay is how long to wait after all servers were tried so many times. A server
// that is back is found within 2 s; one that refuses our credentials is not
// asked more often than every 30 s, since a person has to do something.
func (r *reporter) delay(attempts int) time.Duration {
	r.mu.Lock()
	limit := 2 * time.Second
	if r.refused {
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
	r.since, r.lastText, r.refused = time.Time{}, "", false
}

func (r *reporter) disconnected(nc *nats.Conn, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if nc.IsClosed() || nc.IsDraining() {
		return
	}
	r.since = time.Now()
	r.log.Warn("connection to NATS lost; trying to connect again", "cause", cause(err))
}

func (r *reporter) failed(_ *nats.Conn, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.since.IsZero() {
		r.since = now
	}
	if errors.Is(err, nats.ErrNoServers) { // the sum of the first attempts: the next one has a cause
		return
	}
	r.refused = isRefused(err)
	text := cause(err)
	if text == r.lastText && now.Sub(r.lastTime) < time.Minute {
		return
	}
	r.lastText, r.lastTime = text, now
	attrs := []any{"servers", r.servers, "cause", text}
	if advice := advise(err); advice != "" {
		attrs = append(attrs, "advice", advice)
	}
	r.log.Warn("cannot connect to NATS; trying on", attrs...)
}

func (r *reporter) asyncError(_ *nats.Conn, _ *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		r.log.Error("NATS refuses a subject to this user; grant it and the bridge goes on by itself", "cause", err)
		return
	}
	r.log.Warn("NATS reports an error", "cause", err)
}

func cause(err error) string {
	if err == nil {
		return "the server closed the connection"
	}
	return err.Error()
}

func isRefused(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) ||
		errors.Is(err, nats.ErrAccountAuthExpired)
}

// advise says what a person can do about an error of connecting.
func advise(err error) string {
	switch {
	case err == nil:
		return ""
	case isRefused(err):
		return "check NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, or NATS_TOKEN"
	case errors.Is(err, nats.ErrSecureConnRequired), errors.Is(err, nats.ErrSecureConnWanted):
		return "use tls:// in NATS_URL exactly when the server has TLS"
	case strings.Contains(err.Error(), "x509:"), strings.Contains(err.Error(), "tls:"), strings.Contains(err.Error(), "tls error:"):
		return "check NATS_CA, NATS_CERT and NATS_KEY, and the dates of the certificates"
	}
	return ""
}
