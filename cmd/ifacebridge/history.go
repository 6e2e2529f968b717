package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"ifacebridge/fleet"
	"ifacebridge/schema"
)

// rowKey is a link in the table.
type rowKey struct {
	host, netns string
	index       int32
}

// A history keeps the last events of each link. The fleet and load write it, the table
// reads it.
type history struct {
	mu     sync.Mutex
	events map[rowKey][]schema.Event // the newest last, at most maxHistory
	from   time.Time                 // it has what has happened since
}

const (
	maxHistory = 100
	// maxPast is how many events of the past are read, the newest: a second's work, and
	// with 100,000 of them a server has sent 70 MB.
	maxPast = 100_000
)

func newHistory(from time.Time) *history {
	return &history{events: map[rowKey][]schema.Event{}, from: from}
}

func (h *history) add(c fleet.Change) {
	if c.Event == nil || c.Event.Snapshot.Of > 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.put(c.Event)
}

// put adds the next event of a link. What the link's name and index meant before a reboot
// was another link.
func (h *history) put(e *schema.Event) {
	k := rowKey{e.Host, e.Netns, e.Link.Index}
	list := h.events[k]
	if len(list) > 0 && list[len(list)-1].BootID != e.BootID {
		list = nil
	}
	list = append(list, *e)
	h.events[k] = list[max(0, len(list)-maxHistory):]
	if e.Kind == schema.Del && len(h.events) > 4*maxHistory { // a host that makes containers
		delete(h.events, k)
	}
}

// load reads what the stream holds since o.Ago, and puts it before what has happened
// meanwhile. Without a stream, or when it cannot be read, there is no past to show, as
// little as behind a stream's edge: neither is an error. It tries for a while, since the
// stream may be made at this moment.
func (h *history) load(ctx context.Context, c *client, o fleet.Options) {
	for tries := 5; tries > 0 && ctx.Err() == nil; tries-- {
		if past, from, err := readPast(ctx, c, o); err == nil {
			h.prepend(past, from)
			return
		}
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
		}
	}
}

// readPast reads what the stream holds since o.Ago. It returns since when that is all.
func readPast(ctx context.Context, c *client, o fleet.Options) (past *history, from time.Time, err error) {
	if err := c.reach(ctx); err != nil {
		return nil, from, err
	}
	ctx, cancel := context.WithTimeout(ctx, 6*reachTimeout)
	defer cancel()
	past = newHistory(time.Time{})
	from, err = fleet.Past(ctx, c.nc, o, maxPast, func(e *schema.Event) {
		if e.Snapshot.Of == 0 {
			past.put(e)
		}
	})
	return past, from, err
}

// prepend puts another history, which is used up, before what has happened meanwhile. The
// end of it may be the beginning of that.
func (h *history) prepend(past *history, from time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	live := h.events
	h.events, h.from = past.events, from
	for k, list := range live {
		for i := range list {
			if !slices.ContainsFunc(h.events[k], func(e schema.Event) bool { return e.ID() == list[i].ID() }) {
				h.put(&list[i])
			}
		}
	}
}

// since returns the time since which it has what has happened.
func (h *history) since() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.from
}

// of returns a link's last events, the newest first.
func (h *history) of(k rowKey) []schema.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := slices.Clone(h.events[k])
	slices.Reverse(list)
	return list
}

// flaps returns how often the link's state changed in the last minute.
func flaps(events []schema.Event, now time.Time) int {
	n := 0
	for i := range events {
		if events[i].Changed.Has("operstate") && now.Sub(events[i].Time) < time.Minute {
			n++
		}
	}
	return n
}
