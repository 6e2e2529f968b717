// Package bridge publishes the network links of a host to NATS: what the kernel
// reports over rtnetlink, as events of schema iface.v1, each once and in order.
// [Run] is all of it. This is what an event goes through, each box a package below
// internal but for the publisher, which is here:
//
//	kernel
//	  │ messages (netlinksrc.Message)
//	track ──────── a watcher and a table of links for each network namespace
//	  │ changes (event.Change)
//	queue ──────── bounded; folds the changes of one link into one
//	  │ deltas (event.Delta)         │
//	  │                            spool ── on disk, where one is wanted
//	  │                              │ events
//	publisher ──── gives each its seq, and keeps at it until NATS has confirmed it
//	  │ outgoing events (event.Outgoing)
//	delivery ───── what confirmed means: JetStream, or plain NATS
//	  │ messages                     └─ confirmed events
//	NATS ◄───────── bucket ◄── state ──► query: answers with it
//
// What happens where:
//
//   - track never waits for NATS. A notification is compared with the table; when some
//     were lost, a dump is. What is in a snapshot is decided there (track/snapshot.go).
//   - queue is where the two sides meet: the kernel's never waits, the other may for hours.
//     To the publisher it and the spool are one thing, a backlog (backlog.go).
//   - The publisher (publisher.go) tells epochs: it looks at what is stored, publishes a del
//     for what vanished, a snapshot, and then everything after it. When an epoch cannot go
//     on it begins another; while another bridge owns the host's name it stands by
//     (owner.go). When a publish fails or times out, it tries again (publish.go).
//   - delivery compares what is in the stream with what it has had confirmed (story.go),
//     and says that an epoch cannot go on.
//   - state is what a consumer holds that has applied all of it. The bucket, a follower of
//     the publisher (follower.go), keeps it for the next run; the query service answers
//     with it, and who answers owns the name.
//   - event is what all of them pass on: changes, deltas, outgoing events, their JSON and
//     headers, and what is left out of one that is too large.
//   - natsio is the connection, the meaning of its errors, and how to try again; metrics
//     and loop are small things that all need. Each package registers what it counts.
//
// Whether it works can be asked over HTTP (health.go), and systemd is told (systemd.go).
// The name of the host is followed where nobody gave it (hostname.go). Settings are in
// package config, the checks of `ifacebridge doctor` in package doctor; neither knows this
// one. test/rules_test.go enforces the order of the packages.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/delivery"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/loop"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/bridge/internal/spool"
	"ifacebridge/bridge/internal/state"
	"ifacebridge/bridge/internal/track"
	"ifacebridge/netlinksrc"
)

// Connect opens a connection to NATS, with the options of a bridge of this
// configuration, that never gives up: when no server can be reached, or none accepts
// the credentials, it retries in the background, and logs why. It fails only for
// options that cannot be used. The caller closes the connection.
func Connect(cfg config.Config, name string, log *slog.Logger) (*Conn, error) {
	return natsio.Connect(cfg, name, log)
}

// A Conn is a connection that never gives up, and knows why there is none now.
type Conn = natsio.Conn

// A Fault is what an error of NATS means, and a Reason its kind.
type (
	Fault  = natsio.Fault
	Reason = natsio.Reason
)

// NoAnswer is the reason that no answer came in time.
const NoAnswer = natsio.Timeout

// Classify returns what an error of NATS means. The error must not be nil.
func Classify(err error) Fault { return natsio.Classify(err) }

// grace is how long after the signal to stop the queued events may take.
const grace = 5 * time.Second

// An UnconfirmedError reports that the bridge had to stop, or to take another name, before
// NATS had confirmed all events.
type UnconfirmedError struct {
	Events int // 0: only the dels of a host that was renamed, or a part of them
	Cause  error
}

func (e *UnconfirmedError) Error() string {
	what := "the dels of the host's links"
	if e.Events > 0 {
		what = fmt.Sprint(e.Events, " events")
	}
	return fmt.Sprintf("%s were not confirmed by NATS within %v: %v", what, grace, e.Cause)
}

func (e *UnconfirmedError) Unwrap() error { return e.Cause }

// Run publishes the links of the selected network namespaces until ctx ends,
// then what is queued, for up to 5 s, and returns nil. Failures of NATS are
// waited out. It returns an error when the settings or netlink cannot be used,
// or an [UnconfirmedError].
//
// Where the configuration does not name the host, it is called as the kernel calls it: Run
// waits until that is a name, and when it becomes another, the links of the old name get
// their del, and an epoch begins under the new one, with metrics that begin anew.
func Run(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	return RunFrom(ctx, cfg, nil, log)
}

// A Source is what the links of a namespace are read from, in place of the kernel.
type Source = track.Source

// RunFrom is [Run] with the links that src has in the place of those of the kernel,
// for simulations of many hosts in one process. It is the host's own namespace, the
// only one: cfg.Netns is to be that alone, and cfg names the host. The caller closes src.
func RunFrom(ctx context.Context, cfg config.Config, src Source, log *slog.Logger) error {
	r := newReporter(cfg)
	stop, err := r.start(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer stop()
	if src == nil && cfg.FollowHost {
		return followHost(ctx, cfg, r, log)
	}
	return runAs(ctx, cfg, src, event.Started, r, log)
}

// followHost publishes under the name that the kernel has for the host, one after the other.
func followHost(ctx context.Context, cfg config.Config, r *reporter, log *slog.Logger) error {
	host, err := patiently(ctx, r, log, openHostname)
	if err != nil {
		return err
	}
	defer host.release()
	for reason := event.Started; ; reason = event.Renamed {
		if err := host.named(ctx, r, log); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		named, err := cfg.WithHost(host.name)
		if err != nil {
			return err
		}
		running, stop := context.WithCancelCause(ctx)
		var following sync.WaitGroup
		following.Go(func() {
			if host.follow(running, log) {
				stop(errRenamed)
			}
		})
		err = runAs(running, named, nil, reason, r, log)
		stop(nil)
		following.Wait()
		if ctx.Err() != nil || !errors.Is(context.Cause(running), errRenamed) {
			return err
		}
		var unconfirmed *UnconfirmedError
		if errors.As(err, &unconfirmed) {
			attrs := []any{"cause", err, "before", named.Host, "advice", "ifacebridge forget " + named.Host}
			if named.SpoolDir != "" {
				attrs = append(attrs, "spool", spool.Path(named))
			}
			log.Error("the host was renamed while NATS took no events: the links of its old name got no del", attrs...)
		} else if err != nil {
			return err
		}
		log.Warn("the host has another name now; its links are published under that", "host", host.name, "before", named.Host)
		r.waits("starting under the host's new name")
	}
}

// runAs publishes under one name, until ctx ends. The first epoch begins for this reason.
func runAs(
	ctx context.Context, cfg config.Config, src Source, reason event.EpochReason, r *reporter, log *slog.Logger,
) error {
	id, err := patiently(ctx, r, log, func() (event.Identity, error) { return newIdentity(cfg) })
	if err != nil {
		return err
	}
	counted := metrics.Registry{Registry: prometheus.NewRegistry()}
	q := queue.New(cfg.Queue, cfg.Coalesce)
	q.Register(counted)
	n, err := patiently(ctx, r, log, func() (*track.Namespaces, error) { return track.New(cfg, src, q, log, counted) })
	if err != nil {
		return err
	}
	defer n.Close()
	b, err := openBacklog(cfg, id, q, log)
	if err != nil {
		return err
	}
	defer b.Close()
	b.Register(counted)
	conn, err := natsio.Connect(cfg, "ifacebridge "+cfg.Host, log)
	if err != nil {
		return fmt.Errorf("NATS: %w", err)
	}
	defer conn.Close()
	conn.Register(counted)
	p, err := newPublisher(cfg, id, b, conn.Conn, n.Count, log, counted)
	if err != nil {
		return fmt.Errorf("NATS: %w", err)
	}
	p.reason, p.beginAnew = reason, n.BeginAnew
	p.query = state.NewQuery(cfg, id, p.state, conn.Conn, n.Overruns, p.lacking, p.isWhole.Load,
		conn.Deafened, log)
	defer p.query.Stop()
	r.report(&health{reading: n, publishing: p, conn: conn, metrics: prometheus.Gatherers{counted}})
	log.Info("publishing", "subjects", cfg.Prefix+"."+cfg.Token+".{new,del}", "delivery", cfg.Delivery,
		"host", cfg.Host, "epoch", p.epoch, "boot_id", id.BootID)
	return run(ctx, n, q, p, log)
}

// patiently does what a start needs, again when it fails in a way that passes: the machine
// may be short of memory or descriptors at the moment.
func patiently[T any](ctx context.Context, r *reporter, log *slog.Logger, do func() (T, error)) (done T, err error) {
	err = loop.Persist(ctx, func() error { done, err = do(); return err }, netlinksrc.Passes,
		func(err error, again bool) {
			r.waits("cannot start yet: " + err.Error())
			if !again {
				log.Warn("cannot start yet; retrying", "cause", err)
			}
		})
	return done, err
}

// newIdentity returns the identity of a run that begins now.
func newIdentity(cfg config.Config) (event.Identity, error) {
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return event.Identity{}, fmt.Errorf("boot id: %w", err)
	}
	own, _ := netlinksrc.OwnNamespace() // 0 where it cannot be known
	return event.Identity{
		Host: cfg.Host, BootID: strings.TrimSpace(string(bootID)), Epoch: event.NewEpoch(cfg.Host),
		OwnNetns: own, Labels: cfg.Labels,
	}, nil
}

// newPublisher returns what publishes from a backlog. With JetStream the bucket follows it,
// and the bucket of hosts is told that the host is there, with so many namespaces.
func newPublisher(
	cfg config.Config, id event.Identity, b backlog, nc *nats.Conn, namespaces func() int,
	log *slog.Logger, counted metrics.Registry,
) (*publisher, error) {
	way, err := delivery.New(cfg, nc, log, counted)
	if err != nil {
		return nil, err
	}
	namedOn := natsio.ConnectionName(nc)
	p := &publisher{
		id: id, namedOn: namedOn, epoch: event.NewEpoch(namedOn),
		backlog: b, encoder: event.NewEncoder(cfg, id, way.Room), delivery: way, state: state.New(),
		follower: noFollower{}, presence: noPresence{}, nc: nc, verify: cfg.Resync, held: cfg.Coalesce, log: log,
		metrics: newPublishMetrics(counted),
		owner:   rival{log: log},
	}
	if cfg.Delivery == config.JetStream {
		bucket, err := state.NewBucket(cfg, p.state, nc, log)
		if err != nil {
			return nil, err
		}
		bucket.Register(counted)
		bucket.Changed = func() { p.presence.News() }
		p.follower = bucket
	}
	if cfg.Delivery == config.JetStream && cfg.Presence > 0 {
		presence, err := state.NewPresence(cfg, id, p.state, nc, namespaces, p.lacking, log)
		if err != nil {
			return nil, err
		}
		presence.Register(counted)
		p.presence = presence
	}
	p.register(counted)
	return p, nil
}

// run reads and publishes until ctx ends or one of the two cannot go on, and
// waits for both.
func run(ctx context.Context, n *track.Namespaces, q *queue.Queue, p *publisher, log *slog.Logger) error {
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	publishing, stopPublishing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPublishing()

	p.retiring = func() bool { return errors.Is(context.Cause(ctx), errRenamed) }
	published := make(chan error, 1)
	go func() {
		err := p.run(publishing)
		stopReading() // a publisher that gave up has nobody to read for
		published <- err
	}()
	var spooling sync.WaitGroup
	spooling.Go(func() { p.backlog.Fill(publishing, q) })
	readErr := n.Run(reading)
	q.Close()
	if waiting := p.unconfirmed(); waiting > 0 {
		log.Info("stopping; publishing what is queued", "unconfirmed", waiting)
	}
	timer := time.AfterFunc(grace, stopPublishing)
	defer timer.Stop()
	publishErr := <-published
	stopPublishing()
	spooling.Wait()

	spooled := 0
	if errors.Is(publishErr, errStandingBy) {
		log.Info("stopped while standing by; what waited is the other bridge's to publish")
		p.backlog.Abandon()
		return readErr
	}
	if errors.Is(publishErr, context.Canceled) { // the grace is over
		spooled, publishErr = unconfirmed(p)
	}
	if err := errors.Join(readErr, publishErr); err != nil {
		return err
	}
	if spooled > 0 {
		log.Info("stopped; what NATS has not confirmed is in the spool, and the next start publishes it",
			"events", p.confirmed.Load(), "spooled", spooled)
		return nil
	}
	log.Info("stopped; every event is confirmed", "events", p.confirmed.Load())
	return nil
}

// unconfirmed returns how many events a publisher that was stopped has left in
// the spool, or, when some are not there, an [UnconfirmedError]. When the host was renamed,
// its dels are not there, and no start publishes the rest.
func unconfirmed(p *publisher) (spooled int, err error) {
	if n, all := p.backlog.Saved(); all && !p.retiring() {
		return n, nil
	}
	n := p.unconfirmed()
	if n == 0 && !p.retiring() {
		return 0, nil
	}
	cause := p.nc.LastError()
	if cause == nil {
		cause = errors.New("no answer")
	}
	return 0, &UnconfirmedError{Events: n, Cause: cause}
}
