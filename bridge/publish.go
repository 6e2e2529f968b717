package bridge

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/schema"
)

// A delivery is the way in which events reach NATS. The one publisher calls it.
type delivery interface {
	// begin says that events of this epoch follow. Wrote is whether some of it are
	// in NATS already.
	begin(epoch string, wrote bool)

	// store sends events in order and waits until NATS has confirmed them; of no
	// events, it only sees to it that it could. It returns how many of them, from
	// the first, are confirmed; the others are to be sent again, whether they
	// arrived or not. It ends with the context.
	store(ctx context.Context, batch []outgoing) (int, error)

	// last returns the event of this host that NATS stored last, as store saw it
	// when it looked; nil when there is none, or nobody can know.
	last() *schema.Event
}

// A publisher moves events from the backlog to NATS. Each gets its place in the
// epoch as it leaves, so that seq has no gaps whatever was folded.
type publisher struct {
	id       identity
	encoder  *encoder
	backlog  backlog
	spool    *spool // nil: none is kept
	delivery delivery
	state    *state
	bucket   *bucket // nil: none is kept
	query    *query
	nc       *nats.Conn
	verify   time.Duration // look at what is stored this often; 0: never
	log      *slog.Logger
	metrics  *publishMetrics
	progress progress

	confirmed  atomic.Uint64 // events of this run
	inFlight   atomic.Int64  // events
	oldest     atomic.Int64  // when the first of those was sent first, in Unix nanoseconds; 0: none is
	snapshotOK atomic.Bool   // this run's snapshot is confirmed

	fault atomic.Pointer[natsio.Fault] // of the last attempt; nil: it did not fail
}

// unconfirmed returns how many events NATS has not confirmed yet.
func (p *publisher) unconfirmed() int { return p.backlog.waiting() + int(p.inFlight.Load()) }

// run publishes until the backlog is closed and empty, or ctx ends. It goes on
// through every failure but being replaced ([FencedError]). The bucket follows
// behind.
func (p *publisher) run(ctx context.Context) error {
	p.progress.work()
	defer p.progress.rest()
	if p.spool != nil {
		if err := p.publishLeftovers(ctx); err != nil {
			return err
		}
	}
	p.begin(p.id.epoch, 0)
	if err := p.publish(ctx); err != nil { // nothing yet: it could
		return err
	}
	opening, err := p.backlog.opening(ctx)
	if errors.Is(err, errNoSnapshot) {
		return nil
	} else if err != nil {
		return err
	}
	if len(opening.links) == 0 {
		p.snapshotOK.Store(true)
	}
	if p.bucket == nil {
		return p.publishBacklog(ctx)
	}
	if err := p.publishVanished(ctx, opening); err != nil {
		return err
	}
	done := make(chan struct{})
	following, stop := context.WithCancel(ctx)
	defer stop()
	var follower sync.WaitGroup
	follower.Go(func() { p.bucket.run(following, done) })
	err = p.publishBacklog(ctx)
	close(done)
	if err != nil {
		stop() // another bridge's state must not be overwritten
	}
	follower.Wait()
	if err == nil && p.bucket.behind() {
		p.log.Warn("stopped before the bucket held every link's state; the next start puts it right", "bucket", p.bucket.cfg.Bucket)
	}
	return err
}

// begin makes the next event the one after seq of an epoch.
func (p *publisher) begin(epoch string, seq uint64) {
	p.encoder.reset()
	p.encoder.begin(epoch, seq)
	p.delivery.begin(epoch, seq > 0)
}

// publishLeftovers publishes what earlier runs spooled and did not publish, each
// epoch as it was.
func (p *publisher) publishLeftovers(ctx context.Context) error {
	for {
		left, err := p.spool.leftover()
		if err != nil || left.Epoch == "" {
			return err
		}
		p.begin(left.Epoch, 0)
		if err := p.publish(ctx); err != nil { // nothing: it looks at what is stored
			return err
		}
		if err := p.resume(ctx, left); err != nil {
			return err
		}
	}
}

// resume publishes the events of the oldest epoch in the spool behind what is
// stored of it.
func (p *publisher) resume(ctx context.Context, left mark) error {
	last := p.delivery.last()
	switch {
	case last != nil && last.Epoch == left.Epoch:
		if err := p.spool.dropThrough(last); err != nil {
			return err
		}
		left.Seq = last.Seq
	case last != nil && left.Seq > 0: // others have written behind it
		n, err := p.spool.discard(left.Epoch)
		p.log.Error("another bridge has written as this host since; dropped the events that an earlier run had not published",
			"events", n, "their_epoch", left.Epoch, "epoch_now", last.Epoch)
		return err
	}
	p.begin(left.Epoch, left.Seq)
	opening, whole, err := p.spool.leftoverOpening()
	if err != nil {
		return err
	}
	if whole && p.bucket != nil {
		if err := p.publishVanished(ctx, opening); err != nil {
			return err
		}
	}
	published := 0
	for {
		p.encoder.reset()
		if _, err := p.spool.next(p.encoder, time.Now()); err != nil {
			return err
		}
		if len(p.encoder.batch) == 0 {
			p.log.Info("published what an earlier run had left", "events", published, "epoch", left.Epoch)
			return nil
		}
		published += len(p.encoder.batch)
		if err := p.publish(ctx); err != nil {
			return err
		}
		p.spool.confirm()
	}
}

// Under load, when an attempt took manyEvents or more, the next waits for gather:
// to ask the server for a confirmation costs as much as many events.
const gather = 5 * time.Millisecond

// publishBacklog publishes what the backlog holds until it is closed and empty.
func (p *publisher) publishBacklog(ctx context.Context) error {
	verifyAt := time.Now().Add(p.verify)
	for {
		p.encoder.reset()
		closed := p.backlog.closed() // before next: nothing comes after it
		wait, err := p.backlog.next(p.encoder, time.Now())
		if err != nil {
			return err
		}
		if len(p.encoder.batch) > 0 {
			if err := p.publish(ctx); err != nil {
				return err
			}
			p.backlog.confirm()
			if n := len(p.encoder.batch); n >= manyEvents && n < maxBatch && !closed {
				time.Sleep(gather)
			}
			continue
		}
		if closed {
			return nil
		}
		if p.verify > 0 && (wait == 0 || time.Until(verifyAt) < wait) {
			wait = max(time.Until(verifyAt), time.Millisecond)
		}
		p.progress.rest()
		select {
		case <-p.backlog.ready():
		case <-after(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		p.progress.work()
		if p.verify > 0 && !time.Now().Before(verifyAt) {
			if err := p.verifyStored(ctx); err != nil {
				return err
			}
			verifyAt = time.Now().Add(p.verify)
		}
	}
}

// verifyStored finds out on a quiet host, too, that another bridge has taken its
// name, that the stream is gone, or that somebody changed the bucket.
func (p *publisher) verifyStored(ctx context.Context) error {
	if err := p.publish(ctx); err != nil {
		return err
	}
	if p.bucket != nil {
		p.bucket.verify()
	}
	p.query.serve()
	return nil
}

// isWhole reports whether the state is this run's, with all of its snapshot.
func (p *publisher) isWhole() bool { return p.snapshotOK.Load() }

// Before an epoch begins without what the bucket holds, it is asked for so often,
// or so long when the failure is one that passes, such as an election.
const (
	bucketTries    = 3
	bucketPatience = 30 * time.Second
)

// publishVanished publishes, ahead of an epoch's snapshot, a del for each link
// that went while no bridge was running.
func (p *publisher) publishVanished(ctx context.Context, o opening) error {
	retry := natsio.Retry{
		Log: p.log, Failing: "cannot read from the bucket what was published before; events wait for it", Over: "read the bucket",
		Last: &p.fault,
	}
	var err error
	connectedFor := time.Duration(0)
	for tries := 0; tries < bucketTries && connectedFor < bucketPatience; {
		var gone []schema.Event
		began := time.Now()
		gone, err = p.bucket.vanished(ctx, o)
		if err == nil {
			retry.End()
			return p.publishGone(ctx, gone)
		}
		p.metrics.failed(err)
		connected := p.nc.IsConnected()
		if connected && !natsio.Classify(err).Transient {
			tries++
		}
		if err := p.pause(ctx, &retry, began, err); err != nil {
			return err
		}
		if connected {
			connectedFor += time.Since(began)
		}
	}
	p.log.Error("cannot read what was published before; links that went while the bridge was down get no del, the snapshot shows what is there", "cause", err)
	return nil
}

func (p *publisher) publishGone(ctx context.Context, gone []schema.Event) error {
	for some := range slices.Chunk(gone, maxBatch) {
		p.encoder.reset()
		for i := range some {
			p.encoder.addEvent(&some[i])
		}
		if err := p.publish(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pause waits out the failure of an attempt that was begun then.
func (p *publisher) pause(ctx context.Context, retry *natsio.Retry, began time.Time, err error) error {
	retry.MoveOn(p.nc, began, err)
	p.progress.rest()
	defer p.progress.work()
	return retry.Wait(ctx, p.nc, err, p.unconfirmed())
}

// after is time.After, but never for no time at all.
func after(d time.Duration) <-chan time.Time {
	if d <= 0 {
		return nil
	}
	return time.After(d)
}

// publish sends the encoder's batch until all of it is confirmed.
func (p *publisher) publish(ctx context.Context) error {
	rest := p.encoder.batch
	p.inFlight.Store(int64(len(rest)))
	if len(rest) > 0 {
		p.oldest.Store(time.Now().UnixNano())
		defer p.oldest.Store(0)
	}
	retry := natsio.Retry{
		Log: p.log, Failing: "cannot publish; events are kept until it works again", Over: "publishing again", Last: &p.fault,
	}
	for {
		began := time.Now()
		p.progress.work() // again: a backlog may take long, one attempt may not
		n, err := p.store(ctx, rest)
		p.stored(rest[:n], began)
		rest = rest[n:]
		p.inFlight.Store(int64(len(rest)))
		if n > 0 || err == nil {
			retry.End()
		}
		if err == nil && len(rest) == 0 {
			return nil
		} else if err == nil {
			continue
		}
		p.metrics.failed(err)
		var fenced *FencedError
		if errors.As(err, &fenced) || ctx.Err() != nil {
			return err
		}
		if err := p.pause(ctx, &retry, began, err); err != nil {
			return err
		}
	}
}

// stored takes note of events that NATS has confirmed.
func (p *publisher) stored(events []outgoing, began time.Time) {
	if len(events) == 0 {
		return
	}
	p.state.apply(p.encoder.epoch, events)
	if p.bucket != nil {
		p.bucket.put(events)
	}
	p.metrics.published(events, time.Since(began))
	if p.encoder.epoch == p.id.epoch {
		p.confirmed.Add(uint64(len(events)))
		if !p.snapshotOK.Load() && slices.ContainsFunc(events, func(o outgoing) bool { return o.endsOpening }) {
			p.snapshotOK.Store(true)
		}
	}
}

// store has the delivery store a batch on the connection that there is now.
func (p *publisher) store(ctx context.Context, batch []outgoing) (int, error) {
	if !p.nc.IsConnected() {
		return 0, natsio.ErrNotConnected
	}
	p.encoder.fit(batch)
	connected, stop := natsio.WhileConnected(ctx, p.nc)
	defer stop()
	n, err := p.delivery.store(connected, batch)
	if err != nil && errors.Is(context.Cause(connected), natsio.ErrDisconnected) {
		err = natsio.ErrDisconnected
	}
	return n, err
}
