package bridge

import (
	"context"
	"errors"
	"sync"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/loop"
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
//
// What most changes hold is a few values of a link: a node for them has room for
// those, and no pointer, so that an outage of hours leaves the garbage collector
// nothing to follow. What the link was before is known where the change is taken:
// there is a [schema.Form] of every link that has changed lately. The first change
// of a link and what happens to namespaces are kept whole, and so are snapshots, each
// in one node.
type queue struct {
	limit  int
	window time.Duration // fold what comes within this time; 0: only when full

	mu        sync.Mutex
	nodes     nodes
	len       int
	tracks    map[event.LinkID]*track
	byHandle  []*track // by track.handle; nil where there is none
	handles   []int32  // of byHandle that are free
	hand      int      // in byHandle, where dropSome looked last
	recent    *track   // the last that was asked for
	whole     map[int32]*wholeChange
	snapshots map[int32]*snapshot
	large     map[int32][]byte // values that have no room in their node, by node
	scratch   []byte
	opening   int    // the nodes of the first snapshots
	folded    uint64 // changes that were taken up by another
	forgotten uint64
	closed    bool

	// ready holds a token when something was pushed since the queue was found empty.
	ready chan struct{}
	began chan struct{} // closed when the first snapshot was pushed, or none will be
}

// A track is what the queue knows of a link that has changed lately.
type track struct {
	id     event.LinkID
	handle int32           // its place in queue.byHandle
	newest int32           // the last node of the link; 0: none that a change could be folded into
	queued int             // nodes of the link
	pushed event.Namespace // as of the last change that was pushed whole
	taken  event.Namespace // and of the last that was taken

	// based is whether a change was pushed whole: the later ones can be told as what is
	// different. form is what consumers know of the link. It belongs to whoever takes.
	based bool
	form  *schema.Form
}

// maxTracks is of how many links at most, besides those that have changes queued, what
// consumers know is kept: a form is about 1 KiB. A change of another link costs
// about twice as much.
const maxTracks = 512

type wholeChange struct {
	event.About
	link   event.LinkState
	before *event.LinkState // nil: as the form says
}

// A snapshot is the changes of one, of which the links that have not been taken yet.
type snapshot struct {
	event.About
	links []snapshotLink
}

type snapshotLink struct {
	id    event.LinkID
	count uint64
	link  event.LinkState
}

func newQueue(limit int, window time.Duration) *queue {
	return &queue{
		limit: limit, window: window, nodes: newNodes(), tracks: map[event.LinkID]*track{}, whole: map[int32]*wholeChange{},
		snapshots: map[int32]*snapshot{}, large: map[int32][]byte{},
		ready: make(chan struct{}, 1), began: make(chan struct{}),
	}
}

// push puts what c says into the queue. It does not block.
func (q *queue) push(c *event.Change) {
	q.mu.Lock()
	wasEmpty := q.len == 0
	q.pushLocked(c)
	q.mu.Unlock()
	if wasEmpty { // else whoever takes has not come to the end yet
		loop.Signal(q.ready)
	}
}

// pushSnapshot is push for the snapshot that produce emits, with nothing in between.
// The first is that of all namespaces that are there.
func (q *queue) pushSnapshot(produce func(emit func(*event.Change))) {
	q.mu.Lock()
	produce(q.pushLocked)
	if q.begin() {
		q.opening = len(q.snapshots)
	}
	q.mu.Unlock()
	loop.Signal(q.ready)
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
func (q *queue) firstSnapshot(ctx context.Context) (links event.OpeningLinks, at time.Time, err error) {
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
	links, at = event.OpeningLinks{}, time.Now()
	n := q.nodes.oldest()
	for range q.opening {
		s := q.snapshots[n]
		for _, l := range s.links {
			links[schema.LinkKey{Netns: s.Netns.Name, Index: l.id.Index}] = event.OpeningLink{NetnsInode: s.Netns.Inode, Link: l.link.Link}
		}
		at, n = s.Time, q.nodes.at(n).next
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
	loop.Signal(q.ready)
}

func (q *queue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

func (q *queue) pushLocked(c *event.Change) {
	if c.Snapshot.Of > 0 {
		q.pushToSnapshot(c)
		return
	}
	due := int64(0)
	if q.window > 0 {
		due = c.Time.Add(q.window).UnixNano()
	}
	t := q.track(c.ID)
	i := t.newest
	if i != 0 && (q.len >= q.limit || c.Time.UnixNano() < q.nodes.at(i).due) {
		q.fold(t, i, c)
		q.folded++
		q.unlink(t, i)
		due = q.nodes.at(i).due // a link that never rests is not held back for ever
	} else {
		i = q.nodes.get()
		q.put(t, i, c)
	}
	q.nodes.at(i).due = due
	gone := c.Kind == schema.Del && c.Action != schema.Renamed
	if gone {
		t.newest = 0 // nothing comes after it
		if w := q.whole[i]; w != nil && !w.WasThere && q.len >= 2*q.limit {
			q.forgotten++
			q.release(i)
			q.drop(t)
			return
		}
	}
	q.nodes.append(i)
	q.len++
	t.queued++
	if !gone {
		t.newest = i
	}
}

// pushToSnapshot puts the next change of a snapshot into the queue. The snapshot is the
// last that is there: nothing comes in between.
func (q *queue) pushToSnapshot(c *event.Change) {
	i := q.nodes.newest()
	if c.Snapshot.Pos == 1 {
		i = q.nodes.get()
		q.nodes.append(i)
		q.snapshots[i] = &snapshot{c.About, make([]snapshotLink, 0, c.Snapshot.Of)}
	}
	if t := q.tracks[c.ID]; t != nil {
		t.newest = 0 // nothing is folded across it
	}
	s := q.snapshots[i]
	s.links = append(s.links, snapshotLink{c.ID, c.Count, event.LinkState{Link: c.Link, Names: c.LinkNames}})
	q.len++
}

// track returns what is known of a link.
func (q *queue) track(id event.LinkID) *track {
	if q.recent != nil && q.recent.id == id {
		return q.recent
	}
	t := q.tracks[id]
	if t == nil {
		t = &track{id: id, form: new(schema.Form), handle: int32(len(q.byHandle))}
		if last := len(q.handles) - 1; last >= 0 {
			t.handle, q.handles = q.handles[last], q.handles[:last]
		} else {
			q.byHandle = append(q.byHandle, nil)
		}
		q.byHandle[t.handle], q.tracks[id] = t, t
	}
	q.recent = t
	return t
}

// drop forgets what is known of a link that has nothing queued.
func (q *queue) drop(t *track) {
	if t.queued > 0 {
		return
	}
	delete(q.tracks, t.id)
	q.byHandle[t.handle] = nil
	q.handles = append(q.handles, t.handle)
	q.recent = nil
}

// dropSome forgets of some links what is known of them, those that have been known
// longest before others.
func (q *queue) dropSome() {
	for range 2 * maxTake { // faster than they are made
		q.hand = (q.hand + 1) % len(q.byHandle)
		if t := q.byHandle[q.hand]; t != nil {
			q.drop(t)
		}
	}
}

// put makes node i stand for c: for what is different, if that says all of it, else
// for all of it.
func (q *queue) put(t *track, i int32, c *event.Change) {
	if !t.based || !c.IsPlain(t.pushed) {
		q.putWhole(t, i, wholeOf(c, t.based && c.WasThere))
		return
	}
	n := q.nodes.at(i)
	n.track, n.kind, n.action, n.cause = t.handle, c.Kind, c.Action, c.Cause
	n.time, n.overruns, n.count = c.Time.UnixNano(), c.Overruns, c.Count
	n.keys, n.restated = c.Keys(), c.Restated
	q.scratch = c.AppendValues(q.scratch[:0], n.keys)
	q.setValues(i, q.scratch)
}

func (q *queue) putWhole(t *track, i int32, w *wholeChange) {
	n := q.nodes.at(i)
	n.track, n.isWhole = t.handle, true
	q.whole[i] = w
	t.based, t.pushed = true, w.Netns
}

// wholeOf returns c with links of its own. What it was before need not be told when
// the form is known to have it.
func wholeOf(c *event.Change, formHasBefore bool) *wholeChange {
	w := &wholeChange{About: c.About, link: event.LinkState{Link: c.Link, Names: c.LinkNames}}
	if c.Before != nil { // else the table leaves the link alone
		w.link = w.link.Clone()
		if !formHasBefore && c.Kind != schema.Del {
			before := event.LinkState{Link: c.Before, Names: c.BeforeNames}.Clone()
			w.before = &before
		}
	}
	return w
}

// fold makes node i stand for what it stands for and, after it, c.
func (q *queue) fold(t *track, i int32, c *event.Change) {
	n := q.nodes.at(i)
	switch plain := c.IsPlain(t.pushed); {
	case n.isWhole:
		w := q.whole[i]
		w.About = fold(w.About, c.About)
		w.link = event.LinkState{Link: c.Link, Names: c.LinkNames}.Clone()
		t.pushed = w.Netns
	case plain:
		keys := c.Keys()
		values := c.AppendValues(q.scratch[:0], keys)
		fresh := len(values)
		values = schema.MergeValues(values, n.keys, q.valuesOf(i), keys, values[:fresh])
		q.scratch = values
		n.keys |= keys
		q.setValues(i, values[fresh:])
		n.restated |= c.Restated
		n.kind, n.action, n.cause = c.Kind, c.Action, c.Cause
		n.time, n.overruns, n.count = c.Time.UnixNano(), c.Overruns, n.count+c.Count
	default: // what it was before, the form says
		first := n.about(t)
		w := &wholeChange{About: fold(first, c.About), link: event.LinkState{Link: c.Link, Names: c.LinkNames}.Clone()}
		q.empty(i)
		q.putWhole(t, i, w)
	}
}

// fold returns what is said of a change that stands for two, one after the other.
func fold(first, c event.About) event.About {
	into := c
	into.Count += first.Count
	into.WasThere = first.WasThere
	into.Restated |= first.Restated
	if first.NetnsBefore != "" {
		into.NetnsBefore = first.NetnsBefore
	}
	switch {
	case c.Kind == schema.Del:
	case first.WasThere:
		into.Action = schema.Updated // or renamed, as is seen when the event is made
	case first.Kind == schema.New:
		into.Action, into.NetnsBefore = first.Action, ""
		into.Counterpart = first.Counterpart
	default: // it came and went, and came again, unseen
		into.Action, into.NetnsBefore = schema.Created, ""
	}
	return into
}

// maxTake is how many changes are taken at once at most: whoever pushes waits meanwhile.
const maxTake = 64

// take moves up to len(into), which is at most maxTake, changes out of the queue, and
// returns how many. It returns, besides, how long to wait for the next one when the
// oldest is held for the folding window; 0 means until ready.
func (q *queue) take(into []event.Delta, now time.Time) (n int, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n < len(into) && q.len > 0 {
		i := q.nodes.oldest()
		oldest := q.nodes.at(i)
		if oldest.due > 0 && !q.closed {
			if wait := time.Unix(0, oldest.due).Sub(now); wait > 0 {
				return n, wait
			}
		}
		d := &into[n]
		if s := q.snapshots[i]; s != nil {
			q.takeOfSnapshot(d, s, i)
		} else {
			q.takeNode(d, q.byHandle[oldest.track], i)
		}
		d.Overruns += q.forgotten
		n++
	}
	if len(q.tracks) > maxTracks {
		q.dropSome()
	}
	if q.len == 0 {
		q.nodes.shrink()
	}
	return n, 0
}

// takeOfSnapshot makes d the next change of a snapshot, which stands in node i.
func (q *queue) takeOfSnapshot(d *event.Delta, s *snapshot, i int32) {
	l := s.links[0]
	s.links = s.links[1:]
	s.Snapshot.Pos++
	t := q.track(l.id)
	if t.taken = s.Netns; !t.based {
		t.based, t.pushed = true, s.Netns
	}
	d.About, d.Form, d.Link, d.Before = s.About, t.form, &l.link, nil
	d.ID, d.Count, d.Snapshot.Pos = l.id, l.count, s.Snapshot.Pos-1
	q.len--
	if len(s.links) == 0 {
		q.nodes.unlink(i)
		delete(q.snapshots, i)
		q.nodes.release(i)
	}
}

// takeNode makes d what node i stands for, and gives the node back.
func (q *queue) takeNode(d *event.Delta, t *track, i int32) {
	n := q.nodes.at(i)
	d.Form, d.Keys, d.Values, d.Link, d.Before = t.form, n.keys, d.Values[:0], nil, nil
	if w := q.whole[i]; w != nil {
		d.About, d.Link, d.Before = w.About, &w.link, w.before
		t.taken = w.Netns
	} else {
		d.About = n.about(t)
		d.Values = append(d.Values, q.valuesOf(i)...)
	}
	if t.newest == i {
		t.newest = 0
	}
	q.unlink(t, i)
	q.release(i)
	if d.Kind == schema.Del && d.Action != schema.Renamed {
		q.drop(t)
	}
}

// size returns how many changes are waiting, and how many were folded and
// forgotten so far.
func (q *queue) size() (waiting int, folded, forgotten uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.len, q.folded, q.forgotten
}

func (q *queue) unlink(t *track, i int32) {
	q.nodes.unlink(i)
	q.len--
	t.queued--
}

// release gives back a node.
func (q *queue) release(i int32) {
	q.empty(i)
	q.nodes.release(i)
}

// empty lets go of what a node holds outside of itself.
func (q *queue) empty(i int32) {
	n := q.nodes.at(i)
	if n.isWhole {
		delete(q.whole, i)
	}
	if n.isLarge {
		delete(q.large, i)
	}
	n.isWhole, n.isLarge, n.size, n.keys = false, false, 0, 0
}

func (q *queue) setValues(i int32, values []byte) {
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

func (q *queue) valuesOf(i int32) []byte {
	if n := q.nodes.at(i); !n.isLarge {
		return n.values[:n.size]
	}
	return q.large[i]
}
