package queue_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/linktest"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/bridge/internal/track"
	"ifacebridge/schema"
)

// A plainQueue does what the queue does, and holds whole links before and after each
// change: the oracle for it, and for events that are made of what has changed.
type plainQueue struct {
	isFull    func(times int) bool
	window    time.Duration
	changes   []*plainChange
	newest    map[event.LinkID]*plainChange
	forgotten uint64
	group     *plainSnapshot // the last
	hasBegun  bool           // there was one, if of no link
}

type plainChange struct {
	event.Change
	due   time.Time
	group *plainSnapshot // it is of one
}

type plainSnapshot struct{ begun, isFirst bool } // whether one of its events was taken

func (q *plainQueue) push(c *event.Change) {
	inSnapshot := c.Snapshot.Of > 0
	forgets := q.isFull(2)
	next := &plainChange{Change: *c}
	link := *c.Link
	if next.Link = &link; c.Before != nil {
		before := *c.Before
		next.Before = &before
	}
	if q.window > 0 && !inSnapshot {
		next.due = c.Time.Add(q.window)
	}
	if first := q.newest[c.ID]; !inSnapshot && first != nil &&
		(q.isFull(1) || c.Time.Before(first.due)) {
		next.due = first.due
		foldPlain(&next.Change, &first.Change)
		q.changes = slices.DeleteFunc(q.changes, func(p *plainChange) bool { return p == first })
	}
	gone := c.Kind == schema.Del && c.Action != schema.Renamed
	if gone {
		delete(q.newest, c.ID)
		if !next.WasThere && forgets {
			q.forgotten++
			return
		}
		if forgets && q.forgetHeld(c.ID) {
			q.forgotten++
			return
		}
	}
	q.changes = append(q.changes, next)
	if inSnapshot {
		if c.Snapshot.Pos == 1 {
			q.group = &plainSnapshot{isFirst: !q.hasBegun}
		}
		next.group = q.group
		delete(q.newest, c.ID)
	} else if !gone {
		q.newest[c.ID] = next
	}
}

// forgetHeld takes a link out of the one snapshot that waits, if it has no other event, and
// nobody has seen a part of that. There is one namespace.
func (q *plainQueue) forgetHeld(id event.LinkID) bool {
	var held *plainChange
	for _, p := range q.changes {
		if p.group != nil && p.group != q.group || p.group == nil && p.ID == id {
			return false
		}
		if p.ID == id {
			held = p
		}
	}
	if held == nil || q.group.begun || q.group.isFirst {
		return false
	}
	q.changes = slices.DeleteFunc(q.changes, func(p *plainChange) bool { return p == held })
	for _, p := range q.changes {
		if p.group != nil {
			p.Snapshot.Of--
			if p.Snapshot.Pos > held.Snapshot.Pos {
				p.Snapshot.Pos--
			}
		}
	}
	return true
}

// foldPlain makes into stand for first, too.
func foldPlain(into, first *event.Change) {
	into.Count += first.Count
	into.Before, into.BeforeNames, into.WasThere = first.Before, first.BeforeNames, first.WasThere
	into.Restated |= first.Restated
	if first.NetnsBefore != "" {
		into.NetnsBefore = first.NetnsBefore
	}
	switch {
	case into.Kind == schema.Del:
	case !first.WasThere && first.Kind == schema.New:
		into.Action, into.NetnsBefore = first.Action, ""
		into.Counterpart = first.Counterpart
	case !first.WasThere: // it came and went, and came again, unseen
		into.Action, into.NetnsBefore = schema.Created, ""
	case first.WasThere && (into.Before.Name != into.Link.Name || into.NetnsBefore != ""):
		into.Action = schema.Renamed
	case first.WasThere:
		into.Action = schema.Updated
	}
}

// take returns the event of the oldest change, if it is due.
func (q *plainQueue) take(now time.Time, seq uint64) (e schema.Event, ok bool) {
	if len(q.changes) == 0 || q.changes[0].due.After(now) {
		return e, false
	}
	c := q.changes[0]
	if c.group != nil {
		c.group.begun = true
	}
	q.changes = q.changes[1:]
	if q.newest[c.ID] == c {
		delete(q.newest, c.ID)
	}
	e = schema.Event{
		Host: "web01", BootID: "boot", Epoch: "epoch", Seq: seq, Time: time.Unix(0, c.Time.UnixNano()),
		Kind: c.Kind, Action: c.Action, Cause: c.Cause,
		Overruns: c.Overruns + q.forgotten, Coalesced: c.Count, Snapshot: c.Snapshot,
		Netns: c.Netns.Name, NetnsInode: c.Netns.Inode, NetnsPrevious: c.NetnsBefore,
		Counterpart: c.Counterpart, Link: *c.Link,
	}
	c.LinkNames.Put(&e.Link)
	if c.Before != nil && (c.Action == schema.Updated || c.Action == schema.Renamed) {
		e.Changed, e.Previous = schema.Diff(c.Before, c.Link)|c.Restated, *c.Before
		c.BeforeNames.Put(&e.Previous)
	}
	return e, true
}

// Whatever happens to links and namespaces, whatever is taken in between, and however
// little room there is: the queue gives the events that the oracle gives, to the byte.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
	f.Add([]byte("\x0a0\x05\xff\x05\xfe\x05\xff\x00\x13\x05\xf7\x03\x00" +
		"\x05\xef\x06\x01\x08\x01\x05\xff\x05\xfb\x07\x01\x05\xf0"))
	// Links of a snapshot that waits go, of all that do, and when one of them was taken.
	f.Add([]byte("\x00\x00\x08\x01\x00\x00\x00\x01\x00\x02\x06\x07\x08\x01\x03\x01\x03\x00\x06\x07\x00\x00"))
	f.Add([]byte("\x00\x00\x08\x01\x00\x00\x00\x01\x00\x02\x06\x07\x08\x01\x03\x01\x03\x00\x03\x02\x06\x07\x00\x00"))
	f.Add([]byte("\x00\x00\x08\x01\x00\x00\x00\x01\x00\x02\x06\x07\x08\x01\x06\x01\x03\x01\x03\x00\x06\x07\x00\x00"))
	f.Add([]byte("\x08\x00\x08\x01\x00\x00\x00\x01\x00\x02\x06\x07\x08\x01\x03\x01\x00\x40\x03\x00\x06\x07\x00\x00"))
	f.Add([]byte("\x020000000100020003ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) < 2 {
			return
		}
		n, window := int(script[0]%8)+1, time.Duration(script[1]%3)*time.Second
		limit := linktest.Events(n)
		if script[0]&8 != 0 {
			limit = linktest.Bytes(n << 10)
		}
		tested := through{
			track.NewTable(excluding("x*"), event.Namespace{Name: "blue", Inode: 42}),
			queue.New(limit, window),
		}
		writer := event.Writer{ID: event.Identity{Host: "web01", BootID: "boot"}}
		oracle := &plainQueue{isFull: tested.IsFull, window: window, newest: map[event.LinkID]*plainChange{}}
		if script[0]&8 == 0 { // else the oracle does not know what the queue counts
			oracle.isFull = func(times int) bool { return len(oracle.changes) >= times*n }
		}
		both := func(c *event.Change) {
			oracle.push(c)
			tested.Push(c)
		}
		now, seq := time.Unix(1000, 0), uint64(0)
		var taken [1]event.Delta
		take := func(n int) {
			if counted, sum := tested.Recount(); counted != sum {
				t.Fatalf("counted %d bytes, and the sum is %d", counted, sum)
			}
			for range n {
				want, ok := oracle.take(now, seq+1)
				got, _ := tested.Take(taken[:], now)
				if ok != (got == 1) {
					t.Fatalf("took %d, want one: %v", got, ok)
				}
				if !ok {
					return
				}
				seq++
				data, _ := writer.Append(nil, &taken[0], "epoch", seq)
				if text := want.AppendJSON(nil); !bytes.Equal(data, text) {
					t.Fatalf("got\n%s\nwant\n%s", data, text)
				}
			}
		}
		names := []string{"a", "b", "x1", "a\xff"}
		for i := 2; i+1 < len(script); i += 2 {
			op, arg := script[i], script[i+1]
			now = now.Add(time.Duration(op) * 10 * time.Millisecond)
			l := link(int32(arg%4+1), names[arg>>2%4], mtu(uint32(arg>>4)), master(int32(op>>6)))
			m := newMsg(l)
			switch op % 9 {
			case 0, 1, 2:
			case 3:
				m = delMsg(l)
			case 4:
				m = partialMsg(l)
			case 5:
				m = newMsg(link(l.Index, "a", alias(string(bytes.Repeat([]byte{'a' + arg%8}, int(arg))))))
			case 6:
				take(int(arg % 8))
				continue
			case 7:
				tested.Rename([]string{"blue", "red", "green"}[arg%3], now, 0, both)
				continue
			case 8:
				if arg%2 == 0 {
					tested.Restate(now, 0, both)
					continue
				}
				tested.PushSnapshot(func(emit func(*event.Change)) {
					tested.Snapshot(0, now, 0, func(c *event.Change) { oracle.push(c); emit(c) })
				})
				oracle.hasBegun = true
				continue
			}
			m.Time = now
			tested.Apply(m, 0, both)
		}
		now = now.Add(time.Hour)
		take(1 << 20)
		if n, _, _ := tested.Size(); n != 0 {
			t.Fatalf("%d changes are left", n)
		}
		if counted, _ := tested.Recount(); counted != 0 {
			t.Fatalf("%d bytes are left", counted)
		}
	})
}
