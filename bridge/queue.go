package bridge

import (
	"context"
	"errors"
	"sync"
	"time"

	"ifacebridge/schema"
)

// A queue holds changes between the kernel's reader, which never waits, and the
// publisher, which may have to for hours. It is first in, first out, until it
// holds its limit: from then on a change takes up the queued change of the same
// link and stands at the tail, as one event that says for how many it stands. So
// what is held is bounded by the limit and the number of links, and the state
// that the changes lead to is always right.
//
// Two kinds of change are not folded: those of a snapshot, of which there is one
// for each link; and a link that came and went while nobody could see it, of
// which there can be any number. Past twice the limit those are forgotten, and
// each is counted as an overrun: the following events say so.
type queue struct {
	limit  int
	window time.Duration // fold what comes within this time; 0: only when full

	mu        sync.Mutex
	head      node // sentinel of a ring: head.next is the oldest
	len       int
	byLink    map[linkID]*node // the newest of each link, unless in a snapshot
	spare     *node            // released nodes, linked by next; at most maxSpare
	spares    int
	links     []*schema.Link // memory for links; at most maxSpare
	opening   int            // changes of the first snapshots
	folded    uint64         // changes that were taken up by another
	forgotten uint64
	closed    bool

	// ready holds a token when something was pushed since it was last taken.
	ready chan struct{}
	began chan struct{} // closed when the first snapshot was pushed, or none will be
}

type node struct {
	prev, next *node
	change     change
	due        time.Time // not before; zero: at once
}

const maxSpare = 2048

func newQueue(limit int, window time.Duration) *queue {
	q := &queue{limit: limit, window: window, byLink: make(map[linkID]*node), ready: make(chan struct{}, 1), began: make(chan struct{})}
	q.head.prev, q.head.next = &q.head, &q.head
	return q
}

// push puts a copy of c into the queue. It does not block.
func (q *queue) push(c *change) {
	q.mu.Lock()
	q.pushLocked(c)
	q.mu.Unlock()
	signal(q.ready)
}

// pushSnapshot is push for the snapshot that produce emits, with nothing in between.
// The first is that of all namespaces that are there.
func (q *queue) pushSnapshot(produce func(emit func(*change))) {
	q.mu.Lock()
	produce(q.pushLocked)
	if q.begin() {
		q.opening = q.len
	}
	q.mu.Unlock()
	signal(q.ready)
}

// begin lets firstSnapshot go on, and reports whether it was the first to.
func (q *queue) begin() bool {
	select {
	case <-q.began:
		return false
	default:
		close(q.began)
		return true
	}
}

var errNoSnapshot = errors.New("closed before the first snapshot")

// firstSnapshot waits for the first snapshot and returns its links, or
// errNoSnapshot when the queue was closed without one. It is for the one who
// takes, before taking.
func (q *queue) firstSnapshot(ctx context.Context) (links openingLinks, at time.Time, err error) {
	select {
	case <-q.began:
	case <-ctx.Done():
		return nil, at, ctx.Err()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed && q.len == 0 {
		return nil, at, errNoSnapshot
	}
	links, at = openingLinks{}, time.Now()
	n := q.head.next
	for range q.opening {
		c := &n.change
		links[schema.LinkKey{Netns: c.netns.name, Index: c.id.index}] = openingLink{c.netns.inode, c.link}
		at, n = c.time, n.next
	}
	return links, at, nil
}

// close says that nothing will be pushed any more: what is held for the folding
// window is released.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.begin()
	q.mu.Unlock()
	signal(q.ready)
}

func (q *queue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// signal puts a token into a channel that holds one.
func signal(token chan<- struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

func (q *queue) pushLocked(c *change) {
	inSnapshot := c.snapshot.Of > 0
	due := time.Time{}
	if q.window > 0 && !inSnapshot {
		due = c.time.Add(q.window)
	}
	n := q.byLink[c.id]
	if !inSnapshot && n != nil && (q.len >= q.limit || c.time.Before(n.due)) {
		if between := n.change.link; between == c.before && between != c.link && between != n.change.before {
			q.keepSpare(between) // nobody saw it
		}
		fold(&n.change, c)
		q.folded++
		q.unlink(n)
		due = n.due // a link that never rests is not held back for ever
	} else {
		n = q.node()
		n.change = *c
	}
	n.due = due
	gone := c.kind == schema.Del && c.action != schema.Renamed
	if gone {
		delete(q.byLink, c.id) // nothing comes after it
		if !n.change.wasThere && q.len >= 2*q.limit {
			q.forgotten++
			q.release(n)
			return
		}
	}
	q.append(n)
	if !gone && !inSnapshot {
		q.byLink[c.id] = n
	}
}

// fold makes into the change that stands for itself and, after it, c.
func fold(into, c *change) {
	first := *into
	*into = *c
	into.count += first.count
	into.before, into.beforeNames, into.wasThere = first.before, first.beforeNames, first.wasThere
	into.restated |= first.restated
	if first.netnsBefore != "" {
		into.netnsBefore = first.netnsBefore
	}
	switch {
	case c.kind == schema.Del:
	case !first.wasThere && first.kind == schema.New:
		into.action, into.netnsBefore = first.action, ""
		into.counterpart = first.counterpart
	case first.wasThere && (into.before.Name != into.link.Name || into.netnsBefore != ""):
		into.action = schema.Renamed
	case first.wasThere:
		into.action = schema.Updated
	}
}

// take moves up to len(into) changes out of the queue, and returns how many. It
// returns, besides, how long to wait for the next one when the oldest is held
// for the folding window; 0 means until ready.
func (q *queue) take(into []change, now time.Time) (n int, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n < len(into) && q.len > 0 {
		oldest := q.head.next
		if wait := oldest.due.Sub(now); wait > 0 && !q.closed {
			return n, wait
		}
		into[n] = oldest.change
		into[n].overruns += q.forgotten
		n++
		if q.byLink[oldest.change.id] == oldest {
			delete(q.byLink, oldest.change.id)
		}
		q.unlink(oldest)
		q.release(oldest)
	}
	return n, 0
}

// fresh returns memory for a link.
func (q *queue) fresh() *schema.Link {
	q.mu.Lock()
	defer q.mu.Unlock()
	last := len(q.links) - 1
	if last < 0 {
		return new(schema.Link)
	}
	l := q.links[last]
	q.links = q.links[:last]
	return l
}

// recycle takes back the memory of changes that were taken and are not needed any
// more: what a link was before its change, nobody else has, since the changes of one
// link leave in their order and its table has gone on.
func (q *queue) recycle(changes []change) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range changes {
		if c := &changes[i]; c.before != nil && c.before != c.link {
			q.keepSpare(c.before)
			c.before = nil
		}
	}
}

func (q *queue) keepSpare(l *schema.Link) {
	if len(q.links) < maxSpare {
		q.links = append(q.links, l)
	}
}

// size returns how many changes are waiting, and how many were folded and
// forgotten so far.
func (q *queue) size() (waiting int, folded, forgotten uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.len, q.folded, q.forgotten
}

func (q *queue) append(n *node) {
	n.prev, n.next = q.head.prev, &q.head
	n.prev.next, n.next.prev = n, n
	q.len++
}

func (q *queue) unlink(n *node) {
	n.prev.next, n.next.prev = n.next, n.prev
	n.prev, n.next = nil, nil
	q.len--
}

func (q *queue) node() *node {
	if q.spare == nil {
		return new(node)
	}
	n := q.spare
	q.spare, n.next = n.next, nil
	q.spares--
	return n
}

func (q *queue) release(n *node) {
	n.change.link, n.change.before = nil, nil
	if q.spares < maxSpare {
		n.next, q.spare = q.spare, n
		q.spares++
	}
}
