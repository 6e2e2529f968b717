package bridge

import (
	"testing"
	"time"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/linktest"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/schema"
)

// through applies messages to a table and pushes what they change.
type through struct {
	*table
	*queue.Queue
	*event.Writer
}

func newThrough(limit int, window time.Duration) through {
	return through{newTable(config.Filter{}), queue.New(limit, window), &event.Writer{ID: event.Identity{Host: "web01", BootID: "boot"}}}
}

func (q through) new(l schema.Link) { q.apply(linktest.New(l), 0, q.Push) }
func (q through) del(l schema.Link) { q.apply(linktest.Del(l), 0, q.Push) }

// takeAll takes what there is and returns the events that come of it, each in a line.
func (q through) takeAll(now time.Time) []string {
	into := make([]event.Delta, 100)
	n, _ := q.Take(into, now)
	var got []string
	for i := range into[:n] {
		e := q.event(&into[i])
		got = append(got, linktest.DescribeEvent(&e))
	}
	return got
}

// event returns the event of a change that was taken.
func (q through) event(d *event.Delta) (e schema.Event) {
	data, _ := q.Writer.Append(nil, d, "epoch", 1)
	if err := e.UnmarshalJSON(data); err != nil {
		panic(err)
	}
	return e
}

// Until it is full, each change is one event.
func TestQueueKeepsAll(t *testing.T) {
	q := newThrough(10, 0)
	for i := range uint32(5) {
		q.new(linktest.Link(2, "a", linktest.MTU(i)))
	}
	linktest.Expect(t, q.takeAll(time.Now()), "new created 2:a", "new updated 2:a [mtu]", "new updated 2:a [mtu]", "new updated 2:a [mtu]", "new updated 2:a [mtu]")
}

// Full, it folds the changes of one link into one, at the tail, against the state
// before the first.
func TestQueueFoldsWhenFull(t *testing.T) {
	q := newThrough(3, 0)
	q.new(linktest.Link(2, "a"))
	q.new(linktest.Link(3, "b"))
	linktest.Expect(t, q.takeAll(time.Now()), "new created 2:a", "new created 3:b")

	q.new(linktest.Link(2, "a", linktest.MTU(1)))
	q.new(linktest.Link(3, "b", linktest.MTU(1)))
	q.new(linktest.Link(2, "a", linktest.MTU(2)))
	q.new(linktest.Link(3, "c", linktest.MTU(1)))                      // full: folds b's update
	q.new(linktest.Link(2, "a", linktest.MTU(2), linktest.Alias("x"))) // folds a's second update, its first one is before it
	q.new(linktest.Link(3, "b", linktest.MTU(1500)))                   // back to what it was
	q.new(linktest.Link(4, "new"))                                     // nothing to fold: held beyond the limit
	q.new(linktest.Link(4, "new", linktest.MTU(7)))                    // folds into its creation
	q.del(linktest.Link(2, "a"))                                       // folds into a's deletion
	q.new(linktest.Link(2, "again"))                                   // another link under its index
	linktest.Expect(t, q.takeAll(time.Now()),
		"new updated 2:a [mtu]",
		"new updated 3:b [] x3",
		"new created 4:new x2",
		"del deleted 2:a x3",
		"new created 2:again")
}

// A link that came and went unseen is one del; their number is bounded, and what
// was forgotten is said.
func TestQueueForgetsWhatNobodySaw(t *testing.T) {
	q := newThrough(4, 0)
	for i := range int32(20) {
		q.new(linktest.Link(i+1, "ghost"))
		q.del(linktest.Link(i+1, "ghost"))
	}
	if n, _, _ := q.Size(); n > 2*4 {
		t.Errorf("%d changes are held, the bound is %d", n, 2*4)
	}
	into := make([]event.Delta, 100)
	n, _ := q.Take(into, time.Now())
	notifications := uint64(0)
	for i := range into[:n] {
		notifications += into[i].Count
		if into[i].Count == 2 && into[i].Kind != schema.Del {
			e := q.event(&into[i])
			t.Errorf("got %s", linktest.DescribeEvent(&e))
		}
	}
	if forgotten := into[n-1].Overruns; notifications+2*forgotten != 40 {
		t.Errorf("%d notifications are told of and %d links forgotten, of 40 notifications", notifications, forgotten)
	}
}

// The events of a snapshot are never folded, and nothing stands between them.
func TestQueueNeverFoldsASnapshot(t *testing.T) {
	q := newThrough(1, 0)
	for i := range int32(3) {
		q.apply(linktest.New(linktest.Link(i+1, "a")), 0, func(*event.Change) {})
	}
	q.PushSnapshot(func(emit func(*event.Change)) { q.snapshot(0, time.Now(), 0, emit) })
	q.new(linktest.Link(1, "a", linktest.MTU(1)))
	q.new(linktest.Link(1, "a", linktest.MTU(2)))
	q.del(linktest.Link(2, "a"))
	linktest.Expect(t, q.takeAll(time.Now()), "new existing 1:a", "new existing 2:a", "new existing 3:a", "new updated 1:a [mtu] x2", "del deleted 2:a")
}

// IFACE_COALESCE: one event for what comes within the window, and not later than
// twice the window however restless the link is.
func TestQueueFoldsWithinTheWindow(t *testing.T) {
	q := newThrough(100, time.Second)
	at := func(d time.Duration) time.Time { return time.Unix(1, 0).Add(d) }
	push := func(d time.Duration, l schema.Link) {
		m := linktest.New(l)
		m.Time = at(d)
		q.apply(m, 0, q.Push)
	}
	push(0, linktest.Link(2, "a"))
	push(10*time.Millisecond, linktest.Link(3, "b"))
	push(20*time.Millisecond, linktest.Link(2, "a", linktest.MTU(1)))
	into := make([]event.Delta, 9)
	if n, wait := q.Take(into, at(500*time.Millisecond)); n != 0 || wait != 510*time.Millisecond {
		t.Errorf("within the window: took %d, wait %v", n, wait)
	}
	push(1500*time.Millisecond, linktest.Link(2, "a", linktest.MTU(2))) // after the window of the first
	linktest.Expect(t, q.takeAll(at(1500*time.Millisecond)), "new created 3:b", "new created 2:a x2")
	q.Close()
	linktest.Expect(t, q.takeAll(at(1501*time.Millisecond)), "new updated 2:a [mtu]")
}

// Renames fold into what they come to.
func TestQueueFoldsRenames(t *testing.T) {
	seen := func() through {
		q := newThrough(1, 0)
		q.filter = linktest.Excluding("x*")
		q.new(linktest.Link(2, "a"))
		q.takeAll(time.Now())
		q.new(linktest.Link(9, "filler"))
		return q
	}
	q := seen()
	q.new(linktest.Link(2, "b"))
	q.new(linktest.Link(2, "b", linktest.MTU(1)))
	linktest.Expect(t, q.takeAll(time.Now()), "new created 9:filler", "new renamed 2:b [ifname mtu] x2")
	q = seen()
	q.new(linktest.Link(2, "b"))
	q.new(linktest.Link(2, "a"))
	linktest.Expect(t, q.takeAll(time.Now()), "new created 9:filler", "new updated 2:a [] x2")
	q = seen()
	q.new(linktest.Link(2, "x"))
	q.new(linktest.Link(2, "c"))
	linktest.Expect(t, q.takeAll(time.Now()), "new created 9:filler", "new renamed 2:c [ifname] x2")
	q = seen()
	q.new(linktest.Link(2, "b"))
	q.new(linktest.Link(2, "x"))
	linktest.Expect(t, q.takeAll(time.Now()), "new created 9:filler", "del renamed 2:x [ifname] x2")
}
