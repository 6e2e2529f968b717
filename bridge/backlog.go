package bridge

import (
	"context"
	"log/slog"
	"time"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/bridge/internal/spool"
	"ifacebridge/schema"
)

// A backlog is where the publisher finds what it has to publish, oldest first: the spool
// that the queue runs into, or the queue itself. The one publisher calls it, except for
// Fill, which has a goroutine of its own, and Waiting and Saved, which any goroutine may call.
type backlog interface {
	// Fill moves what is pushed to the queue into the backlog, until the queue is
	// closed and empty, or ctx ends.
	Fill(ctx context.Context, from *queue.Queue)

	// Opening waits for the snapshot with which this run's epoch begins, and
	// returns its links, or [queue.ErrNoSnapshot] when there will be none.
	Opening(ctx context.Context) (event.Opening, error)

	// BeginAnew drops what waits of this run, and has push push snapshots, which are what
	// Opening returns from then on. It comes after Opening, and after the leftovers.
	BeginAnew(push func() error) error

	// Begin notes that an epoch of this run begins there, before anything of it is in NATS.
	Begin(from event.Mark)

	// Next adds the oldest events of this run to the encoder, as many as it has room for.
	// They stay in the backlog until they are confirmed. When there are none it returns
	// how long to wait for one that is held for the folding window; 0 means until
	// Ready. An error is a backlog that cannot be read.
	Next(to *event.Encoder, now time.Time) (wait time.Duration, err error)

	// Confirm removes what Next added: NATS has it, and so much is told by that.
	Confirm(told event.Mark)

	// Settle notes durably that what was confirmed is, before events are published that
	// are in no backlog.
	Settle()

	// GiveBack has the next call of Next begin with these events, which are the last of
	// what it added. Those before them are confirmed, and so much is told by that.
	GiveBack(events []event.Outgoing, told event.Mark)

	// Abandon drops what waits of this run: it is not to be published, by the next start
	// either. It comes after Fill.
	Abandon()

	// Closed reports whether nothing will be added any more.
	Closed() bool

	// Ready returns a channel that holds a token when something may have been added.
	Ready() <-chan struct{}

	// Waiting returns how many events are in it.
	Waiting() int

	// Saved returns how many events of it outlive the process, and whether those are
	// all of them.
	Saved() (events int, all bool)

	leftovers

	Register(to metrics.Registry)
	Close()
}

// leftovers are what earlier runs had not published when they ended. They come before
// anything of this run, those of the oldest run first.
type leftovers interface {
	// Leftover returns how far the oldest run came that has left something, or a mark
	// of no run when there is none.
	Leftover() (event.Mark, error)

	// Resume has Next add the events of that run, which follow from there.
	Resume(from event.Mark)

	// LeftoverOpening returns the snapshot that the events of that run begin with, and
	// whether it is whole.
	LeftoverOpening() (o event.Opening, whole bool, err error)

	// DropThrough removes its events up to one that is stored, if that is there, and
	// returns whether it is. So much is told then.
	DropThrough(stored *schema.Event, told event.Mark) (found bool, err error)

	// Discard removes all events of a run, and returns how many.
	Discard(run string) (n int, err error)
}

var (
	_ backlog = (*spool.Spool)(nil)
	_ backlog = memory{}
)

// openBacklog returns the spool, where cfg wants one, else the queue.
func openBacklog(cfg config.Config, id event.Identity, q *queue.Queue, log *slog.Logger) (backlog, error) {
	if cfg.SpoolDir == "" {
		return memory{Backlog: queue.NewBacklog(id, q)}, nil
	}
	return spool.Open(cfg, id, log)
}

// memory is a backlog that no run leaves anything in: the queue.
type memory struct {
	*queue.Backlog
	noLeftovers
}

func (memory) Fill(context.Context, *queue.Queue) {}
func (memory) Begin(event.Mark)                   {}
func (memory) Settle()                            {}
func (memory) Abandon()                           {}
func (memory) Saved() (events int, all bool)      { return 0, false }
func (memory) Register(metrics.Registry)          {}
func (memory) Close()                             {}

type noLeftovers struct{}

func (noLeftovers) Leftover() (event.Mark, error)                       { return event.Mark{}, nil }
func (noLeftovers) Resume(event.Mark)                                   {}
func (noLeftovers) LeftoverOpening() (event.Opening, bool, error)       { return event.Opening{}, false, nil }
func (noLeftovers) DropThrough(*schema.Event, event.Mark) (bool, error) { return false, nil }
func (noLeftovers) Discard(string) (int, error)                         { return 0, nil }
