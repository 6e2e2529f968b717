package queue

import "ifacebridge/bridge/internal/event"

// What things in the queue take in memory, in bytes, rounded up. TestSizes compares them
// with what they are.
const (
	nodeSize     = 240 // a node
	largeSize    = 64  // values outside of it, besides themselves: what refers to them
	wholeSize    = 768 // a whole change, besides its links, and what refers to it: a link's first is whole
	snapshotSize = 112 // a link of a snapshot, besides the link
	linkSize     = 704 // a link, besides its long strings
)

// sizeOf returns how much memory a link takes. Strings count although the table may have the
// same ones: it need not have them any more when the link is taken.
func sizeOf(l *event.LinkState) int {
	return linkSize + len(l.Alias) + len(l.Alt) + len(l.Info.Data) + len(l.Info.SlaveData) + len(l.XDP) + len(l.VFs) +
		len(l.InfoData) + len(l.SlaveData)
}

// size returns how much memory a whole change takes, besides its node.
func (w *wholeChange) size() int {
	n := wholeSize + sizeOf(&w.link)
	if w.before != nil {
		n += sizeOf(w.before)
	}
	return n
}

// size returns how much memory a link of a snapshot takes.
func (l *snapshotLink) size() int { return snapshotSize + sizeOf(&l.link) }

// size returns how much memory node i takes, with what it holds outside of itself, but for
// the links of a snapshot.
func (q *Queue) size(i int32) int {
	switch n := q.nodes.at(i); {
	case n.isWhole:
		return nodeSize + q.whole[i].size()
	case n.isLarge:
		return nodeSize + largeSize + cap(q.large[i])
	}
	return nodeSize
}

// isFull reports whether so many times the limit waits, or more.
func (q *Queue) isFull(times int) bool {
	return q.held/times >= q.limit.Events || q.bytes/times >= q.limit.Bytes
}
