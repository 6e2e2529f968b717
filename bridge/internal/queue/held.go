package queue

import (
	"context"
	"errors"
	"slices"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/loop"
	"ifacebridge/schema"
)

// A snapshot waits here until NATS can have it: of its changes, those that have not been
// taken yet. Which links are in one is decided by track.Table.Snapshot and, for an epoch
// that is not the first of its run, by state.Retell.
type snapshot struct {
	event.About
	links   []snapshotLink
	isFirst bool // it is among those that the run begins with
}

// A snapshotLink is one of its links, with what is not the same for all of them.
type snapshotLink struct {
	id    event.LinkID
	count uint64
	link  event.LinkState
}

// PushSnapshot is [Queue.Push] for the snapshot that produce emits, with nothing in
// between: produce must not push itself. The first is that of all namespaces that are there.
func (q *Queue) PushSnapshot(produce func(emit func(*event.Change))) {
	q.mu.Lock()
	produce(q.pushLocked)
	if q.beginOnce() {
		q.opening = len(q.snapshots)
	}
	q.mu.Unlock()
	loop.Signal(q.pushed)
}

// BeginAnew drops everything that waits, and is then [Queue.PushSnapshot] for the first time.
func (q *Queue) BeginAnew(produce func(emit func(*event.Change))) {
	q.mu.Lock()
	q.clear()
	q.hasBegun = false
	produce(q.pushLocked)
	q.hasBegun, q.opening = true, len(q.snapshots)
	q.mu.Unlock()
	loop.Signal(q.pushed)
}

// beginOnce lets FirstSnapshot go on, and reports whether it was the first to.
func (q *Queue) beginOnce() bool {
	if q.hasBegun {
		return false
	}
	q.hasBegun = true
	close(q.began)
	return true
}

// ErrNoSnapshot reports that a queue was closed before there was a snapshot.
var ErrNoSnapshot = errors.New("closed before the first snapshot")

// FirstSnapshot waits for the first snapshot and returns its links, or
// [ErrNoSnapshot] when the queue was closed without one. It is for the one who takes,
// before taking. The links may be kept.
func (q *Queue) FirstSnapshot(ctx context.Context) (links event.OpeningLinks, at time.Time, err error) {
	select {
	case <-q.began:
	case <-ctx.Done():
		return nil, at, ctx.Err()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed && q.held == 0 {
		return nil, at, ErrNoSnapshot
	}
	links, at = event.OpeningLinks{}, time.Now()
	n := q.nodes.oldest()
	for range q.opening {
		s := q.snapshots[n]
		for _, l := range s.links {
			key := schema.LinkKey{Netns: s.Netns.Name, Index: l.id.Index}
			links[key] = event.OpeningLink{NetnsInode: s.Netns.Inode, Link: l.link.Link}
		}
		at, n = s.Time, q.nodes.at(n).next
	}
	return links, at, nil
}

// pushToSnapshot puts the next change of a snapshot into the queue. The snapshot is the
// last that is there: nothing comes in between.
func (q *Queue) pushToSnapshot(c *event.Change) {
	i := q.nodes.newest()
	if c.Snapshot.Pos == 1 {
		i = q.nodes.get()
		q.nodes.push(i)
		q.nodes.at(i).due = 0 // it may have been another's
		q.snapshots[i] = &snapshot{c.About, make([]snapshotLink, 0, c.Snapshot.Of), !q.hasBegun}
		q.heldFor[c.ID.Watch] = append(q.heldFor[c.ID.Watch], i)
	}
	if k := q.known[c.ID]; k != nil {
		k.newest = 0 // nothing is folded across it
	}
	s := q.snapshots[i]
	l := snapshotLink{c.ID, c.Count, event.LinkState{Link: c.Link, Names: c.LinkNames}}
	s.links = append(s.links, l)
	q.held++
	q.bytes += l.size()
}

// takeOfSnapshot makes d the next change of a snapshot, which stands in node i.
func (q *Queue) takeOfSnapshot(d *event.Delta, s *snapshot, i int32) {
	l := s.links[0]
	s.links = s.links[1:]
	s.Snapshot.Pos++
	k := q.knownOf(l.id)
	if k.taken = s.Netns; !k.based {
		k.based, k.pushed = true, s.Netns
	}
	d.About, d.Form, d.Link, d.Before = s.About, k.form, &l.link, nil
	d.ID, d.Count, d.Snapshot.Pos = l.id, l.count, s.Snapshot.Pos-1
	q.held--
	q.bytes -= l.size()
	if len(s.links) == 0 {
		q.endSnapshot(l.id.Watch, i)
	}
}

// endSnapshot takes out a snapshot of which no link is left.
func (q *Queue) endSnapshot(watch uint64, i int32) {
	q.nodes.unlink(i)
	delete(q.snapshots, i)
	q.nodes.release(i)
	q.heldFor[watch] = slices.DeleteFunc(q.heldFor[watch], func(held int32) bool { return held == i })
	if len(q.heldFor[watch]) == 0 {
		delete(q.heldFor, watch)
	}
}

// forgetHeld takes a link that has gone out of the one snapshot that waits of its
// namespace, if nobody has seen a part of that, and reports whether it did. So a namespace
// that came and went unseen leaves nothing.
func (q *Queue) forgetHeld(k *knownLink) bool {
	held := q.heldFor[k.id.Watch]
	if k.queued > 0 || len(held) != 1 {
		return false
	}
	s := q.snapshots[held[0]]
	at := slices.IndexFunc(s.links, func(l snapshotLink) bool { return l.id == k.id })
	if at < 0 || s.isFirst || s.Snapshot.Pos > 1 {
		return false
	}
	q.held--
	q.bytes -= s.links[at].size()
	s.links = slices.Delete(s.links, at, at+1)
	if s.Snapshot.Of--; s.Snapshot.Of == 0 {
		q.endSnapshot(k.id.Watch, held[0])
	}
	return true
}
