package bridge

import (
	"context"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/bridge/internal/state"
	"ifacebridge/schema"
)

// A follower holds the links as they were last published, for the next run and for whoever
// does not read the stream: the bucket. It follows behind, and holds up nothing.
type follower interface {
	// LookAgain has it looked for, and made, at its next use. It is for when Run is not
	// under way.
	LookAgain()

	// Forget drops what it was to hold, since the state was reset. It is for when Run is not
	// under way.
	Forget()

	// Vanished returns, as the dels to publish, the links that it holds and that are not
	// among those that an epoch begins with.
	Vanished(ctx context.Context, o event.Opening) ([]schema.Event, error)

	// Put notes that events were stored, and applied to the state. It does not block.
	Put(events []event.Outgoing)

	// Verify has it compared with the state. It does not block.
	Verify()

	// Run follows Put until done is closed and it holds everything, or ctx ends.
	Run(ctx context.Context, done <-chan struct{})

	// Behind returns how many links it does not hold as they are, and Lacks how many of those it
	// will not. They may be called from any goroutine, as may Fault.
	Behind() int
	Lacks() int

	// Fault returns for how long nothing could be put into it, and why; nil when that is not so.
	Fault() (lasting time.Duration, why *natsio.Fault)

	// Finish logs, after Run, whether it does not hold everything.
	Finish()
}

// A presence says, beside the events, that the host is there: in the bucket of hosts.
type presence interface {
	// LookAgain has it looked for, and made, at its next use. It is for when Run is not
	// under way.
	LookAgain()

	// News has it said at once, since there is more to say. It does not block.
	News()

	// Run says it again and again, for an epoch, until done is closed or ctx ends.
	Run(ctx context.Context, epoch string, done <-chan struct{})

	// Leave says, after Run, that the bridge stops; or that the host is retired, and will
	// not come back under this name. It blocks for as long as NATS may take to answer.
	Leave(ctx context.Context, epoch string, retired bool)
}

var (
	_ follower = (*state.Bucket)(nil)
	_ follower = noFollower{}
	_ presence = (*state.Presence)(nil)
	_ presence = noPresence{}
)

// noFollower holds nothing: with core delivery there is no bucket.
type noFollower struct{}

func (noFollower) LookAgain()                                                      {}
func (noFollower) Vanished(context.Context, event.Opening) ([]schema.Event, error) { return nil, nil }
func (noFollower) Forget()                                                         {}
func (noFollower) Put([]event.Outgoing)                                            {}
func (noFollower) Verify()                                                         {}
func (noFollower) Run(context.Context, <-chan struct{})                            {}
func (noFollower) Behind() int                                                     { return 0 }
func (noFollower) Lacks() int                                                      { return 0 }
func (noFollower) Fault() (time.Duration, *natsio.Fault)                           { return 0, nil }
func (noFollower) Finish()                                                         {}

// noPresence says nothing: with core delivery there is no bucket, or nobody wants it.
type noPresence struct{}

func (noPresence) LookAgain()                                   {}
func (noPresence) News()                                        {}
func (noPresence) Run(context.Context, string, <-chan struct{}) {}
func (noPresence) Leave(context.Context, string, bool)          {}
