// Package natsio is the bridge's way to NATS: the connection ([Connect]), what its errors
// mean ([Classify]), how to try again ([Retry]), and what a stream has to be
// ([InspectStream]). It does not know what is published.
package natsio

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

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
// which a rotated credential ends. It returns when there is a connection, or when all
// servers were tried, and fails only for options that cannot be used. The caller
// closes the connection.
//
// Secrets, certificates and authorities are read for each attempt, so that one that was
// replaced is used from the next on.
//
// Nothing is buffered while the connection is down: a publish fails, and the
// events wait in the bridge's own queue.
func Connect(cfg config.Config, name string, log *slog.Logger) (*Conn, error) {
	d, err := newDialer(&cfg)
	if err != nil {
		return nil, err
	}
	r := newReporter(&cfg, d, log)
	opts := append(options(&cfg, name, d),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(r.delay),
		nats.ReconnectBufSize(-1),
		// A write that the network does not take blocks everything else on the
		// connection, a minute by default, and what it had is gone.
		nats.WriteBufferSize(256<<10), // a batch of events in a few writes
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
	go r.follow(nc, nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.CLOSED)) // until it is closed
	d.conn.Store(nc)
	select {
	case <-r.begun:
	case <-time.After(2 * connectTimeout):
	}
	return &Conn{nc, r}, nil
}

// ConnectOnce connects like [Connect], but only once: its error is why it could not. The
// connection is lost when ctx ends. The caller closes it.
func ConnectOnce(ctx context.Context, cfg *config.Config, name string) (*nats.Conn, error) {
	d, err := newDialer(cfg)
	if err != nil {
		return nil, err
	}
	credentials, err := cfg.Auth.Credentials()
	if err != nil {
		return nil, err
	}
	d.once = ctx
	ignore := func(*nats.Conn, *nats.Subscription, error) {} // who asks is told
	nc, err := nats.Connect(strings.Join(cfg.Servers, ","), append(options(cfg, name, d), nats.NoReconnect(),
		nats.ErrorHandler(ignore), func(o *nats.Options) error { return use(o, credentials) })...)
	if errors.Is(err, nats.ErrNoServers) && len(d.failures) > 0 { // the library keeps the reasons for itself
		return nil, errors.Join(d.failures...)
	}
	return nc, err
}

// options are those that every connection of this configuration has: how to reach the
// servers, who we are, and how long to wait.
func options(cfg *config.Config, name string, d *dialer) []nats.Option {
	opts := []nats.Option{nats.Name(name), nats.Timeout(connectTimeout), nats.SetCustomDialer(d), withTLS(cfg)}
	if cfg.Proxy != "" {
		opts = append(opts, nats.SkipHostLookup()) // the proxy knows the names
	}
	if cfg.NoDiscovery {
		opts = append(opts, nats.IgnoreDiscoveredServers())
	}
	if path := cfg.WebSocketPath(); path != "" {
		opts = append(opts, nats.ProxyPath(path)) // also for the servers that they advertise
	}
	if prefix := cfg.InboxPrefix(); prefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(prefix))
	}
	return opts
}

// withTLS is what the configuration says of TLS. What nats.go has for files fails where one
// cannot be read at the start; here that is a failure of the attempt.
func withTLS(cfg *config.Config) nats.Option {
	auth := cfg.Auth
	return func(o *nats.Options) error {
		if auth.HasCA() {
			o.RootCAsCB = auth.RootCAs
		}
		if auth.HasCertificate() {
			o.TLSCertCB = auth.Certificate
		}
		if o.RootCAsCB != nil || o.TLSCertCB != nil {
			o.Secure, o.TLSConfig = true, &tls.Config{MinVersion: tls.VersionTLS12}
		}
		if cfg.TLSFirst {
			o.Secure, o.TLSHandshakeFirst = true, true
		}
		return nil
	}
}

// use makes a connection authenticate with these credentials.
func use(o *nats.Options, c config.Credentials) error {
	o.User, o.Password, o.Token = c.User, c.Password, c.Token
	o.UserJWT, o.Nkey, o.SignatureCB = nil, "", nil
	if c.JWT != "" {
		o.UserJWT = func() (string, error) { return c.JWT, nil }
		o.SignatureCB = func([]byte) ([]byte, error) { return nil, nil } // a bearer's needs none
	}
	if c.Seed == "" {
		return nil
	}
	pair, err := nkeys.FromSeed([]byte(c.Seed))
	if err != nil {
		return err
	}
	o.SignatureCB = pair.Sign
	if c.JWT == "" {
		o.Nkey, err = pair.PublicKey()
	}
	return err
}

// Refused returns a subject that the server has refused to this user on the connection that
// there is, nil when it has refused none: that of answers before all others. Without it
// everything that is asked later goes without an answer, and only this tells why.
func (c *Conn) Refused() *Fault {
	c.events.mu.Lock()
	defer c.events.mu.Unlock()
	return c.events.refused
}

// Deafened returns the subjects to which the server did not let this user subscribe, on the
// connection that there is and since it was called last. Neither the server nor the client
// library subscribes again when that is granted. Those of answers are not among them: for them
// there is soon another connection.
func (c *Conn) Deafened() (subjects []string) {
	c.events.mu.Lock()
	defer c.events.mu.Unlock()
	for subject, news := range c.events.deafened {
		if news {
			subjects = append(subjects, subject)
			c.events.deafened[subject] = false
		}
	}
	return subjects
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
		func() float64 { return float64(max(c.Stats().Reconnects, 1) - 1) }) // nats.go counts the first, too
}

// ConnectionName names the connection that there is as no other is named: its number is the
// server's, and the server draws a name for itself when it starts. It tells machines
// apart that go on from the same saved memory, each of which has to connect again: whatever else
// names or numbers a process, they have the same. Without a connection it tells nothing.
func ConnectionName(nc *nats.Conn) string {
	number, _ := nc.GetClientID()
	sum := sha256.Sum256(fmt.Append(nil, nc.ConnectedServerId(), " ", number))
	return hex.EncodeToString(sum[:8])
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
