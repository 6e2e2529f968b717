package bridge

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"ifacebridge/schema"
)

// A plainQueue does what the queue does, and holds whole links before and after each
// change: the oracle for it, and for events that are made of what has changed.
type plainQueue struct {
	limit     int
	window    time.Duration
	changes   []*plainChange
	newest    map[linkID]*plainChange
	forgotten uint64
}

type plainChange struct {
	change
	due time.Time
}

func (q *plainQueue) push(c *change) {
	inSnapshot := c.snapshot.Of > 0
	next := &plainChange{change: *c}
	link := *c.link
	if next.link = &link; c.before != nil {
		before := *c.before
		next.before = &before
	}
	if q.window > 0 && !inSnapshot {
		next.due = c.time.Add(q.window)
	}
	if first := q.newest[c.id]; !inSnapshot && first != nil && (len(q.changes) >= q.limit || c.time.Before(first.due)) {
		next.due = first.due
		foldPlain(&next.change, &first.change)
		q.changes = slices.DeleteFunc(q.changes, func(p *plainChange) bool { return p == first })
	}
	gone := c.kind == schema.Del && c.action != schema.Renamed
	if gone {
		delete(q.newest, c.id)
		if !next.wasThere && len(q.changes) >= 2*q.limit {
			q.forgotten++
			return
		}
	}
	q.changes = append(q.changes, next)
	if inSnapshot {
		delete(q.newest, c.id)
	} else if !gone {
		q.newest[c.id] = next
	}
}

// foldPlain makes into stand for first, too.
func foldPlain(into, first *change) {
	into.count += first.count
	into.before, into.beforeNames, into.wasThere = first.before, first.beforeNames, first.wasThere
	into.restated |= first.restated
	if first.netnsBefore != "" {
		into.netnsBefore = first.netnsBefore
	}
	switch {
	case into.kind == schema.Del:
	case !first.wasThere && first.kind == schema.New:
		into.action, into.netnsBefore = first.action, ""
		into.counterpart = first.counterpart
	case !first.wasThere: // it came and went, and came again, unseen
		into.action, into.netnsBefore = schema.Created, ""
	case first.wasThere && (into.before.Name != into.link.Name || into.netnsBefore != ""):
		into.action = schema.Renamed
	case first.wasThere:
		into.action = schema.Updated
	}
}

// take returns the event of the oldest change, if it is due.
func (q *plainQueue) take(now time.Time, seq uint64) (e schema.Event, ok bool) {
	if len(q.changes) == 0 || q.changes[0].due.After(now) {
		return e, false
	}
	c := q.changes[0]
	q.changes = q.changes[1:]
	if q.newest[c.id] == c {
		delete(q.newest, c.id)
	}
	e = schema.Event{
		Host: "web01", BootID: "boot", Epoch: "epoch", Seq: seq, Time: time.Unix(0, c.time.UnixNano()), Kind: c.kind, Action: c.action, Cause: c.cause,
		Overruns: c.overruns + q.forgotten, Coalesced: c.count, Snapshot: c.snapshot,
		Netns: c.netns.name, NetnsInode: c.netns.inode, NetnsPrevious: c.netnsBefore, Counterpart: c.counterpart, Link: *c.link,
	}
	c.linkNames.put(&e.Link)
	if c.before != nil && (c.action == schema.Updated || c.action == schema.Renamed) {
		e.Changed, e.Previous = schema.Diff(c.before, c.link)|c.restated, *c.before
		c.beforeNames.put(&e.Previous)
	}
	return e, true
}

// Whatever happens to links and namespaces, whatever is taken in between, and however
// little room there is: the queue gives the events that the oracle gives, to the byte.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
	f.Add([]byte("\x020000000100020003ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) < 2 {
			return
		}
		limit, window := int(script[0]%8)+1, time.Duration(script[1]%3)*time.Second
		real := newThrough(limit, window)
		real.filter = excluding("x*")
		real.table.netns = netns{"blue", 42}
		oracle := &plainQueue{limit: limit, window: window, newest: map[linkID]*plainChange{}}
		both := func(c *change) {
			oracle.push(c)
			real.push(c)
		}
		now, seq := time.Unix(1000, 0), uint64(0)
		var taken [1]delta
		take := func(n int) {
			for range n {
				want, ok := oracle.take(now, seq+1)
				got, _ := real.take(taken[:], now)
				if ok != (got == 1) {
					t.Fatalf("took %d, want one: %v", got, ok)
				}
				if !ok {
					return
				}
				seq++
				data, _ := real.writer.append(nil, &taken[0], "epoch", seq)
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
				real.rename([]string{"blue", "red", "green"}[arg%3], now, 0, both)
				continue
			case 8:
				if arg%2 == 0 {
					real.restate(now, 0, both)
					continue
				}
				real.pushSnapshot(func(emit func(*change)) {
					real.snapshot(0, now, 0, func(c *change) { oracle.push(c); emit(c) })
				})
				continue
			}
			m.Time = now
			real.apply(m, 0, both)
		}
		now = now.Add(time.Hour)
		take(1 << 20)
		if n, _, _ := real.size(); n != 0 {
			t.Fatalf("%d changes are left", n)
		}
	})
}
