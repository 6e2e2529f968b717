package bridge

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/internal/delivery"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/loop"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/bridge/internal/state"
	"ifacebridge/schema"
)

// A publisher moves events from the backlog to NATS. Each gets its place in the
// epoch as it leaves, so that seq has no gaps whatever was folded.
type publisher struct {
	id       event.Identity
	epoch    string // the current one, or the next
	namedOn  string // the connection on which that was named; "": it has ended
	encoder  *event.Encoder
	backlog  backlog
	delivery delivery.Delivery
	state    *state.State
	follower follower
	presence presence
	query    *state.Query
	nc       *nats.Conn
	verify   time.Duration // look at what is stored this often; 0: never
	held     time.Duration // how long changes may be held to be folded
	log      *slog.Logger
	metrics  *publishMetrics
	progress loop.Progress

	confirmed atomic.Uint64     // events of this run
	inFlight  atomic.Int64      // events
	oldest    atomic.Int64      // since when the first of those waits, by loop.Uptime; 0: none is
	isWhole   atomic.Bool       // the state is this epoch's, with all of its snapshots confirmed
	opened    bool              // the backlog's opening was looked at
	beginAnew func() error      // has the kernel's reader begin anew; see track.Namespaces
	reason    event.EpochReason // of the first epoch

	// Until the run's first snapshots are all confirmed, by whatever epoch: what they have,
	// and the epochs that have told of them.
	firstTold bool
	first     event.Opening
	epochs    []string

	renewal    renewal // of the snapshot
	inSnapshot bool    // the last event that was confirmed, or given up, is of one, and not its last

	gaveUp natsio.Throttle // of the log of events that were given up

	owner    rival       // of the host's name, while that is another bridge
	retiring func() bool // whether, when all is published, the host's links are to go

	fault atomic.Pointer[natsio.Fault] // of the last attempt; nil: it did not fail
}

// unconfirmed returns how many events NATS has not confirmed yet.
func (p *publisher) unconfirmed() int { return p.backlog.Waiting() + int(p.inFlight.Load()) }

// unconfirmedFor returns how long the oldest event waits that was sent and is not confirmed,
// since it was read from the kernel.
func (p *publisher) unconfirmedFor() time.Duration {
	if oldest := p.oldest.Load(); oldest != 0 {
		return loop.Uptime() - time.Duration(oldest)
	}
	return 0
}

// lacking returns how many links the bucket lacks, where it is not just about to get them.
func (p *publisher) lacking() int {
	if _, why := p.follower.Fault(); why != nil || p.follower.Lacks() > 0 {
		return p.follower.Behind()
	}
	return 0
}

// run publishes until the backlog is closed and empty, or ctx ends. It goes on
// through every failure: when the story of an epoch cannot go on, it begins another, and
// when another bridge has taken the host's name, it waits until that is gone. It returns
// errStandingBy when the end comes before that.
func (p *publisher) run(ctx context.Context) error {
	p.progress.Work()
	defer p.progress.Rest()
	for reason := p.reason; ; {
		err := p.tell(ctx, reason)
		var broken *delivery.BrokenStoryError
		var replaced *delivery.ReplacedError
		switch {
		case errors.Is(err, errStandingBy), ctx.Err() != nil && p.owner.standing.Load() != nil:
			return errStandingBy
		case errors.As(err, &broken):
			reason = broken.Reason
			p.log.Warn("beginning a new epoch: this one cannot go on",
				"cause", broken.What, "reason", reason, "epoch", p.epoch)
		case errors.As(err, &replaced):
			reason = event.TookOver
			p.owner.replacedBy(replaced)
			p.query.Stop()
			p.forget()
		default:
			return err
		}
		p.namedOn = ""
	}
}

// name names the epoch that is to begin, if that was not done on the connection that there is,
// and reports whether it has. A name may wait for long until it is used, and a machine's memory be
// saved meanwhile: each that goes on from there has to connect again.
func (p *publisher) name() (anew bool) {
	on := natsio.ConnectionName(p.nc)
	if on == p.namedOn {
		return false
	}
	waited := p.namedOn != ""
	p.epoch, p.namedOn = event.NewEpoch(on), on
	if waited {
		p.log.Info("the epoch has not begun, and has another name on this connection", "epoch", p.epoch)
	}
	return true
}

// tell publishes one epoch: a del for what vanished, a snapshot, and everything after
// it. What is stored is looked at first, and the bucket follows behind.
func (p *publisher) tell(ctx context.Context, reason event.EpochReason) error {
	if err := p.own(ctx); err != nil {
		return err
	}
	if !p.opened {
		if err := p.publishLeftovers(ctx); err != nil {
			return err
		}
	}
	if p.owner.stoodBy {
		if err := p.startOver(ctx); errors.Is(err, queue.ErrNoSnapshot) {
			return errStandingBy
		} else if err != nil {
			return err
		}
	}
	if err := p.begin(ctx); err != nil {
		return err
	}
	p.metrics.epochs.WithLabelValues(string(reason)).Inc()
	opening, known, err := p.opening(ctx)
	if errors.Is(err, queue.ErrNoSnapshot) {
		return nil
	} else if err != nil {
		return err
	}
	p.follower.LookAgain()
	p.presence.LookAgain()
	if err := p.publishVanished(ctx, opening); err != nil {
		return err
	}
	done := make(chan struct{})
	following, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	running.Go(func() { p.follower.Run(following, done) })
	epoch := p.epoch
	running.Go(func() { p.presence.Run(following, epoch, done) })
	err = p.publishAll(ctx, known)
	close(done)
	if err != nil {
		stop() // another bridge's state must not be overwritten
	}
	running.Wait()
	if err == nil {
		p.follower.Finish()
		p.presence.Leave(ctx, epoch, p.retiring())
	}
	return err
}

// forget drops what the bridge has told: what becomes of those links is told by another now.
func (p *publisher) forget() {
	p.state.Reset()
	p.follower.Forget()
	p.noteWhole(false)
	p.inSnapshot, p.firstTold, p.epochs = false, false, nil
}

// startOver has the next epoch begin with the links that are there now, after the bridge has
// stood by. What waits is the past: it was the other bridge's to publish.
func (p *publisher) startOver(ctx context.Context) error {
	if !p.opened {
		if _, err := p.backlog.Opening(ctx); err != nil { // the links are to be read first
			return err
		}
	}
	if err := p.backlog.BeginAnew(p.beginAnew); err != nil {
		return err
	}
	p.opened, p.owner.stoodBy = false, false
	return nil
}

// begin begins an epoch, behind what is stored, on the connection on which it was named: what
// another stores there from then on is noticed.
func (p *publisher) begin(ctx context.Context) error {
	for {
		if p.name() {
			p.query.Serve(p.epoch)
		}
		p.beginAt(p.epoch, event.Mark{})
		if err := p.verifyStory(ctx); err != nil {
			return err
		}
		if natsio.ConnectionName(p.nc) == p.namedOn {
			break
		}
	}
	p.backlog.Begin(p.located(event.Mark{Epoch: p.epoch}))
	return nil
}

// located adds to a mark where in the stream that is, as the delivery has found it.
func (p *publisher) located(m event.Mark) event.Mark {
	told := p.delivery.Told()
	m.StreamSeq, m.Created = told.StreamSeq, told.Created
	return m
}

// beginAt makes the next event the one that follows what is told of an epoch.
func (p *publisher) beginAt(epoch string, told event.Mark) {
	p.encoder.Reset()
	p.encoder.Begin(epoch, told.Seq)
	p.delivery.Begin(epoch, told)
}

// opening returns what an epoch begins with. The first begins with the backlog's
// snapshot. A later one tells again what consumers were told in the one before: those
// events, which come before what the backlog has.
func (p *publisher) opening(ctx context.Context) (o event.Opening, known []schema.Event, err error) {
	switch {
	case !p.opened:
		p.progress.Rest() // the kernel may not be readable for long
		p.first, err = p.backlog.Opening(ctx)
		if p.progress.Work(); err != nil {
			return o, nil, err
		}
		p.opened, o = true, p.first
	case !p.firstTold: // the rest of it is in the backlog
		known, o = p.state.RetellPart(p.epochs), p.first
	default:
		known = p.state.Retell(time.Now())
		o = event.OpeningOf(known, p.id)
	}
	p.epochs = append(p.epochs, p.epoch)
	p.noteWhole(len(o.Links) == 0)
	return o, known, err
}

// publishAll publishes an epoch's beginning, and then what the backlog holds.
func (p *publisher) publishAll(ctx context.Context, known []schema.Event) error {
	p.sign(known)
	p.renewal.begun()
	if err := p.publishEvents(ctx, known); err != nil {
		return err
	}
	if len(known) > 0 {
		p.log.Info("the new epoch has told again what was told before", "epoch", p.epoch, "links", len(known))
	}
	if err := p.publishBacklog(ctx); err != nil || !p.retiring() {
		return err
	}
	return p.publishEvents(ctx, p.state.Retire(p.id, time.Now()))
}

// publishLeftovers publishes what earlier runs spooled and did not publish, each
// epoch as it was.
func (p *publisher) publishLeftovers(ctx context.Context) error {
	for {
		left, err := p.backlog.Leftover()
		if err != nil || left.Run == "" {
			return err
		}
		found, err := p.look(ctx)
		if err != nil {
			return err
		}
		if err := p.resume(ctx, left, found); err != nil {
			return err
		}
	}
}

// resume publishes the events of the oldest run in the spool behind what is stored of
// it. It returns before that when there is another connection, and all is to be looked at again.
func (p *publisher) resume(ctx context.Context, left event.Mark, found *delivery.Located) error {
	on := natsio.ConnectionName(p.nc)
	left, drop, err := p.judgeLeftover(left, found)
	if err != nil || drop {
		return err
	}
	p.beginAt(left.Epoch, left)
	if err := p.verifyStory(ctx); err != nil {
		return err
	}
	if natsio.ConnectionName(p.nc) != on { // see name
		return nil
	}
	p.backlog.Resume(p.located(left))
	opening, whole, err := p.backlog.LeftoverOpening()
	if err != nil {
		return err
	}
	if whole {
		if err := p.publishVanished(ctx, opening); err != nil {
			return err
		}
	}
	published := 0
	for {
		p.encoder.Reset()
		if _, err := p.backlog.Next(p.encoder, time.Now()); err != nil {
			return err
		}
		if len(p.encoder.Batch) == 0 {
			p.log.Info("published what an earlier run had left", "events", published, "epoch", left.Epoch)
			return nil
		}
		published += len(p.encoder.Batch)
		if err := p.publishTaken(ctx); err != nil {
			return err
		}
	}
}

// judgeLeftover decides by what was found stored where the leftovers of a run go on: in
// their epoch, behind what is stored of it; in a new one, when that is not there any
// more, is not theirs alone, or has not begun; or nowhere, when another bridge has written since.
func (p *publisher) judgeLeftover(left event.Mark, found *delivery.Located) (from event.Mark, drop bool, err error) {
	if found == nil {
		return left, false, nil
	}
	e := found.Event
	anew := !left.Created.IsZero() && !found.Created.Equal(left.Created)
	ours := e != nil && e.Epoch == left.Epoch && !anew
	noted := ours && e.Seq == left.Seq
	if e != nil && !anew && !noted && (ours && e.Seq > left.Seq || left.Seq == 0) { // a full disk notes no name
		told := event.Mark{
			Run: left.Run, Epoch: e.Epoch, Seq: e.Seq, StreamSeq: found.StreamSeq, Created: found.Created,
		}
		if there, err := p.backlog.DropThrough(e, told); there || err != nil {
			return told, false, err
		}
	}
	since := found.StreamSeq > left.StreamSeq && !anew
	located := left.StreamSeq > 0 || !left.Created.IsZero() // else what is older looks as if it came since
	switch {
	case ours && e.Seq >= left.Seq:
		if !noted && e.Cause == schema.Notification { // what is told again, or had vanished, is in no spool
			return p.leftoverAnew(left, event.Cloned, "the stream has events of that epoch that are not in the spool: "+
				"the machine was cloned, or put back to a snapshot"), false, nil
		}
		left.Seq, left.StreamSeq = e.Seq, found.StreamSeq
		return left, false, nil
	case e != nil && !ours && since && located:
		n, err := p.backlog.Discard(left.Run)
		p.log.Error("another bridge has written as this host since; dropped the events that an earlier run had not published",
			"events", n, "their_epoch", left.Epoch, "epoch_now", e.Epoch)
		return left, true, err
	case left.Seq == 0:
		return p.leftoverNamed(left), false, nil
	case e == nil && since:
		return p.leftoverAnew(left, event.Damaged,
			"the last message of this host in the stream is no event of a bridge"), false, nil
	}
	return p.leftoverAnew(left, event.BrokerLost, "what was confirmed of that epoch is not in the stream any more: "+
		"it was restored, purged, or made anew"), false, nil
}

// leftoverAnew has the leftovers of a run begin a new epoch.
func (p *publisher) leftoverAnew(left event.Mark, reason event.EpochReason, cause string) event.Mark {
	p.log.Warn("beginning a new epoch for what an earlier run had left: its own cannot go on",
		"cause", cause, "reason", reason, "their_epoch", left.Epoch, "seq", left.Seq)
	p.metrics.epochs.WithLabelValues(string(reason)).Inc()
	return p.leftoverNamed(left)
}

// leftoverNamed names the epoch in which the leftovers of a run begin, as name does.
func (p *publisher) leftoverNamed(left event.Mark) event.Mark {
	return event.Mark{Run: left.Run, Epoch: event.NewEpoch(natsio.ConnectionName(p.nc))}
}

// gather is how long the next attempt waits under load, when the last one took
// [delivery.ManyEvents] or more: to ask the server for a confirmation costs as much as many
// events.
const gather = 5 * time.Millisecond

// publishBacklog publishes what the backlog holds until it is closed and empty.
func (p *publisher) publishBacklog(ctx context.Context) error {
	connected := p.nc.StatusChanged(nats.CONNECTED)
	defer p.nc.RemoveStatusListener(connected)
	verifyAt := time.Now().Add(p.verify)
	for {
		closed := p.backlog.Closed() // before next: nothing comes after it
		renewAt := p.renewAt()
		if !renewAt.IsZero() && !time.Now().Before(renewAt) && !closed {
			if err := p.renew(ctx); err != nil {
				return err
			}
			continue
		}
		p.encoder.Reset()
		wait, err := p.backlog.Next(p.encoder, time.Now())
		if err != nil {
			return err
		}
		if len(p.encoder.Batch) > 0 {
			if err := p.publishTaken(ctx); err != nil {
				return err
			}
			if n := len(p.encoder.Batch); n >= delivery.ManyEvents && p.encoder.Room() > 0 && !closed {
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
		if !renewAt.IsZero() && (wait == 0 || time.Until(renewAt) < wait) {
			wait = max(time.Until(renewAt), time.Millisecond)
		}
		verify := false
		p.progress.Rest()
		select {
		case <-p.backlog.Ready():
		case <-p.query.AskedForSnapshot():
		case <-loop.After(wait):
		case <-connected: // to a server that may be another, or may have lost what it had
			verify = true
		case <-ctx.Done():
			return ctx.Err()
		}
		p.progress.Work()
		if verify || p.verify > 0 && !time.Now().Before(verifyAt) {
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
	if err := p.verifyStory(ctx); err != nil {
		return err
	}
	if p.isWhole.Load() { // else the bucket is compared when it is
		p.follower.Verify()
	}
	p.query.Serve(p.epoch)
	return nil
}

// Before an epoch begins without what the bucket holds, it is asked for so often,
// or so long when the failure is one that passes, such as an election.
const (
	bucketTries    = 3
	bucketPatience = 30 * time.Second
)

// publishVanished publishes, ahead of an epoch's snapshot, a del for each link
// that went while no bridge was running: of those that the bucket has, and of those that
// leftovers told of, which the bucket may not have taken, or none is there.
func (p *publisher) publishVanished(ctx context.Context, o event.Opening) error {
	if err := p.publishVanishedOfBucket(ctx, o); err != nil {
		return err
	}
	return p.publishEvents(ctx, p.state.Vanished(o, p.epochs))
}

func (p *publisher) publishVanishedOfBucket(ctx context.Context, o event.Opening) error {
	retry := natsio.Retry{
		Log: p.log, Failing: "cannot read from the bucket what was published before; events wait for it",
		Over: "read the bucket", Last: &p.fault,
	}
	var err error
	connectedFor := time.Duration(0)
	for tries := 0; tries < bucketTries && connectedFor < bucketPatience; {
		var gone []schema.Event
		began := time.Now()
		gone, err = p.follower.Vanished(ctx, o)
		if err == nil {
			retry.End()
			return p.publishEvents(ctx, gone)
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
	p.log.Error("cannot read what was published before; links that went while the bridge was down get no del, "+
		"the snapshot shows what is there", "cause", err)
	return nil
}
