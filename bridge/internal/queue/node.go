package queue

import (
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// A node is a place in the queue. Nodes refer to each other, and to what they hold
// outside of themselves, by number: there are no pointers in them.
type node struct {
	prev, next int32
	handle     int32 // of its knownLink
	size       uint8 // of what is used of values
	isWhole    bool  // the change stands in queue.whole
	isLarge    bool  // the values stand in queue.large
	kind       schema.Kind
	action     schema.Action
	cause      schema.Cause
	time, due  int64 // Unix nanoseconds; due 0: at once
	overruns   uint64
	count      uint64
	restated   schema.FieldSet
	keys       schema.FieldSet
	values     [nodeRoom]byte
}

// nodeRoom holds the values of nearly every change of one or two keys; going up or
// down changes seven, in 150 bytes.
const nodeRoom = 160

// about returns what is said of a change that is not whole.
func (n *node) about(k *knownLink) event.About {
	return event.About{
		ID: k.id, Kind: n.kind, Action: n.action, Cause: n.cause, Time: time.Unix(0, n.time),
		Overruns: n.overruns, Count: n.count, Restated: n.restated, WasThere: true, Netns: k.taken,
	}
}

// A nodeRing is the memory of a queue, and the ring in which the nodes that are in use
// stand. Node 0 is the ring's beginning and end. Memory is kept to be used again, but
// for that of a great many.
type nodeRing struct {
	chunks []*[chunkNodes]node
	free   int32 // the first of those that are not in use, which are linked by next; 0: none
	made   int32
}

const (
	chunkNodes = 128
	keptChunks = 16 // half a megabyte
)

func newRing() nodeRing {
	var n nodeRing
	n.get()
	return n
}

func (n *nodeRing) at(i int32) *node { return &n.chunks[uint32(i)/chunkNodes][uint32(i)%chunkNodes] }

// get returns a node that is not in the ring yet.
func (n *nodeRing) get() int32 {
	if i := n.free; i != 0 {
		n.free = n.at(i).next
		return i
	}
	if int(n.made)/chunkNodes == len(n.chunks) {
		n.chunks = append(n.chunks, new([chunkNodes]node))
	}
	n.made++
	return n.made - 1
}

// release takes back a node that is not in the ring any more.
func (n *nodeRing) release(i int32) { n.at(i).next, n.free = n.free, i }

// shrink gives memory back when no node is in use.
func (n *nodeRing) shrink() {
	if len(n.chunks) > keptChunks {
		*n = newRing()
	}
}

// oldest returns the first node of the ring, 0 when there is none.
func (n *nodeRing) oldest() int32 { return n.at(0).next }

// newest returns the last node of the ring, 0 when there is none.
func (n *nodeRing) newest() int32 { return n.at(0).prev }

// push puts a node at the end of the ring.
func (n *nodeRing) push(i int32) {
	end := n.at(0)
	last := end.prev
	n.at(i).prev, n.at(i).next = last, 0
	n.at(last).next, end.prev = i, i
}

func (n *nodeRing) unlink(i int32) {
	out := n.at(i)
	n.at(out.prev).next, n.at(out.next).prev = out.next, out.prev
}
