// Package bridge publishes the network links of a host to NATS: what the kernel
// reports over rtnetlink, as events of schema iface.v1, each once and in order.
//
//	kernel ─ netlinksrc.Source ─ watcher ─ queue ─ publisher ─ delivery ─ NATS
//	                             table     folds   seq         core, JetStream
//
// What each of them is for:
//
//   - A watcher (watch.go) reads one namespace's notifications, and compares with
//     a dump when some were lost. It never waits for NATS. There is one for each
//     namespace, while it exists (namespaces.go); links move between them (moves.go).
//   - Its table (table.go) decides what a notification changes. No clock, no
//     socket: a pure function of the messages.
//   - The queue (queue.go) stands between the kernel and NATS. It is bounded:
//     when it is full, it folds the changes of one link into one.
//   - The publisher (publish.go) has the changes made into numbered events
//     (encode.go) and keeps at it until NATS has confirmed them.
//   - The spool (spool.go), where one is wanted, keeps them on disk until then. To
//     the publisher it and the queue are one thing, a backlog (backlog.go).
//   - A delivery (jetstream.go, core.go) is what confirmed means.
//   - The state (state.go) is what a consumer holds that has applied all of it.
//   - The bucket (bucket.go) follows the stream with that state; the next run finds
//     in it what was there. The query service (query.go) answers with it.
//
// Each of them registers what it counts (metrics.go). Whether they work can be asked
// over HTTP (health.go), and systemd is told (systemd.go). [Run] is all of it.
//
// Below this package are the settings ([config.Config], from the environment), the
// connection and the meaning of its errors (internal/natsio), and the checks of
// `ifacebridge doctor` (doctor), none of which knows this one.
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
func Connect(cfg config.Config, name string, log *slog.Logger) (*nats.Conn, error) {
	conn, err := natsio.Connect(cfg, name, log)
	if err != nil {
		return nil, err
	}
	return conn.Conn, nil
}

// grace is how long after the signal to stop the queued events may take.
const grace = 5 * time.Second

// An UnconfirmedError reports that the bridge had to stop before NATS had confirmed
// all events.
type UnconfirmedError struct {
	Events int
	Cause  error
}

func (e *UnconfirmedError) Error() string {
	return fmt.Sprintf("%d events were not confirmed by NATS within %v: %v", e.Events, grace, e.Cause)
}

func (e *UnconfirmedError) Unwrap() error { return e.Cause }

// Run publishes the links of the selected network namespaces until ctx ends,
// then what is queued, for up to 5 s, and returns nil. Failures of NATS are
// waited out. It returns an error when the settings or netlink cannot be used,
// or an [UnconfirmedError]. Its metrics are registered in reg.
//
// Where the configuration does not name the host, it is called as the kernel calls it: Run
// waits until that is a name, and when it becomes another, the links of the old name get
// their del, and an epoch begins under the new one.
func Run(ctx context.Context, cfg config.Config, log *slog.Logger, reg *prometheus.Registry) error {
	if !cfg.FollowHost {
		return RunFrom(ctx, cfg, nil, log, reg)
	}
	host, err := openHostname()
	if err != nil {
		return err
	}
	defer host.close()
	for {
		if err := host.named(ctx, log); err != nil {
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
			if host.changed(running) == nil {
				stop(errRenamed)
			}
		})
		err = RunFrom(running, named, nil, log, reg)
		stop(nil)
		following.Wait()
		if err != nil || ctx.Err() != nil || !errors.Is(context.Cause(running), errRenamed) {
			return err
		}
		log.Warn("the host has another name now; its links are published under that", "host", host.name, "before", named.Host)
		reg = prometheus.NewRegistry()
	}
}

// A Source is what the links of a namespace are read from, in place of the kernel.
type Source = track.Source

// RunFrom is [Run] with the links that src has in the place of those of the kernel,
// for simulations of many hosts in one process. It is the host's own namespace, the
// only one: cfg.Netns is to be that alone. The caller closes src.
func RunFrom(ctx context.Context, cfg config.Config, src Source, log *slog.Logger, reg *prometheus.Registry) error {
	id, err := newIdentity(cfg)
	if err != nil {
		return err
	}
	counted := metrics.Registry{Registry: reg}
	registerProcess(counted, cfg.Version)
	q := queue.New(cfg.Queue, cfg.Coalesce)
	q.Register(counted)
	n, err := track.New(cfg, src, q, log, counted)
	if err != nil {
		return err
	}
	defer n.Close()
	var s *spool.Spool
	if cfg.SpoolDir != "" {
		if s, err = spool.Open(cfg, id, log); err != nil {
			return err
		}
		defer s.Close()
		s.Register(counted)
	}
	conn, err := natsio.Connect(cfg, "ifacebridge "+cfg.Host, log)
	if err != nil {
		return fmt.Errorf("NATS: %w", err)
	}
	defer conn.Close()
	conn.Register(counted)
	p, err := newPublisher(cfg, id, q, s, conn.Conn, log, counted)
	if err != nil {
		return fmt.Errorf("NATS: %w", err)
	}
	p.query = state.NewQuery(cfg, id, p.state, conn.Conn, n.Overruns, p.isWhole, log)
	defer p.query.Stop()
	h := &health{n, p, conn, cfg.Pprof}
	h.register(counted)
	stopHealth, err := h.start(ctx, cfg, reg, log)
	if err != nil {
		return err
	}
	defer stopHealth()
	log.Info("publishing", "subjects", cfg.Prefix+"."+cfg.Token+".{new,del}", "delivery", cfg.Delivery,
		"host", cfg.Host, "epoch", id.Epoch, "boot_id", id.BootID)
	return run(ctx, n, q, p, log)
}

func newIdentity(cfg config.Config) (event.Identity, error) {
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return event.Identity{}, fmt.Errorf("boot id: %w", err)
	}
	own, _ := netlinksrc.OwnNamespace() // 0 where it cannot be known
	return event.Identity{Host: cfg.Host, BootID: strings.TrimSpace(string(bootID)), Epoch: event.NewEpoch(), OwnNetns: own}, nil
}

// newPublisher returns what publishes from the queue, or from the spool if there is one.
func newPublisher(
	cfg config.Config, id event.Identity, q *queue.Queue, s *spool.Spool, nc *nats.Conn, log *slog.Logger, counted metrics.Registry,
) (*publisher, error) {
	p := &publisher{
		id: id, state: state.New(), encoder: event.NewEncoder(cfg, id, nc.MaxPayload), nc: nc, verify: cfg.Resync, log: log,
		metrics: newPublishMetrics(counted), owner: owner{log: log},
	}
	if s != nil {
		p.spool, p.backlog = s, s
	} else {
		p.backlog = queue.NewBacklog(id, q)
	}
	var err error
	if p.delivery, err = delivery.New(cfg, nc, log, counted); err != nil {
		return nil, err
	}
	if cfg.Delivery == config.JetStream {
		if p.bucket, err = state.NewBucket(cfg, p.state, nc, log); err != nil {
			return nil, err
		}
		p.bucket.Register(counted)
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
	if p.spool != nil {
		spooling.Go(func() { p.spool.Fill(publishing, q) })
	}
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
// the spool, or, when some are not there, an [UnconfirmedError].
func unconfirmed(p *publisher) (spooled int, err error) {
	if p.spool != nil {
		if n, all := p.spool.Saved(); all {
			return n, nil
		}
	}
	n := p.unconfirmed()
	if n == 0 {
		return 0, nil
	}
	cause := p.nc.LastError()
	if cause == nil {
		cause = errors.New("no answer")
	}
	return 0, &UnconfirmedError{Events: n, Cause: cause}
}
