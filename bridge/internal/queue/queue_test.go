package queue_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/linktest"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/bridge/internal/track"
	"ifacebridge/schema"
)

// through is a queue behind a table, to which messages are applied.
type through struct {
	*track.Table
	*queue.Queue
}

func newThrough(limit int, window time.Duration, filter config.Filter) through {
	return through{track.NewTable(filter, event.Namespace{}), queue.New(linktest.Events(limit), window)}
}

func (q through) created(l schema.Link) { q.Apply(newMsg(l), 0, q.Push) }
func (q through) deleted(l schema.Link) { q.Apply(delMsg(l), 0, q.Push) }

// Until it is full, each change is one event.
func TestQueueKeepsAll(t *testing.T) {
	q := newThrough(10, 0, config.Filter{})
	for i := range uint32(5) {
		q.created(link(2, "a", mtu(i)))
	}
	expect(
		t,
		linktest.Taken(q.Queue, time.Now()),
		"new created 2:a",
		"new updated 2:a [mtu]",
		"new updated 2:a [mtu]",
		"new updated 2:a [mtu]",
		"new updated 2:a [mtu]",
	)
}

// Full, it folds the changes of one link into one, at the tail, against the state
// before the first.
func TestQueueFoldsWhenFull(t *testing.T) {
	q := newThrough(3, 0, config.Filter{})
	q.created(link(2, "a"))
	q.created(link(3, "b"))
	expect(t, linktest.Taken(q.Queue, time.Now()), "new created 2:a", "new created 3:b")

	q.created(link(2, "a", mtu(1)))
	q.created(link(3, "b", mtu(1)))
	q.created(link(2, "a", mtu(2)))
	q.created(link(3, "c", mtu(1)))             // full: folds b's update
	q.created(link(2, "a", mtu(2), alias("x"))) // folds a's second update, its first one is before it
	q.created(link(3, "b", mtu(1500)))          // back to what it was
	q.created(link(4, "new"))                   // nothing to fold: held beyond the limit
	q.created(link(4, "new", mtu(7)))           // folds into its creation
	q.deleted(link(2, "a"))                     // folds into a's deletion
	q.created(link(2, "again"))                 // another link under its index
	expect(t, linktest.Taken(q.Queue, time.Now()),
		"new updated 2:a [mtu]",
		"new updated 3:b [] x3",
		"new created 4:new x2",
		"del deleted 2:a x3",
		"new created 2:again")
}

// A link that came and went unseen is one del; their number is bounded, and what
// was forgotten is said.
func TestQueueForgetsWhatNobodySaw(t *testing.T) {
	q := newThrough(4, 0, config.Filter{})
	for i := range int32(20) {
		q.created(link(i+1, "ghost"))
		q.deleted(link(i+1, "ghost"))
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
			e := linktest.EventOf(&into[i])
			t.Errorf("got %s", describeEvent(&e))
		}
	}
	if forgotten := into[n-1].Overruns; notifications+2*forgotten != 40 {
		t.Errorf("%d notifications are told of and %d links forgotten, of 40 notifications", notifications, forgotten)
	}
}

// Namespaces that come and go unseen, with their links, are forgotten as well: however many
// there are, the memory is bounded, and a snapshot that is taken is whole.
func TestQueueForgetsNamespacesThatNobodySaw(t *testing.T) {
	const limit = 64 << 10
	q := queue.New(linktest.Bytes(limit), 0)
	q.PushSnapshot(func(func(*event.Change)) {})
	most := 0
	for i := range uint64(2000) {
		table := track.NewTable(config.Filter{}, event.Namespace{Name: fmt.Sprint("ns", i), Inode: i})
		watched := func(push func(*event.Change)) func(*event.Change) {
			return func(c *event.Change) { c.ID.Watch = i; push(c) }
		}
		table.Apply(newMsg(link(1, "lo")), 0, func(*event.Change) {})
		table.Apply(newMsg(link(2, "eth0")), 0, func(*event.Change) {})
		table.Apply(newMsg(link(3, "eth1")), 0, func(*event.Change) {})
		q.PushSnapshot(func(emit func(*event.Change)) { table.Snapshot(0, time.Now(), 0, watched(emit)) })
		table.Apply(delMsg(link(2, "eth0")), 0, watched(q.Push))
		if i%10 > 0 { // else two links stay
			table.Apply(delMsg(link(1, "lo")), 0, watched(q.Push))
			table.Apply(delMsg(link(3, "eth1")), 0, watched(q.Push))
		}
		if i%100 == 99 {
			most = max(most, q.Bytes())
		}
	}
	_, _, forgotten := q.Size()
	if left := 200 * 2 * 3000; most > 2*limit+left || forgotten == 0 {
		t.Errorf("%d bytes at most, of at most %d and %d of links that stay; %d were forgotten",
			most, 2*limit, left, forgotten)
	}
	replay := map[string]uint32{} // how much of its last snapshot was taken
	into := make([]event.Delta, queue.MaxTake)
	told := uint64(0)
	for n := 1; n > 0; {
		n, _ = q.Take(into, time.Now())
		for i := range into[:n] {
			if d := &into[i]; d.Snapshot.Of > 0 {
				if d.Snapshot.Pos != replay[d.Netns.Name]+1 || d.Snapshot.Pos > d.Snapshot.Of {
					t.Fatalf("%s: %d of %d behind %d", d.Netns.Name, d.Snapshot.Pos, d.Snapshot.Of, replay[d.Netns.Name])
				}
				replay[d.Netns.Name] = d.Snapshot.Pos
				told++
			}
			if d := &into[i]; d.Overruns != forgotten {
				t.Fatalf("%d overruns, and %d links were forgotten", d.Overruns, forgotten)
			}
		}
	}
	if told+forgotten != 3*2000 {
		t.Errorf("%d links in snapshots and %d forgotten, of %d", told, forgotten, 3*2000)
	}
}

// Full of bytes, it folds as when it is full of events, however few those are: what it holds
// stays within the limit and one change of each link.
func TestQueueIsBoundedInBytes(t *testing.T) {
	const links, limit = 50, 256 << 10
	q := through{track.NewTable(config.Filter{}, event.Namespace{}), queue.New(linktest.Bytes(limit), 0)}
	names := func(turn int) string { return strings.Repeat(fmt.Sprint(turn%10), 1000) }
	for turn := range 100 {
		for i := range int32(links) {
			q.created(link(i+1, "a", alias(names(turn))))
		}
	}
	waiting, folded, forgotten := q.Size()
	if most := limit + links*3000; q.Bytes() > most || waiting < links || forgotten > 0 {
		t.Errorf("%d changes wait in %d bytes of at most %d, %d were forgotten", waiting, q.Bytes(), most, forgotten)
	}
	if folded == 0 || waiting+int(folded) != links*100 {
		t.Errorf("%d changes wait and %d were folded, of %d", waiting, folded, links*100)
	}
	into := make([]event.Delta, queue.MaxTake)
	notifications := uint64(0)
	for n := 1; n > 0; {
		n, _ = q.Take(into, time.Now())
		for i := range into[:n] {
			notifications += into[i].Count
		}
	}
	if notifications != links*100 || q.Bytes() != 0 {
		t.Errorf("the events stand for %d changes, of %d; %d bytes are left", notifications, links*100, q.Bytes())
	}
}

// The events of a snapshot are never folded, and nothing stands between them.
func TestQueueNeverFoldsASnapshot(t *testing.T) {
	q := newThrough(1, 0, config.Filter{})
	for i := range int32(3) {
		q.Apply(newMsg(link(i+1, "a")), 0, func(*event.Change) {})
	}
	q.PushSnapshot(func(emit func(*event.Change)) { q.Snapshot(0, time.Now(), 0, emit) })
	q.created(link(1, "a", mtu(1)))
	q.created(link(1, "a", mtu(2)))
	q.deleted(link(2, "a"))
	expect(
		t,
		linktest.Taken(q.Queue, time.Now()),
		"new existing 1:a",
		"new existing 2:a",
		"new existing 3:a",
		"new updated 1:a [mtu] x2",
		"del deleted 2:a",
	)
}

// When the clock is set back, what is held for the window is not held until it is as late
// again, and neither is what stands behind it.
func TestWindowWhenTheClockIsSetBack(t *testing.T) {
	q := newThrough(100, time.Second, config.Filter{})
	set := time.Unix(100000, 0)
	for i, at := range []time.Time{set.Add(time.Hour), set, set.Add(time.Second)} {
		m := newMsg(link(int32(2+i), fmt.Sprint("a", i)))
		m.Time = at
		q.Apply(m, 0, q.Push)
	}
	into := make([]event.Delta, 9)
	if n, wait := q.Take(into, set.Add(1500*time.Millisecond)); n != 2 || wait != 500*time.Millisecond {
		t.Errorf("took %d of the 2 that are due, and wait %v for the third", n, wait)
	}
}

// IFACE_COALESCE: one event for what comes within the window, and not later than
// twice the window however restless the link is.
func TestQueueFoldsWithinTheWindow(t *testing.T) {
	q := newThrough(100, time.Second, config.Filter{})
	at := func(d time.Duration) time.Time { return time.Unix(1, 0).Add(d) }
	push := func(d time.Duration, l schema.Link) {
		m := newMsg(l)
		m.Time = at(d)
		q.Apply(m, 0, q.Push)
	}
	push(0, link(2, "a"))
	push(10*time.Millisecond, link(3, "b"))
	push(20*time.Millisecond, link(2, "a", mtu(1)))
	into := make([]event.Delta, 9)
	if n, wait := q.Take(into, at(500*time.Millisecond)); n != 0 || wait != 510*time.Millisecond {
		t.Errorf("within the window: took %d, wait %v", n, wait)
	}
	push(1500*time.Millisecond, link(2, "a", mtu(2))) // after the window of the first
	expect(t, linktest.Taken(q.Queue, at(1500*time.Millisecond)), "new created 3:b", "new created 2:a x2")
	q.Close()
	expect(t, linktest.Taken(q.Queue, at(1501*time.Millisecond)), "new updated 2:a [mtu]")
}

// Renames fold into what they come to.
func TestQueueFoldsRenames(t *testing.T) {
	seen := func() through {
		q := newThrough(1, 0, excluding("x*"))
		q.created(link(2, "a"))
		linktest.Taken(q.Queue, time.Now())
		q.created(link(9, "filler"))
		return q
	}
	q := seen()
	q.created(link(2, "b"))
	q.created(link(2, "b", mtu(1)))
	expect(t, linktest.Taken(q.Queue, time.Now()), "new created 9:filler", "new renamed 2:b [ifname mtu] x2")
	q = seen()
	q.created(link(2, "b"))
	q.created(link(2, "a"))
	expect(t, linktest.Taken(q.Queue, time.Now()), "new created 9:filler", "new updated 2:a [] x2")
	q = seen()
	q.created(link(2, "x"))
	q.created(link(2, "c"))
	expect(t, linktest.Taken(q.Queue, time.Now()), "new created 9:filler", "new renamed 2:c [ifname] x2")
	q = seen()
	q.created(link(2, "b"))
	q.created(link(2, "x"))
	expect(t, linktest.Taken(q.Queue, time.Now()), "new created 9:filler", "del renamed 2:x [ifname] x2")
}

// The namespaces' names change while their links' events wait: what is folded says
// the name that a consumer knows, and the one that holds.
func TestQueueFoldsNamesOfNamespaces(t *testing.T) {
	table := track.NewTable(config.Filter{}, event.Namespace{Name: "blue", Inode: 42})
	q := queue.New(linktest.Events(1), 0)
	into := make([]event.Delta, 10)
	table.Apply(newMsg(link(2, "a")), 0, q.Push)
	q.Take(into, time.Time{})
	table.Apply(newMsg(link(2, "a", mtu(9))), 0, q.Push)
	table.Rename("red", time.Time{}, 0, q.Push)
	table.Rename("green", time.Time{}, 0, q.Push)
	table.Apply(delMsg(link(2, "a")), 0, q.Push)
	if n, _ := q.Take(into, time.Time{}); n != 1 {
		t.Fatalf("%d changes", n)
	}
	var e schema.Event
	data, _ := new(event.Writer).Append(nil, &into[0], "epoch", 1)
	if err := e.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	if e.Kind != schema.Del || e.Netns != "green" || e.NetnsPrevious != "blue" || e.NetnsInode != 42 {
		t.Errorf("got %s", e.AppendJSON(nil))
	}
}
