package event

import (
	"runtime"
	"time"

	"ifacebridge/schema"
)

// MaxBatch is how many events are on their way at once: what a server takes as
// one atomic batch unless it is told otherwise (nats-server 2.15).
const MaxBatch = 1000

// MaxBatchBytes is how many bytes those are, but for the last few of them: a link's names and
// settings may take 64 KiB.
const MaxBatchBytes = 4 << 20

// yieldEvery is after how many events the publisher lets the kernel's reader run, on
// the one CPU that they may have: a millisecond or so.
const yieldEvery = 512

// Yield is called with each event's place in a batch while that is made or sent, and lets
// other goroutines run every now and then.
func Yield(i int) {
	if i%yieldEvery == yieldEvery-1 {
		runtime.Gosched()
	}
}

// An Outgoing is an event on its way: it has its place in the epoch, and stays
// the same bytes however often it is sent.
type Outgoing struct {
	Seq     uint64
	At      time.Time // when the bridge read it from the kernel
	Headers Headers
	Data    []byte // JSON
	Labels  Labels
	Key     schema.LinkKey
	former  string // the namespace that its key was of until now, "": the same
	LinkAt  int    // where in Data the link begins
	Gone    bool   // the link is

	EndsOpening bool // it is the last of the snapshots that an epoch begins with
	InSnapshot  bool // more events of its snapshot, or of others beside that, follow
}

// FormerKey is [schema.Event.FormerKey].
func (o *Outgoing) FormerKey() (schema.LinkKey, bool) {
	return schema.LinkKey{Netns: o.former, Index: o.Key.Index}, o.former != ""
}

// Labels are what an event is counted by.
type Labels struct {
	Kind   schema.Kind
	Action schema.Action
	Cause  schema.Cause
}
