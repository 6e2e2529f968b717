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
			Host: id.Host, BootID: id.BootID, OwnNetnsInode: id.OwnNetns, Labels: id.Labels, Time: at,
			Kind: schema.Del, Action: schema.Deleted, Cause: schema.Retired, Overruns: e.Overruns,
			Netns: e.Netns, NetnsInode: e.NetnsInode, Link: e.Link, Truncated: event.LeftOut(e),
		})
	}
	slices.SortFunc(events, func(a, b schema.Event) int { return a.Key().Compare(b.Key()) })
	return events
}

// Retell returns the events with which a new epoch tells what consumers were told: the
// snapshots of all links as they were last, one for each namespace.
func (s *State) Retell(at time.Time) []schema.Event {
	events := s.events(func(*schema.Event) bool { return true })
	slices.SortFunc(events, func(a, b schema.Event) int { return a.Key().Compare(b.Key()) })
	of, overruns := map[string]uint32{}, uint64(0) // by namespace; as of the last event of all
	for i := range events {
		overruns = max(overruns, events[i].Overruns)
		of[events[i].Netns]++
	}
	more, pos := uint32(len(of)), uint32(0)
	for i := range events {
		e := &events[i]
		if pos++; i == 0 || events[i-1].Netns != e.Netns {
			pos, more = 1, more-1
		}
		*e = schema.Event{
			Host: e.Host, BootID: e.BootID, Time: at, Kind: schema.New, Action: schema.Existing, Cause: schema.SnapshotCause,
			Overruns: overruns, Snapshot: schema.Snapshot{Pos: pos, Of: of[e.Netns], More: more},
			Netns: e.Netns, NetnsInode: e.NetnsInode, Link: e.Link, Truncated: event.LeftOut(e),
		}
	}
	return events
}

// Vanished returns, as the dels to publish, the links that are not among those that an epoch
// begins with: what an earlier run had left told of them last, and no bridge was running when
// they went. Of those that these epochs have told, the same run does.
func (s *State) Vanished(o event.Opening, but []string) []schema.Event {
	gone := s.events(func(e *schema.Event) bool { return !slices.Contains(but, e.Epoch) && !o.Has(e) })
	for i := range gone {
		gone[i] = o.Del(&gone[i])
	}
	slices.SortFunc(gone, func(a, b schema.Event) int { return a.Key().Compare(b.Key()) })
	return gone
}

// RetellPart returns, as they were, the events of snapshots that these epochs have told
// so far: the beginning of a run of which the snapshots are not all told.
func (s *State) RetellPart(epochs []string) []schema.Event {
	events := s.events(func(e *schema.Event) bool { return e.Snapshot.Of > 0 && slices.Contains(epochs, e.Epoch) })
	slices.SortFunc(events, func(a, b schema.Event) int {
		return cmp.Or(cmp.Compare(b.Snapshot.More, a.Snapshot.More), cmp.Compare(a.Snapshot.Pos, b.Snapshot.Pos))
	})
	return events
}

// events returns the last events of links, those that are wanted.
func (s *State) events(wanted func(*schema.Event) bool) (events []schema.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.links {
		if e := event.Decode(v.data); wanted(e) {
			events = append(events, *e)
		}
	}
	return events
}
