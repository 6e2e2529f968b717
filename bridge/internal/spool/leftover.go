package spool

import (
	"cmp"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// Leftover returns how far the oldest run came that left something here, or a mark of no
// run when there is none. Next returns the events of that run from then on.
func (s *Spool) Leftover() (m event.Mark, err error) {
	err = s.read(func(e *schema.Event) bool {
		if e.Epoch != s.id.Epoch {
			m.Run, m.Epoch = e.Epoch, e.Epoch
		}
		return false
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.Run != "" && cmp.Or(s.done.Run, s.done.Epoch) == m.Run {
		run := m.Run
		m = s.done
		m.Run = run
	}
	s.current = cmp.Or(m.Run, s.id.Epoch)
	return m, err
}

// Begin notes, on disk, that an epoch of this run begins there, before anything of it is in NATS.
func (s *Spool) Begin(from event.Mark) {
	from.Run = s.id.Epoch
	s.Resume(from)
}

// Resume notes, on disk, that events of a run follow from there: Next returns them.
func (s *Spool) Resume(from event.Mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.taken, s.done = from.Run, 0, from
	if s.db != nil {
		s.note(s.update(nil))
	}
}

// LeftoverOpening returns the snapshot that the oldest epoch begins with here. It
// is not whole when a part of it was published, or it was not all on disk.
func (s *Spool) LeftoverOpening() (o event.Opening, whole bool, err error) {
	o.Links = event.OpeningLinks{}
	var last schema.Snapshot
	err = s.read(func(e *schema.Event) bool {
		now := e.Snapshot
		follows := now.Pos == last.Pos+1 && now.Of == last.Of
		begins := now.Pos == 1 && last.Pos == last.Of && (last.Of == 0 || now.More+1 == last.More)
		if !follows && !begins {
			return false
		}
		o.Links[e.Key()] = event.OpeningLink{NetnsInode: e.NetnsInode, Link: &e.Link}
		o.BootID, o.OwnNetns, o.Labels, o.At = e.BootID, e.OwnNetnsInode, e.Labels, e.Time
		last, whole = now, now.Pos == now.Of && now.More == 0
		return !whole
	})
	return o, whole, err
}

// DropThrough removes the events of a run up to the last one that is stored, if that is here,
// and returns whether it is: the run has come to m.
func (s *Spool) DropThrough(last *schema.Event, m event.Mark) (found bool, err error) {
	n := 0
	err = s.read(func(e *schema.Event) bool {
		n++
		found = e.Epoch == s.current && event.SameContent(e, last)
		return !found && e.Epoch == s.current
	})
	if found {
		s.drop(n, m)
	}
	return found, err
}

// Discard removes all events of a run, which is the oldest here, and returns how many.
func (s *Spool) Discard(run string) (n int, err error) {
	err = s.read(func(e *schema.Event) bool {
		if e.Epoch == run {
			n++
		}
		return e.Epoch == run
	})
	s.drop(n, event.Mark{})
	return n, err
}
