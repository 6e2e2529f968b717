package natsio

import (
	"cmp"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/config"
)

// A reporter logs what becomes of a connection: each state once, and an error that
// lasts seldom, so that an outage of a night does not fill a disk.
//
// The client library tells of failures in different ways, and of some in none. A server
// that cannot be reached is reported to failed; a refused user, when there was a connection
// before, to asyncError; TLS that fails, and a refused user when there was none, to nobody:
// these are found in its last error, after the attempt (observe). All of them end in one
// throttle.
type reporter struct {
	log     *slog.Logger
	servers string // without secrets
	dialer  *dialer
	begun   chan struct{} // closed when there is a connection, or all servers were tried
	deaf    chan struct{} // holds a token when the subject of answers was refused

	mu       sync.Mutex
	since    time.Time // of the outage; zero: there is none
	up       time.Time // since when there is a connection
	observed uint64    // the last attempt that observe has looked at
	fault    *Fault    // of the last attempt to connect; nil: none has failed
	refused  *Fault    // a subject that was refused on this connection; nil: none was
	throttle Throttle
	silent   bool // that the connection was lost was not logged, nor will be that it is back
	isDeaf   bool // the subject of answers was refused on this connection
	renewing bool // we are ending the connection for that

	// Other subjects to which this user could not subscribe on this connection: whether
	// Deafened has not returned them since.
	deafened map[string]bool
}

const (
	flapping = 10 * time.Second // a connection that lasted as long is worth a line when it is lost
	settled  = time.Minute      // and after one that lasted as long, everything is news

	// renewAfter is how long a connection lasts on which the subject of answers was refused,
	// and up to as much again at random. The client library subscribes to that once for each
	// connection, and a server that is told of more permissions does not end it.
	renewAfter = 5 * time.Second
)

func newReporter(cfg *config.Config, d *dialer, log *slog.Logger) *reporter {
	return &reporter{
		log: log, servers: config.RedactURLs(cfg.Servers), dialer: d, begun: make(chan struct{}),
		deaf: make(chan struct{}, 1), deafened: map[string]bool{},
	}
}

// begin notes that Connect need not wait any longer. The caller has the lock.
func (r *reporter) begin() {
	select {
	case <-r.begun:
	default:
		close(r.begun)
	}
}

// delay is how long to wait after all servers were tried so many times: one that is back
// is found within 2 s. The client library calls it.
func (r *reporter) delay(attempts int) time.Duration {
	nc := r.dialer.conn.Load()
	if nc == nil || r.dialer.attempts.Load() == 0 { // none was made yet
		return time.Millisecond
	}
	r.observe(nc)
	r.mu.Lock()
	r.begin()
	r.mu.Unlock()
	wait := min(250*time.Millisecond<<min(max(attempts-1, 0), 10), 2*time.Second)
	return wait/2 + rand.N(wait/2)
}

// follow looks at each attempt to connect, until the connection is closed, and connects
// again where nothing is answered.
func (r *reporter) follow(nc *nats.Conn, status <-chan nats.Status) {
	var renew <-chan time.Time
	for {
		select {
		case s, open := <-status:
			switch {
			case !open || s == nats.CLOSED:
				return
			case s == nats.CONNECTED:
				r.mu.Lock()
				r.observed = r.dialer.attempts.Load()
				r.mu.Unlock()
			default:
				r.observe(nc)
			}
		case <-r.deaf:
			renew = time.After(renewAfter + rand.N(renewAfter))
		case <-renew:
			renew = nil
			r.mu.Lock()
			r.renewing = r.isDeaf && nc.IsConnected()
			renewing := r.renewing
			r.mu.Unlock()
			if renewing {
				_ = nc.ForceReconnect() // fails only when it is closed
			}
		}
	}
}

// observe reports why the last attempt failed, where nothing else does.
func (r *reporter) observe(nc *nats.Conn) {
	attempt := r.dialer.attempts.Load()
	err := nc.LastError()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.observed == attempt || attempt != r.dialer.attempts.Load() { // the error may be another one's
		return
	}
	r.observed = attempt
	if err == nil {
		return
	}
	if Classify(err).Reason == Credentials {
		r.dialer.refuse(attempt)
	}
	r.failedLocked(err)
}

func (r *reporter) connected(nc *nats.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin()
	attrs := []any{"server", nc.ConnectedUrlRedacted(), "version", nc.ConnectedServerVersion()}
	switch {
	case r.silent:
	case r.since.IsZero():
		r.log.Info("connected to NATS", attrs...)
	default:
		r.log.Info("connected to NATS again", append(attrs, "after", time.Since(r.since).Round(time.Millisecond))...)
	}
	r.since, r.up, r.fault, r.refused, r.isDeaf, r.silent = time.Time{}, time.Now(), nil, nil, false, false
	clear(r.deafened)
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
	if r.renewing { // that a subject is refused was logged
		r.renewing, r.silent = false, true
		return
	}
	lasted := r.since.Sub(r.up)
	if lasted >= settled {
		r.throttle = Throttle{}
	}
	repeated, news := r.throttle.News("lost "+textKey(err.Error()), r.since)
	if r.silent = !news && lasted < flapping; !r.silent {
		r.log.Warn("lost the connection to NATS; reconnecting", append([]any{"cause", err}, repeated...)...)
	}
}

// failed is called after an attempt to connect that did not reach a server.
func (r *reporter) failed(nc *nats.Conn, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc([]error{errFirst, errRefusedLately, nats.ErrNoServers},
		func(is error) bool { return errors.Is(err, is) }) { // no attempt was made, or there is a better reason
		return
	}
	if advertised(nc, err) {
		err = WithAdvice(err, "the servers advertise this address; if it cannot be reached from here, "+
			"set client_advertise on them, or IFACE_DISCOVERY=off")
	}
	r.failedLocked(err)
}

// advertised reports whether an address that could not be reached is only known from the
// servers.
func advertised(nc *nats.Conn, err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Addr == nil {
		return false
	}
	return slices.ContainsFunc(nc.DiscoveredServers(), func(url string) bool {
		return strings.HasSuffix(url, "//"+op.Addr.String())
	})
}

// failedLocked reports an attempt to connect that failed. The caller has the lock.
func (r *reporter) failedLocked(err error) {
	if r.since.IsZero() {
		r.since = time.Now()
	}
	fault := Classify(err)
	r.fault = &fault
	if repeated, news := r.throttle.News(fault.key(), time.Now()); news {
		attrs := append([]any{"servers", r.servers}, fault.attrs()...)
		r.log.Warn("cannot connect to NATS; retrying", append(attrs, repeated...)...)
	}
}

// asyncError is called with errors that answer nothing: for example a refused subject, and
// that a user is not let in any more.
func (r *reporter) asyncError(nc *nats.Conn, _ *nats.Subscription, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.since.IsZero() { // of an attempt to connect
		r.failedLocked(err)
		return
	}
	fault := Classify(err)
	if fault.Reason == Permission {
		fault.Advice = r.dialer.grant
		if again := r.refusedLocked(nc, &fault); again {
			return
		}
	}
	repeated, news := r.throttle.News(fault.key(), time.Now())
	switch {
	case !news:
	case fault.Reason == Permission:
		r.log.Error("NATS refuses a subject to this user; once it is granted, the bridge goes on by itself",
			append(fault.attrs(), repeated...)...)
	default:
		r.log.Warn("NATS reports an error", append(fault.attrs(), repeated...)...)
	}
}

// refusedSubscription finds the subject of a subscription that was refused: the server tells it
// in the text alone.
var refusedSubscription = regexp.MustCompile(`Subscription to "(\S+)"`)

// refusedLocked notes that a subject was refused. The one for answers comes before the others:
// without it nothing works. It reports whether that is no news: who subscribes again every now
// and then, in case that it was granted, may be meant to do without. The caller has the lock.
func (r *reporter) refusedLocked(nc *nats.Conn, fault *Fault) (again bool) {
	subject := ""
	if m := refusedSubscription.FindStringSubmatch(fault.Cause); m != nil {
		subject = m[1]
	}
	deaf := strings.HasPrefix(subject, cmp.Or(nc.Opts.InboxPrefix, "_INBOX")+".")
	if r.refused == nil || deaf {
		r.refused = fault
	}
	switch {
	case subject == "": // of what is published
	case deaf:
		r.isDeaf = true
		select {
		case r.deaf <- struct{}{}:
		default:
		}
	default:
		// A service that is made again has subjects of its own each time.
		if _, again = r.deafened[subject]; again || len(r.deafened) < maxLasting {
			r.deafened[subject] = true
		}
	}
	return again
}

// lameDuck is called when the server is about to stop.
func (r *reporter) lameDuck(nc *nats.Conn) {
	r.log.Info("the NATS server is shutting down and asks its clients to move", "server", nc.ConnectedUrlRedacted())
	if len(nc.Servers()) > 1 { // now, rather than when it cuts the connection
		_ = nc.ForceReconnect()
	}
}
