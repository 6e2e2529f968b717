package queue

import (
	"context"
	"sync/atomic"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// A Backlog is a queue as the publisher takes from it, where there is no spool. What was
// taken out of it is in the encoder's batch alone, until it is confirmed. It is for one
// goroutine, except for Waiting, which any goroutine may call.
type Backlog struct {
	id    event.Identity
	queue *Queue
	taken [MaxTake]event.Delta // room for Next
	given []schema.Event       // back

	givenBack atomic.Int64 // how many those are, for Waiting
}

// NewBacklog returns the backlog of a run.
func NewBacklog(id event.Identity, q *Queue) *Backlog {
	return &Backlog{id: id, queue: q}
}

// Opening waits for the first snapshot; see [Queue.FirstSnapshot].
func (b *Backlog) Opening(ctx context.Context) (event.Opening, error) {
	links, at, err := b.queue.FirstSnapshot(ctx)
	return event.Opening{BootID: b.id.BootID, OwnNetns: b.id.OwnNetns, Labels: b.id.Labels, Links: links, At: at}, err
}

// Next adds what was given back and then the oldest changes to the encoder, as many as it has
// room for. When there are none it returns how long to wait for one that is held
// for the folding window; 0 means until Ready. Its error is nil.
func (b *Backlog) Next(to *event.Encoder, now time.Time) (wait time.Duration, err error) {
	for i := range b.given {
		to.AddEvent(&b.given[i])
	}
	b.given = nil
	b.givenBack.Store(0)
	for to.Room() > 0 {
		n, wait := b.queue.Take(b.taken[:min(MaxTake, to.Room())], now)
		for i := range b.taken[:n] {
			to.AddDelta(&b.taken[i])
		}
		if n < MaxTake {
			return wait, nil
		}
		event.Yield(len(to.Batch) - 1)
	}
	return 0, nil
}

// GiveBack has Next begin with these events, which the caller may go on to use.
func (b *Backlog) GiveBack(events []event.Outgoing, _ event.Mark) {
	for i := range events {
		b.given = append(b.given, *event.Decode(events[i].Data))
	}
	b.givenBack.Store(int64(len(b.given)))
}

// BeginAnew drops what waits, and has push do the rest; see [Queue.BeginAnew].
func (b *Backlog) BeginAnew(push func() error) error {
	b.given = nil
	b.givenBack.Store(0)
	return push()
}

// Confirm does nothing: what was taken is not in the queue any more.
func (b *Backlog) Confirm(event.Mark) {}

// Closed reports whether nothing will be added any more.
func (b *Backlog) Closed() bool { return b.queue.IsClosed() }

// Ready is [Queue.Ready].
func (b *Backlog) Ready() <-chan struct{} { return b.queue.Ready() }

// Waiting returns how many events wait: in the queue, or given back.
func (b *Backlog) Waiting() int {
	n, _, _ := b.queue.Size()
	return n + int(b.givenBack.Load())
}
