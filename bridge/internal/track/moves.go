package track

import (
	"log/slog"
	"maps"

	"ifacebridge/bridge/internal/loop"
	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// moves follows links from one network namespace to another, so that the event where a
// link leaves has the place where it is now, and the event where it appears has the place
// where it was. The kernel notifies both namespaces, the one that the link leaves first,
// but on two sockets. Whoever calls has the lock of all tables.
type moves struct {
	watched map[uint64]*namespace // those that namespaces follows, by inode
	hint    chan<- struct{}       // to look for namespaces that are not watched yet
	log     *slog.Logger

	// arriving is where the links come from of which only the departure was read, by
	// where they go. Settle empties it of what was lost.
	arriving map[place]schema.Counterpart

	ahead bool // readAhead is at work: handling what it reads must not make it read on
}

var _ otherTables = (*moves)(nil)

// A place is where a link is: the number of a namespace that is watched, and the index
// in it.
type place struct {
	watch uint64
	index int32
}

// maxMoves is how many links may be on their way between two namespaces.
const maxMoves = 4096

func newMoves(watched map[uint64]*namespace, hint chan<- struct{}, log *slog.Logger) *moves {
	return &moves{watched: watched, hint: hint, log: log, arriving: map[place]schema.Counterpart{}}
}

// readAhead is called with each notification before it is handled. A link that is new
// in one namespace may come from another, which was notified before: so the others'
// notifications are read first. Then both events can name the other place, and they
// stand in order. Only one move is followed so: of a link that moves on before the first
// notification of it is read, an event may lack its counterpart, or stand before the one that
// it follows from, and what is noted of where it came from waits for the next comparison.
func (m *moves) readAhead(w *watcher, msg *netlinksrc.Message) {
	if msg.Kind == netlinksrc.Netns {
		loop.Signal(m.hint)
		return
	}
	isNew := msg.Kind == netlinksrc.New && !msg.Partial && w.table.links[msg.Link.Index] == nil
	if !isNew || m.ahead || len(m.watched) < 2 {
		return
	}
	m.ahead = true
	for _, other := range m.watched {
		if &other.watcher == w {
			continue
		}
		err := other.src.CatchUp(func(msg *netlinksrc.Message) { other.handle(msg, other.queue.Push) })
		if err != nil { // its own reader will meet it, too, and deals with it
			m.log.Debug("cannot read ahead", "netns", other.ns.Name, "cause", err)
		}
	}
	m.ahead = false
}

// wentTo implements otherTables. The kernel's message has the id of the other namespace
// in this one; which of the others that is, the kernel is asked.
func (m *moves) wentTo(from *Table, last *schema.Link) schema.Counterpart {
	w := m.namespaceOf(from)
	id, _ := last.NewNetnsID.Get()
	to := w.ids[id]
	if to != nil && !w.knows(to, id) {
		to = nil
	}
	for _, other := range m.watched {
		if to == nil && other != w && w.knows(other, id) {
			to = other
		}
	}
	if to == nil {
		loop.Signal(m.hint) // there is a namespace that we do not watch yet
		return schema.Counterpart{}
	}
	w.ids[id] = to
	if len(m.arriving) < maxMoves && to.table.links[last.NewIndex] == nil {
		m.arriving[place{to.table.watch, last.NewIndex}] = w.counterpart(last.Index)
	}
	return to.counterpart(last.NewIndex)
}

// knows reports whether another namespace has this id here.
func (w *namespace) knows(other *namespace, id int32) bool {
	known, ok, err := w.src.NetnsID(other.src)
	return err == nil && ok && known == id
}

func (w *namespace) counterpart(index int32) schema.Counterpart {
	return schema.Counterpart{Netns: w.table.netns.Name, NetnsInode: w.table.netns.Inode, Index: index}
}

// cameFrom implements otherTables.
func (m *moves) cameFrom(to *Table, index int32) schema.Counterpart {
	at := place{to.watch, index}
	from := m.arriving[at]
	delete(m.arriving, at)
	return from
}

// settle implements otherTables.
func (m *moves) settle(to *Table) {
	maps.DeleteFunc(m.arriving, func(at place, _ schema.Counterpart) bool { return at.watch == to.watch })
}

// forget removes a namespace that is dead: its ids may be given to others.
func (m *moves) forget(gone *namespace) {
	for _, w := range m.watched {
		maps.DeleteFunc(w.ids, func(_ int32, to *namespace) bool { return to == gone })
	}
	m.settle(gone.table)
}

func (m *moves) namespaceOf(t *Table) *namespace {
	for _, w := range m.watched {
		if w.table == t {
			return w
		}
	}
	return nil
}
