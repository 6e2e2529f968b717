// Package forget retires hosts that will not come back: what `ifacebridge forget` does. Each
// link gets its del in the stream, behind the fence that bridges have, and the host's keys are
// purged from both buckets, so that every reader sees it go.
package forget

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/delivery"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/bridge/internal/state"
	"ifacebridge/schema"
)

// Known is what a reader of the stream knows of a host. The bucket follows the stream, so
// that it may lack links of a host that died at the wrong moment.
type Known struct {
	BootID string
	Labels schema.Labels
	Links  []schema.LinkInNetns
}

// ErrUnknown reports that nothing is known of a host: it was never there under this name, or
// is forgotten already.
var ErrUnknown = errors.New("nothing is known of it")

// An AliveError reports that the bridge of a host is there, so that it is not forgotten.
type AliveError struct {
	Since time.Time // when the bridge was started; zero: it did not answer that
}

func (e *AliveError) Error() string {
	if e.Since.IsZero() {
		return "its bridge is there, though it does not answer: stop it first"
	}
	return "its bridge runs, since " + e.Since.UTC().Format(time.RFC3339) + ": stop it first"
}

// patience is how long NATS may take for one host, in all.
const patience = 30 * time.Second

// Host forgets the host that cfg names: a del with the cause retired for each link that the
// bucket has of it, or the stream as known, and then its keys. It returns how many links
// those were. It refuses while the host's bridge is there ([AliveError]); one that comes
// afterwards begins a new epoch and has its links again. It blocks for as long as NATS takes
// to answer, 30 s at most.
func Host(ctx context.Context, cfg config.Config, nc *nats.Conn, known Known, log *slog.Logger) (links int, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	f, err := newForgetting(cfg, nc, log)
	if err != nil {
		return 0, err
	}
	if err := f.refuseAlive(ctx); err != nil {
		return 0, err
	}
	dels, err := f.dels(ctx, known)
	if err != nil {
		return 0, err
	}
	listed, err := f.presence.Known(ctx)
	if err != nil {
		return 0, err
	}
	if len(dels) == 0 && !listed {
		return 0, ErrUnknown
	}
	if err := f.refuseAlive(ctx); err != nil { // it may have come back meanwhile
		return 0, err
	}
	if err := f.publish(ctx, dels); err != nil {
		return 0, err
	}
	if err := f.refuseAlive(ctx); err != nil { // then its keys are its own again
		return 0, err
	}
	if f.bucket != nil {
		if err := f.bucket.Purge(ctx); err != nil {
			return 0, err
		}
	}
	return len(dels), f.presence.Purge(ctx)
}

// forgetting is what it takes to forget a host.
type forgetting struct {
	cfg      config.Config
	nc       *nats.Conn
	delivery delivery.Delivery
	bucket   *state.Bucket // nil: there is none
	presence *state.Presence
}

func newForgetting(cfg config.Config, nc *nats.Conn, log *slog.Logger) (*forgetting, error) {
	d, err := delivery.New(cfg, nc, log, metrics.Registry{Registry: prometheus.NewRegistry()})
	if err != nil {
		return nil, err
	}
	bucket, err := state.NewBucket(cfg, state.New(), nc, log)
	if err != nil {
		return nil, err
	}
	presence, err := state.NewPresence(cfg, event.Identity{Host: cfg.Host}, nil, nc, nil, nil, log)
	return &forgetting{cfg, nc, d, bucket, presence}, err
}

// refuseAlive returns an [AliveError] when somebody answers for the host, or is there to do
// so and does not.
func (f *forgetting) refuseAlive(ctx context.Context) error {
	owner, err := state.AskOwner(ctx, f.nc, f.cfg.Prefix, f.cfg.Token)
	switch {
	case err == nil:
		return &AliveError{owner.Started}
	case errors.Is(err, nats.ErrNoResponders):
		return nil
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return &AliveError{}
	}
	return fmt.Errorf("cannot ask whether its bridge is there: %w", err)
}

// dels returns the dels of all links of the host.
func (f *forgetting) dels(ctx context.Context, known Known) ([]schema.Event, error) {
	// Nothing is to be made that is not there.
	js, err := natsio.JetStream(&f.cfg, f.nc)
	if err != nil {
		return nil, err
	}
	if _, err := js.Stream(ctx, f.cfg.Stream); err != nil {
		return nil, fmt.Errorf("stream %s: %w", f.cfg.Stream, err)
	}
	now := time.Now()
	var dels []schema.Event
	if _, err := js.Stream(ctx, config.BucketStream(f.cfg.Bucket)); errors.Is(err, jetstream.ErrStreamNotFound) {
		f.bucket = nil
	} else if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", f.cfg.Bucket, err)
	} else if dels, err = f.bucket.Vanished(ctx, event.Opening{At: now}); err != nil {
		return nil, err
	}
	for _, l := range known.Links {
		if !slices.ContainsFunc(dels, func(e schema.Event) bool { return e.Key() == l.Key() }) {
			dels = append(dels, schema.Event{
				Host: f.cfg.Host, BootID: known.BootID, Labels: known.Labels, Time: now,
				Kind: schema.Del, Action: schema.Deleted, Netns: l.Netns, Link: l.Link,
			})
		}
	}
	for i := range dels {
		dels[i].Cause = schema.Retired
	}
	return dels, nil
}

// publish stores the dels, as an epoch of their own.
func (f *forgetting) publish(ctx context.Context, dels []schema.Event) error {
	if len(dels) == 0 {
		return nil
	}
	epoch := event.NewEpoch(natsio.ConnectionName(f.nc))
	encoder := event.NewEncoder(f.cfg, event.Identity{Host: f.cfg.Host}, f.nc.MaxPayload)
	encoder.Begin(epoch, 0)
	f.delivery.Begin(epoch, event.Mark{})
	if err := f.delivery.Verify(ctx); err != nil {
		return err
	}
	for some := range slices.Chunk(dels, event.MaxBatch) {
		encoder.Reset()
		for i := range some {
			encoder.AddEvent(&some[i])
		}
		if err := f.store(ctx, encoder); err != nil {
			return err
		}
	}
	return nil
}

// again is how long to wait before what NATS did not take for the moment is sent again.
const again = 200 * time.Millisecond

// store stores the encoder's batch.
func (f *forgetting) store(ctx context.Context, encoder *event.Encoder) error {
	for rest := encoder.Batch; len(rest) > 0; {
		encoder.Fit(rest)
		n, err := f.delivery.Store(ctx, rest)
		rest = rest[n:]
		if err == nil {
			continue
		}
		if fault := natsio.Classify(err); !fault.Transient || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return err
		}
	}
	return nil
}
