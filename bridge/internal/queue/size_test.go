package queue

import (
	"testing"
	"unsafe"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// What the queue counts is what its memory takes, within a factor that matters to nobody.
func TestSizes(t *testing.T) {
	reference := unsafe.Sizeof(int32(0)) + unsafe.Sizeof(uintptr(0)) // an entry of a map
	for what, size := range map[string]struct {
		counted int
		real    uintptr
	}{
		"a node":               {nodeSize, unsafe.Sizeof(node{})},
		"what refers to large": {largeSize, 4 + unsafe.Sizeof([]byte{})},
		"a whole change": {wholeSize, unsafe.Sizeof(wholeChange{}) + reference +
			unsafe.Sizeof(knownLink{}) + unsafe.Sizeof(event.LinkID{}) + reference + unsafe.Sizeof(schema.Form{})},
		"a link of a snapshot": {snapshotSize, unsafe.Sizeof(snapshotLink{})},
		"a link":               {linkSize, unsafe.Sizeof(schema.Link{})},
	} {
		if real := int(size.real); size.counted < real || size.counted > 3*real {
			t.Errorf("%s: counted as %d bytes, and takes %d", what, size.counted, real)
		}
	}
}

// IsFull is isFull, for the oracle.
func (q *Queue) IsFull(times int) bool { return q.isFull(times) }

// Recount returns what is counted of the memory, and what the sum of it is.
func (q *Queue) Recount() (counted, sum int) {
	for i := q.nodes.oldest(); i != 0; i = q.nodes.at(i).next {
		s := q.snapshots[i]
		if s == nil {
			sum += q.size(i)
			continue
		}
		for j := range s.links {
			sum += s.links[j].size()
		}
	}
	return q.bytes, sum
}
