package bridge

import (
	"context"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/bridge/internal/spool"
)

// A backlog is where the publisher finds what it has to publish, oldest first:
// the queue, or the spool that the queue runs into. The one publisher calls it.
type backlog interface {
	// Opening waits for the snapshot with which this run's epoch begins, and
	// returns its links, or [queue.ErrNoSnapshot] when there will be none.
	Opening(ctx context.Context) (event.Opening, error)

	// Next adds the oldest events of this run to the encoder, up to [event.MaxBatch]. They
	// stay in the backlog until they are confirmed. When there are none it returns
	// how long to wait for one that is held for the folding window; 0 means until
	// Ready. An error is a backlog that cannot be read.
	Next(to *event.Encoder, now time.Time) (wait time.Duration, err error)

	// Confirm removes what Next returned: NATS has it, and so much is told by that.
	Confirm(told event.Mark)

	// GiveBack has the next call of Next begin with these events, which are the last of
	// what it returned. Those before them are confirmed.
	GiveBack(events []event.Outgoing)

	// Closed reports whether nothing will be added any more.
	Closed() bool

	// Ready receives a token when something may have been added.
	Ready() <-chan struct{}

	// Waiting returns how many events are in it.
	Waiting() int
}

var (
	_ backlog = (*queue.Backlog)(nil)
	_ backlog = (*spool.Spool)(nil)
)
