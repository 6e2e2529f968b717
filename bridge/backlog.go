package bridge

import (
	"context"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// A backlog is where the publisher finds what it has to publish, oldest first:
// the queue, or the spool that the queue runs into. The one publisher calls it.
type backlog interface {
	// opening waits for the snapshot with which this run's epoch begins, and
	// returns its links, or errNoSnapshot when there will be none.
	opening(ctx context.Context) (event.Opening, error)

	// next adds the oldest events of this run to the encoder, up to maxBatch. They
	// stay in the backlog until they are confirmed. When there are none it returns
	// how long to wait for one that is held for the folding window; 0 means until
	// ready. An error is a backlog that cannot be read.
	next(to *event.Encoder, now time.Time) (wait time.Duration, err error)

	// confirm removes what next returned: NATS has it, and so much is told by that.
	confirm(told event.Mark)

	// giveBack has the next call of next begin with these events, which are the last of
	// what it returned. Those before them are confirmed.
	giveBack(events []event.Outgoing)

	// closed reports whether nothing will be added any more.
	closed() bool

	// ready receives a token when something may have been added.
	ready() <-chan struct{}

	// waiting returns how many events are in it.
	waiting() int
}

// direct is a backlog without a spool: the queue. What was taken out of it is in
// the encoder's batch alone, until it is confirmed.
type direct struct {
	id    event.Identity
	queue *queue
	taken [maxTake]event.Delta // room for next
	given []schema.Event       // back
}

var _ backlog = (*direct)(nil)

func newDirect(id event.Identity, q *queue) *direct {
	return &direct{id: id, queue: q}
}

func (d *direct) opening(ctx context.Context) (event.Opening, error) {
	links, at, err := d.queue.firstSnapshot(ctx)
	return event.Opening{BootID: d.id.BootID, OwnNetns: d.id.OwnNetns, Links: links, At: at}, err
}

func (d *direct) next(to *event.Encoder, now time.Time) (wait time.Duration, err error) {
	for i := range d.given {
		to.AddEvent(&d.given[i])
	}
	d.given = nil
	for len(to.Batch) < event.MaxBatch {
		n, wait := d.queue.take(d.taken[:min(maxTake, event.MaxBatch-len(to.Batch))], now)
		for i := range d.taken[:n] {
			to.AddDelta(&d.taken[i])
		}
		if n < maxTake {
			return wait, nil
		}
		event.Yield(len(to.Batch) - 1)
	}
	return 0, nil
}

func (d *direct) giveBack(events []event.Outgoing) {
	for i := range events {
		d.given = append(d.given, *event.Decode(events[i].Data))
	}
}

func (d *direct) confirm(event.Mark)     {}
func (d *direct) closed() bool           { return d.queue.isClosed() }
func (d *direct) ready() <-chan struct{} { return d.queue.ready }

func (d *direct) waiting() int {
	n, _, _ := d.queue.size()
	return n + len(d.given)
}
