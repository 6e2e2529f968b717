package bridge

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	"ifacebridge/bridge/config"
	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// A change is one step of the published state: what an event will say, but for
// its place in the epoch, which it gets when it leaves the queue.
type change struct {
	about

	// link is the state after the change and before the one before it, nil when there
	// was none; both as the kernel says them: other links by index only, so that they
	// compare. They are the table's. A link without one before it the table leaves alone
	// afterwards, so that it may be kept; of others they hold until emit returns.
	link, before           *schema.Link
	linkNames, beforeNames names
}

// about is what there is to say of a change besides the link.
type about struct {
	id       linkID
	kind     schema.Kind
	action   schema.Action
	cause    schema.Cause
	time     time.Time
	overruns uint64
	count    uint64 // kernel notifications that it stands for
	snapshot schema.Snapshot

	// wasThere is whether a consumer knows the link, as it was before.
	wasThere bool

	// restated are keys that are said again although the link has not changed,
	// because the name that stands beside them has.
	restated schema.FieldSet

	// netns is the namespace of the link, and netnsBefore what it was called
	// before the change, when it had another name.
	netns       netns
	netnsBefore string

	counterpart schema.Counterpart
}

// isPlain reports whether all that c says is what is different of a link that consumers
// know, in a namespace.
func (c *change) isPlain(in netns) bool {
	return c.wasThere && c.before != nil && c.snapshot.Of == 0 && c.netns == in && c.netnsBefore == "" && c.counterpart == schema.Counterpart{}
}

// keys returns the keys of which the values are not what they were.
func (c *change) keys() schema.FieldSet {
	s := schema.Diff(c.before, c.link)
	if c.linkNames == c.beforeNames {
		return s
	}
	if c.linkNames.lower != c.beforeNames.lower {
		s |= lowerNameField
	}
	if c.linkNames.master != c.beforeNames.master {
		s |= masterNameField
	}
	if c.linkNames.infoData != c.beforeNames.infoData || c.linkNames.slaveData != c.beforeNames.slaveData {
		s |= linkInfoField
	}
	return s
}

// appendValues appends the values under keys, for a schema.Form.
func (c *change) appendValues(dst []byte, keys schema.FieldSet) []byte {
	if keys&(lowerNameField|masterNameField|linkInfoField) == 0 {
		return c.link.AppendValues(dst, keys)
	}
	named := *c.link
	c.linkNames.put(&named)
	return named.AppendValues(dst, keys)
}

// netns is what a namespace is called in events; its zero value is the bridge's own.
type netns struct {
	name  string
	inode uint64
}

// names are what the links that a link refers to were called at the time of a
// change: its lower link, its master, and those in its kind's settings.
type names struct {
	lower, master       string
	infoData, slaveData string // the settings with the names in them
}

// put puts the names into l.
func (n *names) put(l *schema.Link) {
	l.LowerName, l.MasterName, l.Info.Data, l.Info.SlaveData = n.lower, n.master, n.infoData, n.slaveData
}

// linkID identifies a link from its creation to its deletion. The kernel may
// give its index to another link afterwards: that one is of a later generation.
type linkID struct {
	watch      uint64 // of a namespace, from its beginning to its end: an inode is used again
	index      int32
	generation uint64
}

// A table is the links of one network namespace: all of them, so that names
// resolve, whether they are published or not. It decides what a message of the
// kernel changes. It is a pure function of the messages: no clock, no socket.
type table struct {
	watch      uint64
	netns      netns
	filter     config.Filter
	links      map[int32]*entry
	generation uint64
	out        change       // the one that emit is called with
	spare      *schema.Link // memory for the next link; nil: the next one makes its own

	// elsewhere knows the other namespaces; nil when there are none.
	elsewhere elsewhere
}

// elsewhere tells where links of a table went to, or came from. It keeps what it
// is told of one until it is asked for the other.
type elsewhere interface {
	// wentTo returns where a link is now that the kernel says was moved.
	wentTo(from *table, last *schema.Link) schema.Counterpart
	// cameFrom returns where a link came from that is new under an index.
	cameFrom(to *table, index int32) schema.Counterpart
	// settle says that the table is the kernel's: what it still keeps of links that
	// went there was lost.
	settle(to *table)
}

type entry struct {
	link       *schema.Link
	names      names // as they were last published
	generation uint64
	published  bool
	kept       bool   // somebody may keep link: its memory must not be used again
	quiet      uint64 // notifications since its last event that changed nothing
}

func newTable(filter config.Filter) *table {
	return &table{filter: filter, links: make(map[int32]*entry), spare: new(schema.Link)}
}

// apply takes a notification and calls emit with what it changes, if anything
// that is published. The change is emit's until it returns. A full message is
// the link's state, whatever came before; a partial one is merged into what is
// known, and says nothing about a link that is not. It reports quiet when the
// notification changed nothing: the link's next event counts it.
func (t *table) apply(m *netlinksrc.Message, overruns uint64, emit func(*change)) (quiet bool) {
	e := t.links[m.Link.Index]
	t.out = change{about: about{cause: schema.Notification, time: m.Time, overruns: overruns, count: 1}}
	switch {
	case m.Kind == netlinksrc.Del && e != nil:
		t.remove(e, &m.Link, emit)
	case m.Kind == netlinksrc.Del && t.elsewhere != nil: // it came and went unseen
		t.elsewhere.cameFrom(t, m.Link.Index)
	case m.Kind == netlinksrc.New && e == nil && !m.Partial:
		t.add(t.keep(&m.Link), schema.Created, emit)
	case m.Kind == netlinksrc.New && e != nil:
		next := t.fresh()
		if m.Merge(next, e.link); *next == *e.link {
			t.spare = next
			e.quiet++
			return true
		}
		t.update(e, next, emit)
	}
	return false
}

// compare takes what a dump says of a link, and calls emit with what differs
// from the table, as apply does. The link is the table's from then on.
func (t *table) compare(link *schema.Link, at time.Time, overruns uint64, emit func(*change)) {
	e := t.links[link.Index]
	t.out = change{about: about{cause: schema.Resync, time: at, overruns: overruns}}
	switch {
	case e == nil:
		t.add(link, schema.Created, emit)
	case replaced(e.link, link):
		t.remove(e, &schema.Link{}, emit)
		t.out.wasThere, t.out.before = false, nil // nobody knows the one that has its index now
		t.add(link, schema.Created, emit)
	case *e.link != *link:
		t.update(e, link, emit)
	}
}

// restate emits the links whose events name other links by names that those no
// longer have, or did not have yet: the one end of a veth pair is announced before
// the kernel has said what the other is called.
func (t *table) restate(at time.Time, overruns uint64, emit func(*change)) {
	for _, e := range t.sorted() {
		now := t.names(e.link)
		if !e.published || now == e.names {
			continue
		}
		t.out = change{about: about{cause: schema.Resync, time: at, overruns: overruns, wasThere: true}, before: e.link, beforeNames: e.names}
		if now.lower != e.names.lower {
			t.out.restated |= lowerIndexField
		}
		if now.master != e.names.master {
			t.out.restated |= masterIndexField
		}
		if now.infoData != e.names.infoData || now.slaveData != e.names.slaveData {
			t.out.restated |= linkInfoField
		}
		t.emit(e, schema.New, schema.Updated, emit)
	}
}

// The keys that stand for the names of other links, and those names.
var (
	lowerIndexField  = mustFields("link_index")
	masterIndexField = mustFields("master_index")
	linkInfoField    = mustFields("linkinfo")

	lowerNameField  = mustFields("link")
	masterNameField = mustFields("master")
)

// mustFields is schema.Fields for names that are constants.
func mustFields(names ...string) schema.FieldSet {
	set, err := schema.Fields(names...)
	if err != nil {
		panic(err)
	}
	return set
}

// vanished removes a link that a dump does not show.
func (t *table) vanished(e *entry, at time.Time, overruns uint64, emit func(*change)) {
	t.out = change{about: about{cause: schema.Resync, time: at, overruns: overruns}}
	t.remove(e, &schema.Link{}, emit)
}

// replaced reports whether a link under the same index can't be the one that was
// there: its index was given to another while nobody looked. A link keeps its kind, and
// the kernel only ever counts its carrier up. Its hardware type may change in place
// (TUNSETLINK, wlan monitor mode, an empty bond's first slave).
func replaced(old, link *schema.Link) bool {
	return old.Info.Kind != link.Info.Kind || old.Parent != link.Parent ||
		link.CarrierUpCount.Or(0) < old.CarrierUpCount.Or(0) ||
		link.CarrierDownCount.Or(0) < old.CarrierDownCount.Or(0)
}

func (t *table) add(link *schema.Link, action schema.Action, emit func(*change)) {
	t.generation++
	e := &entry{link: link, generation: t.generation, published: t.filter.Publishes(link, t.netns.name)}
	t.links[link.Index] = e
	if t.elsewhere != nil {
		t.out.counterpart = t.elsewhere.cameFrom(t, link.Index)
	}
	if e.published {
		t.emit(e, schema.New, action, emit)
	}
	t.know(e)
}

// fresh returns memory for a link.
func (t *table) fresh() *schema.Link {
	link := t.spare
	if t.spare = nil; link == nil {
		link = new(schema.Link)
	}
	return link
}

// keep returns a copy of a link.
func (t *table) keep(l *schema.Link) *schema.Link {
	kept := t.fresh()
	*kept = *l
	return kept
}

func (t *table) update(e *entry, link *schema.Link, emit func(*change)) {
	before, wasPublished := e.link, e.published
	renamed := before.Name != link.Name
	if renamed { // the kind, which the filter also looks at, never changes
		e.published = t.filter.Publishes(link, t.netns.name)
	}
	beforeKept := e.kept
	e.link, e.kept = link, false
	if wasPublished || e.published {
		t.out.before, t.out.beforeNames, t.out.wasThere = before, e.names, wasPublished
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
func (t *table) remove(e *entry, last *schema.Link, emit func(*change)) {
	delete(t.links, e.link.Index)
	t.out.before, t.out.beforeNames = e.link, e.names
	action := schema.Deleted
	if _, moved := last.NewNetnsID.Get(); moved {
		action = schema.Moved
		e.link = t.keep(e.link)
		e.link.NewNetnsID, e.link.NewIndex = last.NewNetnsID, last.NewIndex
		if t.elsewhere != nil {
			t.out.counterpart = t.elsewhere.wentTo(t, e.link)
		}
	}
	if !e.published {
		return
	}
	t.out.wasThere = true
	t.emit(e, schema.Del, action, emit)
}

// end removes every link: the namespace is gone, and the kernel announces none of
// them.
func (t *table) end(at time.Time, overruns uint64, emit func(*change)) {
	for _, e := range t.sorted() {
		t.vanished(e, at, overruns, emit)
	}
}

// rename gives the namespace another name, which the filter may look at.
func (t *table) rename(name string, at time.Time, overruns uint64, emit func(*change)) {
	before := t.netns.name
	t.netns.name = name
	for _, e := range t.sorted() {
		wasPublished := e.published
		e.published = t.filter.Publishes(e.link, name)
		if !wasPublished && !e.published {
			continue
		}
		t.out = change{about: about{cause: schema.Resync, time: at, overruns: overruns, wasThere: wasPublished}, before: e.link, beforeNames: e.names}
		if wasPublished {
			t.out.netnsBefore = before
		}
		kind := schema.New
		if !e.published {
			kind = schema.Del
		}
		t.emit(e, kind, schema.Renamed, emit)
	}
}

func (t *table) emit(e *entry, kind schema.Kind, action schema.Action, emit func(*change)) {
	c := &t.out
	c.id = linkID{t.watch, e.link.Index, e.generation}
	c.netns = t.netns
	c.kind, c.action = kind, action
	e.names = t.names(e.link)
	c.link, c.linkNames = e.link, e.names
	if c.before == nil {
		e.kept = true
	}
	c.count += e.quiet
	e.quiet = 0
	emit(c)
}

// know takes note of a link's state. Why it was announced is said once, and no state.
func (t *table) know(e *entry) {
	if e.link.Reason == "" {
		return
	}
	if e.kept {
		e.link, e.kept = t.keep(e.link), false
	}
	e.link.Reason = ""
}

// names looks up the links that l refers to. They are looked up now: a name that
// changes later is that link's event.
func (t *table) names(l *schema.Link) names {
	n := names{infoData: l.Info.Data, slaveData: l.Info.SlaveData}
	nameOf := t.nameOf
	if _, elsewhere := l.LowerNetnsID.Get(); elsewhere { // its settings' indexes are of there, too
		nameOf = func(int32) (string, bool) { return "", false }
	} else if l.LowerIndex != 0 {
		n.lower, _ = t.nameOf(l.LowerIndex)
	}
	if l.MasterIndex != 0 {
		n.master, _ = t.nameOf(l.MasterIndex)
	}
	if n.infoData != "" {
		n.infoData = netlinksrc.NameLinks(l.Info.Kind, n.infoData, nameOf)
	}
	if n.slaveData != "" {
		n.slaveData = netlinksrc.NameSlaveLinks(l.Info.SlaveKind, n.slaveData, t.nameOf)
	}
	return n
}

func (t *table) nameOf(index int32) (string, bool) {
	if e, ok := t.links[index]; ok {
		return e.link.Name, true
	}
	return "", false
}

// all returns the links, in no order.
func (t *table) all() iter.Seq[*schema.Link] {
	return func(yield func(*schema.Link) bool) {
		for _, e := range t.links {
			if !yield(e.link) {
				return
			}
		}
	}
}

// published returns how many links are published.
func (t *table) published() (n uint32) {
	for _, e := range t.links {
		if e.published {
			n++
		}
	}
	return n
}

// snapshot calls emit with every published link, as events of a snapshot with
// more of other namespaces behind it.
func (t *table) snapshot(more uint32, at time.Time, overruns uint64, emit func(*change)) {
	pos, of := uint32(0), t.published()
	for _, e := range t.sorted() {
		if !e.published {
			continue
		}
		pos++
		t.out = change{about: about{cause: schema.SnapshotCause, time: at, overruns: overruns, snapshot: schema.Snapshot{Pos: pos, Of: of, More: more}}}
		t.emit(e, schema.New, schema.Existing, emit)
	}
}

// sorted returns the links by index, which is roughly the order of their birth.
func (t *table) sorted() []*entry {
	return slices.SortedFunc(maps.Values(t.links), func(a, b *entry) int {
		return cmp.Compare(a.link.Index, b.link.Index)
	})
}
