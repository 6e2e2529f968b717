package bridge

import (
	"sync"

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
func (s *state) apply(epoch string, events []outgoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range events {
		o := &events[i]
		if former, renamed := o.formerKey(); renamed {
			delete(s.links, former)
		}
		if o.gone {
			delete(s.links, o.key)
			continue
		}
		v := s.links[o.key]
		if v == nil {
			v = new(stored)
			s.links[o.key] = v
		}
		v.data, v.link = append(v.data[:0], o.data...), o.link
	}
	s.epoch, s.seq = epoch, events[len(events)-1].seq
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
