package bridge

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// A state is what a consumer holds that has applied every event that NATS has
// confirmed: the last event of each link that is there. The publisher writes it;
// the bucket and the query service read it.
type state struct {
	mu    sync.Mutex
	epoch string
	seq   uint64
	links map[schema.LinkKey]*stored
}

// stored is the last event of a link, as published.
type stored struct {
	data []byte
	link int // where in data the link begins
}

func newState() *state { return &state{links: map[schema.LinkKey]*stored{}} }

// apply takes events that were confirmed. It copies what it keeps.
func (s *state) apply(epoch string, events []event.Outgoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range events {
		o := &events[i]
		if former, renamed := o.FormerKey(); renamed {
			delete(s.links, former)
		}
		if o.Gone {
			delete(s.links, o.Key)
			continue
		}
		v := s.links[o.Key]
		if v == nil {
			v = new(stored)
			s.links[o.Key] = v
		}
		v.data, v.link = append(v.data[:0], o.Data...), o.LinkAt
	}
	s.epoch, s.seq = epoch, events[len(events)-1].Seq
}

// last returns a copy of the last event of a link; nil when it is not there.
func (s *state) last(k schema.LinkKey) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.links[k]; v != nil {
		return append([]byte(nil), v.data...)
	}
	return nil
}

// keys returns the links that are there.
func (s *state) keys() []schema.LinkKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]schema.LinkKey, 0, len(s.links))
	for k := range s.links {
		keys = append(keys, k)
	}
	return keys
}

// retire returns a del for every link: the host is not called so any more.
func (s *state) retire(id event.Identity, at time.Time) []schema.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var events []schema.Event
	for _, v := range s.links {
		e := event.Decode(v.data)
		events = append(events, schema.Event{
			Host: id.Host, BootID: id.BootID, OwnNetnsInode: id.OwnNetns, Time: at, Kind: schema.Del, Action: schema.Deleted,
			Cause: schema.Retired, Overruns: e.Overruns, Netns: e.Netns, NetnsInode: e.NetnsInode, Link: e.Link,
		})
	}
	slices.SortFunc(events, func(a, b schema.Event) int { return a.Key().Compare(b.Key()) })
	return events
}

// retell returns the events with which a new epoch tells what consumers were told: the
// snapshots of all links as they were last, one for each namespace; or, when the snapshots
// of the last epoch are not whole, so much of them, as they were.
func (s *state) retell(whole bool, at time.Time) []schema.Event {
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
