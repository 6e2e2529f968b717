// Package queue stands between the kernel's reader, which never waits, and NATS, which
// may be away for hours. A [Queue] is bounded: when it is full, it folds the changes of one
// link into one (fold.go). The snapshots that an epoch begins with are in it, too
// (held.go). To the publisher it is a [Backlog], where no spool is wanted.
package queue

import (
	"math"
	"sync"
	"time"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/loop"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/schema"
)

// A Queue holds changes between the kernel's reader, which never waits, and the
// publisher, which may have to for hours. It is first in, first out, until it
// holds its limit, which is one of changes and of the memory that they take: from then on
// a change takes up the queued change of the same link and stands at the tail, as one
// event that says for how many it stands. So what is held is bounded by the limit and the
// number of links, and the state that the changes lead to is always right.
//
// Two kinds of change are not folded: those of a snapshot, of which there is one
// for each link; and a link that came and went while nobody could see it, by itself or
// with its namespace, of which there can be any number. Past twice the limit those are
// forgotten, and each is counted as an overrun: the following events say so.
//
// What most changes hold is a few values of a link: a node for them has room for
// those, and no pointer, so that an outage of hours leaves the garbage collector
// nothing to follow. What the link was before is known where the change is taken:
// there is a [schema.Form] of every link that has changed lately. The first change
// of a link and what happens to namespaces are kept whole, and so are snapshots, each
// in one node.
type Queue struct {
	limit  config.QueueLimit
	window time.Duration // fold what comes within this time; 0: only when full

	mu        sync.Mutex
	nodes     nodeRing
	held      int // changes
	bytes     int // of memory that they take
	known     map[event.LinkID]*knownLink
	byHandle  []*knownLink // by knownLink.handle; nil where there is none
	handles   []int32      // of byHandle that are free
	hand      int          // in byHandle, where dropSome looked last
	recent    *knownLink   // the last that was asked for
	whole     map[int32]*wholeChange
	snapshots map[int32]*snapshot
	heldFor   map[uint64][]int32 // the snapshots of a namespace, by its watch
	large     map[int32][]byte   // values that have no room in their node, by node
	scratch   []byte
	opening   int    // the nodes of the first snapshots
	hasBegun  bool   // those were pushed, or will not be
	folded    uint64 // changes that were taken up by another
	forgotten uint64
	closed    bool

	// pushed holds a token when something was pushed since the queue was found empty.
	pushed chan struct{}
	began  chan struct{} // closed when the first snapshot was pushed, or none will be
}

// New returns an empty queue that folds the changes of a link when the limit is reached, and
// besides those that come within the window, if that is not 0.
func New(limit config.QueueLimit, window time.Duration) *Queue {
	q := &Queue{limit: limit, window: window, pushed: make(chan struct{}, 1), began: make(chan struct{})}
	q.clear()
	return q
}

// clear drops everything that waits, and what is known of links.
func (q *Queue) clear() {
	q.nodes, q.held, q.bytes = newRing(), 0, 0
	q.known, q.byHandle, q.handles, q.hand, q.recent = map[event.LinkID]*knownLink{}, nil, nil, 0, nil
	q.whole, q.large = map[int32]*wholeChange{}, map[int32][]byte{}
	q.snapshots, q.heldFor = map[int32]*snapshot{}, map[uint64][]int32{}
}

// Push puts what c says into the queue. It does not block, except for the taker, and keeps of
// c what may be kept: see [event.Change].
func (q *Queue) Push(c *event.Change) {
	q.mu.Lock()
	wasEmpty := q.held == 0
	q.pushLocked(c)
	q.mu.Unlock()
	if wasEmpty { // else whoever takes has not come to the end yet
		loop.Signal(q.pushed)
	}
}

// Close notes that nothing will be pushed any more: what is held for the folding window
// is released.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	q.beginOnce()
	q.mu.Unlock()
	loop.Signal(q.pushed)
}

// Ready returns a channel that holds a token when something was pushed since the queue was
// found empty, or it was closed.
func (q *Queue) Ready() <-chan struct{} { return q.pushed }

// IsClosed reports whether nothing will be pushed any more.
func (q *Queue) IsClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// pushLocked is [Queue.Push] for callers that hold the lock.
func (q *Queue) pushLocked(c *event.Change) {
	if c.Snapshot.Of > 0 {
		q.pushToSnapshot(c)
		return
	}
	due := int64(0)
	if q.window > 0 {
		due = c.Time.Add(q.window).UnixNano()
	}
	k := q.knownOf(c.ID)
	i, forgets := k.newest, q.isFull(2)
	if i != 0 && (q.isFull(1) || c.Time.UnixNano() < q.nodes.at(i).due) {
		q.unlink(k, i)
		q.fold(k, i, c)
		q.folded++
		due = q.nodes.at(i).due // a link that never rests is not held back for ever
	} else {
		i = q.nodes.get()
		q.put(k, i, c)
	}
	q.nodes.at(i).due = due
	gone := c.Kind == schema.Del && c.Action != schema.Renamed
	if gone {
		k.newest = 0 // nothing comes after it
		if w := q.whole[i]; forgets && (w != nil && !w.WasThere || q.forgetHeld(k)) {
			q.forgotten++
			q.release(i)
			q.drop(k)
			return
		}
	}
	q.nodes.push(i)
	q.held++
	q.bytes += q.size(i)
	k.queued++
	if !gone {
		k.newest = i
	}
}

// MaxTake is how many changes are taken at once at most: whoever pushes waits meanwhile.
const MaxTake = 64

// Take moves up to len(into), which is at most [MaxTake], changes out of the queue, and
// returns how many. It returns, besides, how long to wait for the next one when the
// oldest is held for the folding window; 0 means until ready.
func (q *Queue) Take(into []event.Delta, now time.Time) (n int, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n < len(into) && q.held > 0 {
		i := q.nodes.oldest()
		oldest := q.nodes.at(i)
		if oldest.due > 0 && !q.closed {
			wait := time.Unix(0, oldest.due).Sub(now)
			if wait > 0 && wait <= q.window { // else the clock was set back since
				return n, wait
			}
		}
		d := &into[n]
		if s := q.snapshots[i]; s != nil {
			q.takeOfSnapshot(d, s, i)
		} else {
			q.takeNode(d, q.byHandle[oldest.handle], i)
		}
		d.Overruns += q.forgotten
		n++
	}
	if len(q.known) > maxKnown {
		q.dropSome()
	}
	if q.held == 0 {
		q.nodes.shrink()
	}
	return n, 0
}

// takeNode makes d what node i stands for, and gives the node back.
func (q *Queue) takeNode(d *event.Delta, k *knownLink, i int32) {
	n := q.nodes.at(i)
	d.Form, d.Keys, d.Values, d.Link, d.Before = k.form, n.keys, d.Values[:0], nil, nil
	if w := q.whole[i]; w != nil {
		d.About, d.Link, d.Before = w.About, &w.link, w.before
		k.taken = w.Netns
	} else {
		d.About = n.about(k)
		d.Values = append(d.Values, q.valuesOf(i)...)
	}
	if k.newest == i {
		k.newest = 0
	}
	q.unlink(k, i)
	q.release(i)
	if d.Kind == schema.Del && d.Action != schema.Renamed {
		q.drop(k)
	}
}

// Size returns how many changes are waiting, and how many were folded and
// forgotten so far.
func (q *Queue) Size() (waiting int, folded, forgotten uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held, q.folded, q.forgotten
}

// Bytes returns how much memory the changes take that are waiting.
func (q *Queue) Bytes() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// unlink takes a node out of the ring.
func (q *Queue) unlink(k *knownLink, i int32) {
	q.nodes.unlink(i)
	q.held--
	q.bytes -= q.size(i)
	k.queued--
}

// release gives back a node.
func (q *Queue) release(i int32) {
	q.empty(i)
	q.nodes.release(i)
}

// empty lets go of what a node holds outside of itself.
func (q *Queue) empty(i int32) {
	n := q.nodes.at(i)
	if n.isWhole {
		delete(q.whole, i)
	}
	if n.isLarge {
		delete(q.large, i)
	}
	n.isWhole, n.isLarge, n.size, n.keys = false, false, 0, 0
}

func (q *Queue) setValues(i int32, values []byte) {
	n := q.nodes.at(i)
	if len(values) > len(n.values) {
		n.isLarge, q.large[i] = true, append([]byte(nil), values...)
		return
	}
	if n.isLarge {
		delete(q.large, i)
	}
	n.isLarge, n.size = false, uint8(copy(n.values[:], values))
}

func (q *Queue) valuesOf(i int32) []byte {
	if n := q.nodes.at(i); !n.isLarge {
		return n.values[:n.size]
	}
	return q.large[i]
}

// Register registers what the queue counts.
func (q *Queue) Register(to metrics.Registry) {
	to.GaugeFunc("queue_limit_events",
		"Events that may wait before those of one link are folded (IFACE_QUEUE); +Inf where that is a size.",
		func() float64 {
			if q.limit.Events == math.MaxInt {
				return math.Inf(1)
			}
			return float64(q.limit.Events)
		})
	to.GaugeFunc("queue_bytes", "Memory that the events in the queue take.",
		func() float64 { return float64(q.Bytes()) })
	to.GaugeFunc("queue_limit_bytes", "Memory that they may take before those of one link are folded (IFACE_QUEUE).",
		func() float64 { return float64(q.limit.Bytes) })
	to.CounterFunc("events_folded_total", "Notifications that were folded into a later event of the same link.",
		func() float64 { _, folded, _ := q.Size(); return float64(folded) })
	to.CounterFunc("events_forgotten_total",
		"Links that came and went unseen and got no event, because the queue was full twice over.",
		func() float64 { _, _, forgotten := q.Size(); return float64(forgotten) })
}
