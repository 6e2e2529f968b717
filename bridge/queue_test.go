package bridge

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ifacebridge/bridge/config"
	"ifacebridge/schema"
)

// through applies messages to a table and pushes what they change.
type through struct {
	*table
	*queue
	*writer
}

func newThrough(limit int, window time.Duration) through {
	return through{newTable(config.Filter{}), newQueue(limit, window), &writer{id: identity{host: "web01", bootID: "boot"}}}
}

func (q through) new(l schema.Link) { q.apply(newMsg(l), 0, q.push) }
func (q through) del(l schema.Link) { q.apply(delMsg(l), 0, q.push) }

// takeAll takes what there is and returns the events that come of it, each in a line.
func (q through) takeAll(now time.Time) []string {
	into := make([]delta, 100)
	n, _ := q.take(into, now)
	var got []string
	for i := range into[:n] {
		e := q.event(&into[i])
		got = append(got, describeEvent(&e))
	}
	return got
}

// event returns the event of a change that was taken.
func (q through) event(d *delta) (e schema.Event) {
	data, _ := q.writer.append(nil, d, "epoch", 1)
	if err := e.UnmarshalJSON(data); err != nil {
		panic(err)
	}
	return e
}

// describeEvent is describe for an event.
func describeEvent(e *schema.Event) string {
	s := fmt.Sprintf("%v %v %d:%s", e.Kind, e.Action, e.Link.Index, e.Link.Name)
	if e.Action == schema.Updated || e.Action == schema.Renamed {
		s += " " + e.Changed.String()
	}
	if e.Coalesced > 1 {
		s += fmt.Sprintf(" x%d", e.Coalesced)
	}
	if e.Cause == schema.Resync {
		s += " resync"
	}
	return s
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Until it is full, each change is one event.
func TestQueueKeepsAll(t *testing.T) {
	q := newThrough(10, 0)
	for i := range uint32(5) {
		q.new(link(2, "a", mtu(i)))
	}
	expect(t, q.takeAll(time.Now()), "new created 2:a", "new updated 2:a [mtu]", "new updated 2:a [mtu]", "new updated 2:a [mtu]", "new updated 2:a [mtu]")
}

// Full, it folds the changes of one link into one, at the tail, against the state
// before the first.
func TestQueueFoldsWhenFull(t *testing.T) {
	q := newThrough(3, 0)
	q.new(link(2, "a"))
	q.new(link(3, "b"))
	expect(t, q.takeAll(time.Now()), "new created 2:a", "new created 3:b")

	q.new(link(2, "a", mtu(1)))
	q.new(link(3, "b", mtu(1)))
	q.new(link(2, "a", mtu(2)))
	q.new(link(3, "c", mtu(1)))             // full: folds b's update
	q.new(link(2, "a", mtu(2), alias("x"))) // folds a's second update, its first one is before it
	q.new(link(3, "b", mtu(1500)))          // back to what it was
	q.new(link(4, "new"))                   // nothing to fold: held beyond the limit
	q.new(link(4, "new", mtu(7)))           // folds into its creation
	q.del(link(2, "a"))                     // folds into a's deletion
	q.new(link(2, "again"))                 // another link under its index
	expect(t, q.takeAll(time.Now()),
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
		q.new(link(i+1, "ghost"))
		q.del(link(i+1, "ghost"))
	}
	if n, _, _ := q.size(); n > 2*4 {
		t.Errorf("%d changes are held, the bound is %d", n, 2*4)
	}
	into := make([]delta, 100)
	n, _ := q.take(into, time.Now())
	notifications := uint64(0)
	for i := range into[:n] {
		notifications += into[i].count
		if into[i].count == 2 && into[i].kind != schema.Del {
			e := q.event(&into[i])
			t.Errorf("got %s", describeEvent(&e))
		}
	}
	if forgotten := into[n-1].overruns; notifications+2*forgotten != 40 {
		t.Errorf("%d notifications are told of and %d links forgotten, of 40 notifications", notifications, forgotten)
	}
}

// The events of a snapshot are never folded, and nothing stands between them.
func TestQueueNeverFoldsASnapshot(t *testing.T) {
	q := newThrough(1, 0)
	for i := range int32(3) {
		q.apply(newMsg(link(i+1, "a")), 0, func(*change) {})
	}
	q.pushSnapshot(func(emit func(*change)) { q.snapshot(0, time.Now(), 0, emit) })
	q.new(link(1, "a", mtu(1)))
	q.new(link(1, "a", mtu(2)))
	q.del(link(2, "a"))
	expect(t, q.takeAll(time.Now()), "new existing 1:a", "new existing 2:a", "new existing 3:a", "new updated 1:a [mtu] x2", "del deleted 2:a")
}

// IFACE_COALESCE: one event for what comes within the window, and not later than
// twice the window however restless the link is.
func TestQueueFoldsWithinTheWindow(t *testing.T) {
	q := newThrough(100, time.Second)
	at := func(d time.Duration) time.Time { return time.Unix(1, 0).Add(d) }
	push := func(d time.Duration, l schema.Link) {
		m := newMsg(l)
		m.Time = at(d)
		q.apply(m, 0, q.push)
	}
	push(0, link(2, "a"))
	push(10*time.Millisecond, link(3, "b"))
	push(20*time.Millisecond, link(2, "a", mtu(1)))
	into := make([]delta, 9)
	if n, wait := q.take(into, at(500*time.Millisecond)); n != 0 || wait != 510*time.Millisecond {
		t.Errorf("within the window: took %d, wait %v", n, wait)
	}
	push(1500*time.Millisecond, link(2, "a", mtu(2))) // after the window of the first
	expect(t, q.takeAll(at(1500*time.Millisecond)), "new created 3:b", "new created 2:a x2")
	q.close()
	expect(t, q.takeAll(at(1501*time.Millisecond)), "new updated 2:a [mtu]")
}

// Renames fold into what they come to.
func TestQueueFoldsRenames(t *testing.T) {
	seen := func() through {
		q := newThrough(1, 0)
		q.filter = excluding("x*")
		q.new(link(2, "a"))
		q.takeAll(time.Now())
		q.new(link(9, "filler"))
		return q
	}
	q := seen()
	q.new(link(2, "b"))
	q.new(link(2, "b", mtu(1)))
	expect(t, q.takeAll(time.Now()), "new created 9:filler", "new renamed 2:b [ifname mtu] x2")
	q = seen()
	q.new(link(2, "b"))
	q.new(link(2, "a"))
	expect(t, q.takeAll(time.Now()), "new created 9:filler", "new updated 2:a [] x2")
	q = seen()
	q.new(link(2, "x"))
	q.new(link(2, "c"))
	expect(t, q.takeAll(time.Now()), "new created 9:filler", "new renamed 2:c [ifname] x2")
	q = seen()
	q.new(link(2, "b"))
	q.new(link(2, "x"))
	expect(t, q.takeAll(time.Now()), "new created 9:filler", "del renamed 2:x [ifname] x2")
}
