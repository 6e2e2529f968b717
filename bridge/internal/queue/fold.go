package queue

import (
	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// A wholeChange is a change with all of its link: one that cannot be told as what is
// different from what consumers know.
type wholeChange struct {
	event.About
	link   event.LinkState
	before *event.LinkState // nil: as the form says
}

// put makes node i stand for c: for what is different, if that says all of it, else
// for all of it.
func (q *Queue) put(k *knownLink, i int32, c *event.Change) {
	if !k.based || !c.IsPlain(k.pushed) {
		q.putWhole(k, i, wholeOf(c, k.based && c.WasThere))
		return
	}
	n := q.nodes.at(i)
	n.handle, n.kind, n.action, n.cause = k.handle, c.Kind, c.Action, c.Cause
	n.time, n.overruns, n.count = c.Time.UnixNano(), c.Overruns, c.Count
	n.keys, n.restated = c.Keys(), c.Restated
	q.scratch = c.AppendValues(q.scratch[:0], n.keys)
	q.setValues(i, q.scratch)
}

func (q *Queue) putWhole(k *knownLink, i int32, w *wholeChange) {
	n := q.nodes.at(i)
	n.handle, n.isWhole = k.handle, true
	q.whole[i] = w
	k.based, k.pushed = true, w.Netns
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
func (q *Queue) fold(k *knownLink, i int32, c *event.Change) {
	n := q.nodes.at(i)
	switch plain := c.IsPlain(k.pushed); {
	case n.isWhole:
		w := q.whole[i]
		w.About = foldAbout(w.About, c.About)
		w.link = event.LinkState{Link: c.Link, Names: c.LinkNames}.Clone()
		k.pushed = w.Netns
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
		first := n.about(k)
		link := event.LinkState{Link: c.Link, Names: c.LinkNames}.Clone()
		w := &wholeChange{About: foldAbout(first, c.About), link: link}
		q.empty(i)
		q.putWhole(k, i, w)
	}
}

// foldAbout returns what is said of a change that stands for two, one after the other.
func foldAbout(first, c event.About) event.About {
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
