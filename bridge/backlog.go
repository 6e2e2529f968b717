package bridge

import (
	"context"
	"runtime"
	"time"

	"ifacebridge/schema"
)

// A backlog is where the publisher finds what it has to publish, oldest first:
// the queue, or the spool that the queue runs into. The one publisher calls it.
type backlog interface {
	// opening waits for the snapshot with which this run's epoch begins, and
	// returns its links, or errNoSnapshot when there will be none.
	opening(ctx context.Context) (opening, error)

	// next adds the oldest events of this run to the encoder, up to maxBatch. They
	// stay in the backlog until they are confirmed. When there are none it returns
	// how long to wait for one that is held for the folding window; 0 means until
	// ready. An error is a backlog that cannot be read.
	next(to *encoder, now time.Time) (wait time.Duration, err error)

	// confirm removes what next returned: NATS has it, and so much is told by that.
	confirm(told mark)

	// giveBack has the next call of next begin with these events, which are the last of
	// what it returned. Those before them are confirmed.
	giveBack(events []outgoing)

	// closed reports whether nothing will be added any more.
	closed() bool

	// ready receives a token when something may have been added.
	ready() <-chan struct{}

	// waiting returns how many events are in it.
	waiting() int
}

// An opening is what an epoch begins with: the links of its snapshots.
type opening struct {
	bootID   string
	ownNetns uint64 // the inode of the bridge's own namespace; 0: not known
	links    openingLinks
	at       time.Time
}

type openingLinks map[schema.LinkKey]openingLink

type openingLink struct {
	netnsInode uint64
	link       *schema.Link
}

// openingOf is the opening of an epoch that begins with these events.
func openingOf(events []schema.Event, id identity) opening {
	o := opening{bootID: id.bootID, ownNetns: id.ownNetns, links: openingLinks{}, at: time.Now()}
	for i := range events {
		e := &events[i]
		o.links[e.Key()] = openingLink{e.NetnsInode, &e.Link}
	}
	return o
}

// has reports whether e's link is among them, so that it need not have gone.
func (o *opening) has(e *schema.Event) bool {
	now, there := o.links[e.Key()]
	if e.Netns == "" && e.OwnNetnsInode != 0 && o.ownNetns != 0 && e.OwnNetnsInode != o.ownNetns {
		return false
	}
	return there && e.BootID == o.bootID && e.NetnsInode == now.netnsInode && !replaced(&e.Link, now.link)
}

// maxBatch is how many events are on their way at once: what a server takes as
// one atomic batch unless it is told otherwise (nats-server 2.15).
const maxBatch = 1000

// yieldEvery is after how many events the publisher lets the kernel's reader run, on
// the one CPU that they may have: a millisecond or so.
const yieldEvery = 512

// yield is called with each event's place in a batch.
func yield(i int) {
	if i%yieldEvery == yieldEvery-1 {
		runtime.Gosched()
	}
}

// direct is a backlog without a spool: the queue. What was taken out of it is in
// the encoder's batch alone, until it is confirmed.
type direct struct {
	id    identity
	queue *queue
	taken [maxTake]delta // room for next
	given []schema.Event // back
}

var _ backlog = (*direct)(nil)

func newDirect(id identity, q *queue) *direct {
	return &direct{id: id, queue: q}
}

func (d *direct) opening(ctx context.Context) (opening, error) {
	links, at, err := d.queue.firstSnapshot(ctx)
	return opening{d.id.bootID, d.id.ownNetns, links, at}, err
}

func (d *direct) next(to *encoder, now time.Time) (wait time.Duration, err error) {
	for i := range d.given {
		to.addEvent(&d.given[i])
	}
	d.given = nil
	for len(to.batch) < maxBatch {
		n, wait := d.queue.take(d.taken[:min(maxTake, maxBatch-len(to.batch))], now)
		for i := range d.taken[:n] {
			to.addDelta(&d.taken[i])
		}
		if n < maxTake {
			return wait, nil
		}
		yield(len(to.batch) - 1)
	}
	return 0, nil
}

func (d *direct) giveBack(events []outgoing) {
	for i := range events {
		d.given = append(d.given, *decodeEvent(events[i].data))
	}
}

func (d *direct) confirm(mark)           {}
func (d *direct) closed() bool           { return d.queue.isClosed() }
func (d *direct) ready() <-chan struct{} { return d.queue.ready }

func (d *direct) waiting() int {
	n, _, _ := d.queue.size()
	return n + len(d.given)
}
