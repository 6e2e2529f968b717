// Package state has what a consumer holds that has applied all events that are confirmed:
// a [State]. A [Bucket] keeps it in JetStream, where the next run finds it, and a [Query]
// answers with it, as the owner of the host's name. A [Presence] tells in the bucket of hosts
// that the host is there.
package state

import (
	"bytes"
	"sync"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// A State is what a consumer holds that has applied every event that NATS has
// confirmed: the last event of each link that is there. The publisher writes it; the
// bucket and the query service read it, from goroutines of their own.
type State struct {
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

// New returns the state of no links.
func New() *State { return &State{links: map[schema.LinkKey]*stored{}} }

// Apply takes events of an epoch that were confirmed, one at least. It copies what it keeps.
func (s *State) Apply(epoch string, events []event.Outgoing) {
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

// Reset makes it the state of no links, as New does.
func (s *State) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch, s.seq = "", 0
	clear(s.links)
}

// last returns a copy of the last event of a link; nil when it is not there.
func (s *State) last(k schema.LinkKey) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.links[k]; v != nil {
		return append([]byte(nil), v.data...)
	}
	return nil
}

// size returns how many links there are, and the event that this is true at.
func (s *State) size() (epoch string, seq uint64, links int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch, s.seq, len(s.links)
}

// isLast reports whether data is the last event of a link.
func (s *State) isLast(k schema.LinkKey, data []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.links[k]
	return v != nil && bytes.Equal(v.data, data)
}

// keys returns the links that are there.
func (s *State) keys() []schema.LinkKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]schema.LinkKey, 0, len(s.links))
	for k := range s.links {
		keys = append(keys, k)
	}
	return keys
}
