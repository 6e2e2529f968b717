package state

import (
	"cmp"
	"slices"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// Retire returns a del for every link: the host is not called so any more.
func (s *State) Retire(id event.Identity, at time.Time) []schema.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var events []schema.Event
	for _, v := range s.links {
		e := event.Decode(v.data)
		events = append(events, schema.Event{
			Host: id.Host, BootID: id.BootID, OwnNetnsInode: id.OwnNetns, Time: at,
			Kind: schema.Del, Action: schema.Deleted, Cause: schema.Retired, Overruns: e.Overruns,
			Netns: e.Netns, NetnsInode: e.NetnsInode, Link: e.Link,
		})
	}
	slices.SortFunc(events, func(a, b schema.Event) int { return a.Key().Compare(b.Key()) })
	return events
}

// Retell returns the events with which a new epoch tells what consumers were told: the
// snapshots of all links as they were last, one for each namespace; or, when the snapshots
// of the last epoch are not whole, so much of them, as they were.
func (s *State) Retell(whole bool, at time.Time) []schema.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var events []schema.Event
	of := map[string]uint32{} // by namespace
	for _, v := range s.links {
		e := event.Decode(v.data)
		if !whole && (e.Epoch != s.epoch || e.Snapshot.Of == 0) {
			continue
		}
		of[e.Netns]++
		events = append(events, *e)
	}
	if !whole {
		slices.SortFunc(events, func(a, b schema.Event) int { return cmp.Compare(a.Seq, b.Seq) })
		return events
	}
	slices.SortFunc(events, func(a, b schema.Event) int { return a.Key().Compare(b.Key()) })
	more, pos := uint32(len(of)), uint32(0)
	for i := range events {
		e := &events[i]
		if pos++; i == 0 || events[i-1].Netns != e.Netns {
			pos, more = 1, more-1
		}
		*e = schema.Event{
			Host: e.Host, BootID: e.BootID, Time: at, Kind: schema.New, Action: schema.Existing, Cause: schema.SnapshotCause,
			Overruns: e.Overruns, Snapshot: schema.Snapshot{Pos: pos, Of: of[e.Netns], More: more},
			Netns: e.Netns, NetnsInode: e.NetnsInode, Link: e.Link,
		}
	}
	return events
}
