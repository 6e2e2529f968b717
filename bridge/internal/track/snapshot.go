package track

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// countPublished returns how many links are published.
func (t *Table) countPublished() (n uint32) {
	for _, e := range t.links {
		if e.published {
			n++
		}
	}
	return n
}

// Snapshot calls emit with every link of the namespace that is published, by its index, as
// events of a snapshot with more of other namespaces behind it. It decides what is in a
// snapshot: a link that the filter leaves out is not, nor counted in Of. A later epoch of
// the run does not ask the kernel; it tells what consumers know already (state.Retell).
func (t *Table) Snapshot(more uint32, at time.Time, overruns uint64, emit func(*event.Change)) {
	pos, of := uint32(0), t.countPublished()
	for _, e := range t.sorted() {
		if !e.published {
			continue
		}
		pos++
		t.out = event.Change{About: event.About{
			Cause: schema.SnapshotCause, Time: at, Overruns: overruns,
			Snapshot: schema.Snapshot{Pos: pos, Of: of, More: more},
		}}
		t.emit(e, schema.New, schema.Existing, emit)
	}
}

// sorted returns the links by index, which is roughly the order of their birth.
func (t *Table) sorted() []*entry {
	return slices.SortedFunc(maps.Values(t.links), func(a, b *entry) int {
		return cmp.Compare(a.link.Index, b.link.Index)
	})
}
