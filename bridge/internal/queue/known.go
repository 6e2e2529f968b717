package queue

import (
	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// A knownLink is what the queue knows of a link that has changed lately.
type knownLink struct {
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

// maxKnown is of how many links at most, besides those that have changes queued, what
// consumers know is kept: a form is about 1 KiB. A change of another link costs
// about twice as much.
const maxKnown = 512

// knownOf returns what is known of a link.
func (q *Queue) knownOf(id event.LinkID) *knownLink {
	if q.recent != nil && q.recent.id == id {
		return q.recent
	}
	k := q.known[id]
	if k == nil {
		k = &knownLink{id: id, form: new(schema.Form), handle: int32(len(q.byHandle))}
		if last := len(q.handles) - 1; last >= 0 {
			k.handle, q.handles = q.handles[last], q.handles[:last]
		} else {
			q.byHandle = append(q.byHandle, nil)
		}
		q.byHandle[k.handle], q.known[id] = k, k
	}
	q.recent = k
	return k
}

// drop forgets what is known of a link that has nothing queued.
func (q *Queue) drop(k *knownLink) {
	if k.queued > 0 {
		return
	}
	delete(q.known, k.id)
	q.byHandle[k.handle] = nil
	q.handles = append(q.handles, k.handle)
	q.recent = nil
}

// dropSome forgets of some links what is known of them, those that have been known
// longest before others.
func (q *Queue) dropSome() {
	for range 2 * MaxTake { // faster than they are made
		q.hand = (q.hand + 1) % len(q.byHandle)
		if k := q.byHandle[q.hand]; k != nil {
			q.drop(k)
		}
	}
}
