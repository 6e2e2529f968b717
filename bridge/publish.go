package bridge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ifacebridge/bridge/internal/delivery"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/loop"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/schema"
)

// What happens to events from here on until NATS has confirmed them, and when that fails,
// is refused, or is not answered in time: keepAt tries again, however often. How long it
// waits is package natsio's to say (retry.go). That an attempt of which nobody knows how
// it ended publishes nothing twice is package delivery's: it looks at what was stored
// before it sends again.

// publishEvents publishes events that are in no backlog.
func (p *publisher) publishEvents(ctx context.Context, events []schema.Event) error {
	for len(events) > 0 {
		p.encoder.Reset()
		for len(events) > 0 && p.encoder.Room() > 0 {
			p.encoder.AddEvent(&events[0])
			events = events[1:]
		}
		if err := p.publish(ctx); err != nil {
			return err
		}
	}
	return nil
}

// publishTaken publishes what the backlog has added to the encoder.
func (p *publisher) publishTaken(ctx context.Context) error {
	if err := p.publish(ctx); err != nil {
		rest := int(p.inFlight.Swap(0))
		p.backlog.GiveBack(p.encoder.Batch[len(p.encoder.Batch)-rest:], p.delivery.Told())
		return err
	}
	p.backlog.Confirm(p.delivery.Told())
	return nil
}

// pause waits out the failure of an attempt that was begun then.
func (p *publisher) pause(ctx context.Context, retry *natsio.Retry, began time.Time, err error) error {
	retry.MoveOn(p.nc, began, err)
	p.progress.Rest()
	defer p.progress.Work()
	return retry.Wait(ctx, p.nc, err, p.unconfirmed())
}

// publish sends the encoder's batch until all of it is confirmed, but for events that are
// larger than NATS takes: each of those is given up alone.
func (p *publisher) publish(ctx context.Context) error {
	rest := p.encoder.Batch
	p.inFlight.Store(int64(len(rest)))
	p.noteOldest(rest)
	defer p.oldest.Store(0)
	refusals := 0 // of the first, since it is too large
	return p.keepAt(ctx, func(ctx context.Context) (progress bool, err error) {
		began := time.Now()
		p.encoder.Fit(rest)
		n, err := p.delivery.Store(ctx, rest)
		p.stored(rest[:n], began)
		rest = rest[n:]
		if n > 0 {
			refusals = 0
		}
		var large *delivery.TooLargeError
		if natsio.IsTooLarge(err) {
			refusals++
		}
		if errors.As(err, &large) || refusals >= maxRefusals {
			p.giveUp(rest[:1], err)
			rest, err, refusals = rest[1:], nil, 0
		}
		p.inFlight.Store(int64(len(rest)))
		p.noteOldest(rest)
		if err == nil && len(rest) > 0 {
			return true, errMore
		}
		return n > 0, err
	})
}

// noteOldest notes how long the first of the events waits that are on their way, if there
// are any. While changes are held to be folded they do not wait for NATS.
func (p *publisher) noteOldest(rest []event.Outgoing) {
	if len(rest) > 0 {
		waited := max(time.Since(rest[0].At)-p.held, 0)
		p.oldest.Store(int64(loop.Uptime() - waited))
	}
}

// maxRefusals is how often a server may refuse an event as too large, though it is within
// the limits that are known, before it is given up. Between two of them the limits are
// looked up again.
const maxRefusals = 4

// giveUp takes note of an event that no message can hold. The state has it all the same, so
// that a consumer that notices the gap and asks gets the true state.
func (p *publisher) giveUp(one []event.Outgoing, cause error) {
	p.metrics.givenUp.Inc()
	// A link of which no event fits may change all the time.
	if repeated, news := p.gaveUp.News("too large", time.Now()); news {
		attrs := []any{"id", fmt.Sprintf("%s-%d", p.encoder.Epoch, one[0].Seq), "link", one[0].Key.String(), "cause", cause,
			"advice", "raise max_payload on the server, and max_msg_size of the stream"}
		p.log.Error("an event is larger than NATS takes, and is given up; its number is missing in the stream",
			append(attrs, repeated...)...)
	}
	p.known(one)
}

// errMore is what an attempt returns that has to go on at once.
var errMore = errors.New("more")

// verifyStory is Verify of the delivery, until it is known.
func (p *publisher) verifyStory(ctx context.Context) error {
	return p.keepAt(ctx, func(ctx context.Context) (bool, error) { return false, p.delivery.Verify(ctx) })
}

// look is Look of the delivery, until it is known.
func (p *publisher) look(ctx context.Context) (found *delivery.Located, err error) {
	err = p.keepAt(ctx, func(ctx context.Context) (bool, error) {
		found, err = p.delivery.Look(ctx)
		return false, err
	})
	return found, err
}

// keepAt attempts something until it succeeds, on the connection that there is at each
// attempt. It returns an error only where no attempt helps: when the story of the epoch
// cannot go on, or ctx ends.
func (p *publisher) keepAt(ctx context.Context, attempt func(context.Context) (progress bool, err error)) error {
	retry := natsio.Retry{
		Log: p.log, Failing: "cannot publish; events are kept until it works again", Over: "publishing again", Last: &p.fault,
	}
	for {
		began := time.Now()
		p.progress.Work() // again: a backlog may take long, one attempt may not
		progress, err := p.attempt(ctx, attempt)
		if progress || err == nil {
			retry.End()
		}
		if err == nil {
			return nil
		} else if errors.Is(err, errMore) {
			continue
		}
		p.metrics.failed(err)
		if delivery.IsJudgment(err) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := p.pause(ctx, &retry, began, err); err != nil {
			return err
		}
	}
}

// attempt makes one attempt on the connection that there is now.
func (p *publisher) attempt(ctx context.Context, do func(context.Context) (bool, error)) (progress bool, err error) {
	if !p.nc.IsConnected() {
		return false, natsio.ErrNotConnected
	}
	connected, stop := natsio.WhileConnected(ctx, p.nc)
	defer stop()
	progress, err = do(connected)
	if err != nil && errors.Is(context.Cause(connected), natsio.ErrDisconnected) {
		err = natsio.ErrDisconnected
	}
	return progress, err
}

// stored takes note of events that NATS has confirmed.
func (p *publisher) stored(events []event.Outgoing, began time.Time) {
	if len(events) == 0 {
		return
	}
	p.metrics.published(events, time.Since(began))
	if p.encoder.Epoch == p.epoch {
		p.confirmed.Add(uint64(len(events)))
	}
	p.known(events)
}

// known applies events, one at least, to what this bridge tells of its links.
func (p *publisher) known(events []event.Outgoing) {
	p.state.Apply(p.encoder.Epoch, events)
	p.follower.Put(events)
	if p.encoder.Epoch != p.epoch {
		return // an earlier run's
	}
	p.inSnapshot = events[len(events)-1].InSnapshot
	if !p.isWhole.Load() && slices.ContainsFunc(events, func(o event.Outgoing) bool { return o.EndsOpening }) {
		p.noteWhole(true)
	}
}

// noteWhole notes whether the epoch's snapshots are confirmed.
func (p *publisher) noteWhole(whole bool) {
	p.isWhole.Store(whole)
	if whole {
		p.firstTold, p.first, p.epochs = true, event.Opening{}, nil
		p.follower.Verify() // not before: what the state does not have yet is not gone
		p.presence.News()
	}
}
