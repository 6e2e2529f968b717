package track

import (
	"iter"
	"time"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// A Table is the links of one network namespace: all of them, so that names
// resolve, whether they are published or not. It decides what a message of the
// kernel changes. It is a pure function of the messages: no clock, no socket.
type Table struct {
	watch      uint64 // a number of its namespace that no other ever has
	netns      event.Namespace
	filter     config.Filter
	links      map[int32]*entry
	generation uint64
	out        event.Change // the one that emit is called with
	spare      *schema.Link // memory for the next link; nil: the next one makes its own

	// others knows the tables of the other namespaces; nil when there are none.
	others otherTables
}

// An otherTables tells where links of a table went to, or came from. It keeps what it
// is told of one until it is asked for the other.
type otherTables interface {
	// wentTo returns where a link is now that the kernel says was moved.
	wentTo(from *Table, last *schema.Link) schema.Counterpart
	// cameFrom returns where a link came from that is new under an index.
	cameFrom(to *Table, index int32) schema.Counterpart
	// settle is called when the table is the kernel's: what it still keeps of links
	// that went there was lost.
	settle(to *Table)
}

// An entry is a link of a table.
type entry struct {
	link       *schema.Link
	names      event.Names // as they were last published
	generation uint64
	published  bool
	kept       bool   // somebody may keep link: its memory must not be used again
	quiet      uint64 // notifications since its last event that changed nothing
}

// NewTable returns the empty table of a namespace.
func NewTable(filter config.Filter, netns event.Namespace) *Table {
	return &Table{netns: netns, filter: filter, links: make(map[int32]*entry), spare: new(schema.Link)}
}

// Apply takes a notification and calls emit with what it changes, if anything
// that is published. The change is valid until emit returns. A full message is
// the link's state, whatever came before; a partial one is merged into what is
// known, and says nothing about a link that is not. It reports quiet when the
// notification changed nothing: the link's next event counts it.
func (t *Table) Apply(m *netlinksrc.Message, overruns uint64, emit func(*event.Change)) (quiet bool) {
	e := t.links[m.Link.Index]
	t.out = event.Change{About: event.About{Cause: schema.Notification, Time: m.Time, Overruns: overruns, Count: 1}}
	switch {
	case m.Kind == netlinksrc.Del && e != nil:
		t.remove(e, &m.Link, emit)
	case m.Kind == netlinksrc.Del && t.others != nil: // it came and went unseen
		t.others.cameFrom(t, m.Link.Index)
	case m.Kind == netlinksrc.New && e == nil && !m.Partial:
		link := t.keep(&m.Link)
		t.settle(link, nil)
		t.add(link, schema.Created, emit)
	case m.Kind == netlinksrc.New && e != nil:
		next := t.fresh()
		m.Merge(next, e.link)
		t.settle(next, nil)
		if *next == *e.link {
			t.spare = next
			e.quiet++
			return true
		}
		t.update(e, next, emit)
	}
	return false
}

// settle takes out of a link what its master makes tick: the master that a dump shows, or
// the one that is known.
func (t *Table) settle(l *schema.Link, dumped map[int32]*schema.Link) {
	master := dumped[l.MasterIndex]
	if e := t.links[l.MasterIndex]; master == nil && e != nil {
		master = e.link
	}
	netlinksrc.Settle(l, master)
}

// compare takes what a dump says of a link, and calls emit with what differs
// from the table, as apply does. The link is the table's from then on.
func (t *Table) compare(link *schema.Link, at time.Time, overruns uint64, emit func(*event.Change)) {
	e := t.links[link.Index]
	t.out = event.Change{About: event.About{Cause: schema.Resync, Time: at, Overruns: overruns}}
	switch {
	case e == nil:
		t.add(link, schema.Created, emit)
	case event.Replaced(e.link, link):
		t.remove(e, &schema.Link{}, emit)
		t.out.WasThere, t.out.Before = false, nil // nobody knows the one that has its index now
		t.add(link, schema.Created, emit)
	case *e.link != *link:
		t.update(e, link, emit)
	}
}

// unlike returns a copy of what a dump says of a link, or nil when the table has the same.
func (t *Table) unlike(link *schema.Link) *schema.Link {
	if e := t.links[link.Index]; e != nil && *e.link == *link {
		return nil
	}
	return t.keep(link)
}

// Restate emits the links whose events name other links by names that those no
// longer have, or did not have yet: the one end of a veth pair is announced before
// the kernel has said what the other is called.
func (t *Table) Restate(at time.Time, overruns uint64, emit func(*event.Change)) {
	for _, e := range t.sorted() {
		now := t.namesOf(e.link)
		if !e.published || now == e.names {
			continue
		}
		t.out = event.Change{
			About:  event.About{Cause: schema.Resync, Time: at, Overruns: overruns, WasThere: true},
			Before: e.link, BeforeNames: e.names,
		}
		t.out.Restated = now.ChangedKeys(&e.names)
		t.emit(e, schema.New, schema.Updated, emit)
	}
}

// vanished removes a link that a dump does not show.
func (t *Table) vanished(e *entry, at time.Time, overruns uint64, emit func(*event.Change)) {
	t.out = event.Change{About: event.About{Cause: schema.Resync, Time: at, Overruns: overruns}}
	t.remove(e, &schema.Link{}, emit)
}

func (t *Table) add(link *schema.Link, action schema.Action, emit func(*event.Change)) {
	t.generation++
	e := &entry{link: link, generation: t.generation, published: t.filter.Publishes(link, t.netns.Name)}
	t.links[link.Index] = e
	if t.others != nil {
		t.out.Counterpart = t.others.cameFrom(t, link.Index)
	}
	if e.published {
		t.emit(e, schema.New, action, emit)
	}
	t.know(e)
}

// fresh returns memory for a link.
func (t *Table) fresh() *schema.Link {
	link := t.spare
	if t.spare = nil; link == nil {
		link = new(schema.Link)
	}
	return link
}

// keep returns a copy of a link.
func (t *Table) keep(l *schema.Link) *schema.Link {
	kept := t.fresh()
	*kept = *l
	return kept
}

func (t *Table) update(e *entry, link *schema.Link, emit func(*event.Change)) {
	before, wasPublished := e.link, e.published
	renamed := before.Name != link.Name
	if renamed { // the kind, which the filter also looks at, never changes
		e.published = t.filter.Publishes(link, t.netns.Name)
	}
	beforeKept := e.kept
	e.link, e.kept = link, false
	if wasPublished || e.published {
		t.out.Before, t.out.BeforeNames, t.out.WasThere = before, e.names, wasPublished
		kind, action := schema.New, schema.Updated
		if renamed {
			action = schema.Renamed
		}
		if !e.published {
			kind = schema.Del
		}
		t.emit(e, kind, action, emit)
	}
	if !beforeKept {
		t.spare = before
	}
	t.know(e)
}

// remove takes e out. Last is what the kernel said when it went: where it went to.
func (t *Table) remove(e *entry, last *schema.Link, emit func(*event.Change)) {
	delete(t.links, e.link.Index)
	t.out.Before, t.out.BeforeNames = e.link, e.names
	action := schema.Deleted
	if _, moved := last.NewNetnsID.Get(); moved {
		action = schema.Moved
		e.link = t.keep(e.link)
		e.link.NewNetnsID, e.link.NewIndex = last.NewNetnsID, last.NewIndex
		if t.others != nil {
			t.out.Counterpart = t.others.wentTo(t, e.link)
		}
	}
	if !e.published {
		return
	}
	t.out.WasThere = true
	t.emit(e, schema.Del, action, emit)
}

// end removes every link: the namespace is gone, and the kernel announces none of
// them.
func (t *Table) end(at time.Time, overruns uint64, emit func(*event.Change)) {
	for _, e := range t.sorted() {
		t.vanished(e, at, overruns, emit)
	}
}

// Rename gives the namespace another name, which the filter may look at.
func (t *Table) Rename(name string, at time.Time, overruns uint64, emit func(*event.Change)) {
	before := t.netns.Name
	t.netns.Name = name
	for _, e := range t.sorted() {
		wasPublished := e.published
		e.published = t.filter.Publishes(e.link, name)
		if !wasPublished && !e.published {
			continue
		}
		t.out = event.Change{
			About:  event.About{Cause: schema.Resync, Time: at, Overruns: overruns, WasThere: wasPublished},
			Before: e.link, BeforeNames: e.names,
		}
		if wasPublished {
			t.out.NetnsBefore = before
		}
		kind := schema.New
		if !e.published {
			kind = schema.Del
		}
		t.emit(e, kind, schema.Renamed, emit)
	}
}

func (t *Table) emit(e *entry, kind schema.Kind, action schema.Action, emit func(*event.Change)) {
	c := &t.out
	c.ID = event.LinkID{Watch: t.watch, Index: e.link.Index, Generation: e.generation}
	c.Netns = t.netns
	c.Kind, c.Action = kind, action
	e.names = t.namesOf(e.link)
	c.Link, c.LinkNames = e.link, e.names
	if c.Before == nil {
		e.kept = true
	}
	c.Count += e.quiet
	e.quiet = 0
	emit(c)
}

// know takes note of a link's state. Why it was announced is said once, and no state.
func (t *Table) know(e *entry) {
	if e.link.Reason == "" {
		return
	}
	if e.kept {
		e.link, e.kept = t.keep(e.link), false
	}
	e.link.Reason = ""
}

// namesOf looks up the links that l refers to. They are looked up now: a name that
// changes later is that link's event.
func (t *Table) namesOf(l *schema.Link) event.Names {
	n := event.Names{InfoData: l.Info.Data, SlaveData: l.Info.SlaveData}
	nameOf := t.nameOf
	if _, away := l.LowerNetnsID.Get(); away { // its settings' indexes are of there, too
		nameOf = func(int32) (string, bool) { return "", false }
	} else if l.LowerIndex != 0 {
		n.Lower, _ = t.nameOf(l.LowerIndex)
	}
	if l.MasterIndex != 0 {
		n.Master, _ = t.nameOf(l.MasterIndex)
	}
	if n.InfoData != "" {
		n.InfoData = netlinksrc.NameLinks(l.Info.Kind, n.InfoData, nameOf)
	}
	if n.SlaveData != "" {
		n.SlaveData = netlinksrc.NameSlaveLinks(l.Info.SlaveKind, n.SlaveData, t.nameOf)
	}
	return n
}

func (t *Table) nameOf(index int32) (string, bool) {
	if e, ok := t.links[index]; ok {
		return e.link.Name, true
	}
	return "", false
}

// all returns the links, in no order.
func (t *Table) all() iter.Seq[*schema.Link] {
	return func(yield func(*schema.Link) bool) {
		for _, e := range t.links {
			if !yield(e.link) {
				return
			}
		}
	}
}
