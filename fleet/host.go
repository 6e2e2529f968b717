package fleet

import (
	"slices"
	"time"

	"ifacebridge/schema"
)

// linkKey identifies a link of a host at one moment.
type linkKey struct {
	netns string
	index int32
}

func keyOf(e *schema.Event) linkKey { return linkKey{e.Netns, e.Link.Index} }

// A host applies the events of one host. It knows neither NATS nor time: what it
// does is a function of what it is given, in order.
type host struct {
	token, name   string
	bootID, epoch string
	seq           uint64
	links         map[linkKey]schema.Link
	last          time.Time
	past          []string         // epochs that are over, the newest last
	marked        map[linkKey]bool // in the snapshot that is being read

	whole   bool
	gap     bool           // events are missing: what comes waits for an answer
	waiting []schema.Event // since the gap, in order; at most maxWaiting

	quiet   bool
	awayFor int // presences in a row without an answer
	asked   bool
	tries   int // to be answered, since it was whole last

	gaps, healed, repeats uint64
}

const (
	// maxPast is how many epochs are remembered, so that their late events are known
	// for repeats.
	maxPast = 16
	// maxWaiting is how many events wait for an answer; when there are more, the
	// oldest go, and the bridge is asked once more.
	maxWaiting = 4096
)

func newHost(token, name string) *host {
	return &host{token: token, name: name, links: map[linkKey]schema.Link{}}
}

func (h *host) view() Host {
	return Host{Name: h.name, BootID: h.bootID, Epoch: h.epoch, Seq: h.seq, Links: sortedLinks(h.links), Last: h.last,
		Whole: h.whole, Quiet: h.quiet, Gaps: h.gaps, Healed: h.healed, Repeats: h.repeats}
}

// restart prepares for a source that begins again: what it repeats is known.
func (h *host) restart() { h.marked = nil }

// apply takes the next event. Lenient is for a beginning in the middle.
func (h *host) apply(e *schema.Event, data []byte, lenient bool) []Change {
	switch {
	case slices.Contains(h.past, e.Epoch), e.Epoch == h.epoch && e.Seq <= h.seq:
		h.repeats++
		return nil
	case e.Epoch != h.epoch && e.Seq == 1:
		h.begin(e)
	case e.Epoch == h.epoch && h.gap:
		h.wait(e)
		return nil
	case e.Epoch == h.epoch && e.Seq == h.seq+1:
	case lenient:
		h.begin(e)
	default:
		return h.lose(e)
	}
	h.seq, h.last = e.Seq, e.Time
	return append([]Change{{Kind: Applied, Host: h.name, Event: e, Data: data}}, h.change(e)...)
}

// begin goes over to the epoch of e. It is whole when its snapshot is.
func (h *host) begin(e *schema.Event) {
	if h.epoch != "" && h.epoch != e.Epoch {
		h.past = append(h.past, h.epoch)
		h.past = h.past[max(0, len(h.past)-maxPast):]
	}
	h.epoch, h.bootID, h.seq = e.Epoch, e.BootID, 0
	h.whole, h.gap, h.waiting, h.marked = false, false, nil, nil
}

// lose takes note that events before e are missing.
func (h *host) lose(e *schema.Event) []Change {
	missed := uint64(0)
	if e.Epoch == h.epoch {
		missed = e.Seq - h.seq - 1
	} else {
		h.begin(e)
	}
	h.gaps++
	h.whole, h.gap = false, true
	h.wait(e)
	return []Change{{Kind: Gap, Host: h.name, Missed: missed}}
}

func (h *host) wait(e *schema.Event) {
	h.waiting = append(h.waiting, *e)
	h.waiting = h.waiting[max(0, len(h.waiting)-maxWaiting):]
}

// change makes e's change, and sweeps what a snapshot does not have.
func (h *host) change(e *schema.Event) (gone []Change) {
	k := keyOf(e)
	if e.Kind == schema.Del {
		delete(h.links, k)
		return nil
	}
	h.links[k] = e.Link
	if e.Snapshot.Of == 0 {
		return nil
	}
	if e.Snapshot.Pos == 1 || h.marked == nil {
		h.marked = map[linkKey]bool{}
	}
	h.marked[k] = true
	if e.Snapshot.Pos < e.Snapshot.Of {
		return nil
	}
	complete := len(h.marked) == int(e.Snapshot.Of)
	if complete {
		gone = h.sweep(func(k linkKey) bool { return k.netns == e.Netns && !h.marked[k] })
		h.whole, h.tries = true, 0
	}
	h.marked = nil
	return gone
}

// sweep removes links whose events were missed.
func (h *host) sweep(gone func(linkKey) bool) (changes []Change) {
	for _, l := range sortedLinks(h.links) {
		if k := (linkKey{l.Netns, l.Link.Index}); gone(k) {
			changes = append(changes, h.forget(k)...)
		}
	}
	return changes
}

// forget removes a link.
func (h *host) forget(k linkKey) []Change {
	link, ok := h.links[k]
	if !ok {
		return nil
	}
	delete(h.links, k)
	return []Change{{Kind: Gone, Host: h.name, Event: &schema.Event{
		Host: h.name, BootID: h.bootID, Epoch: h.epoch, Seq: h.seq, Kind: schema.Del, Action: schema.Deleted, Cause: schema.Resync, Netns: k.netns, Link: link,
	}}}
}

// adopt takes the bridge's answer for the host's state, and applies what came
// behind it. The host is not whole afterwards when the answer is older than what
// is known, or events behind it are missing: the bridge has to be asked again.
func (h *host) adopt(a *schema.Links) (changes []Change) {
	if slices.Contains(h.past, a.Epoch) || a.Epoch == h.epoch && a.Seq < h.seq {
		return nil
	}
	if h.whole && a.Epoch == h.epoch && a.Seq == h.seq {
		h.tries = 0
		return nil // as expected
	}
	waiting, wasHealthy := h.waiting, h.whole
	if a.Epoch != h.epoch {
		h.begin(&schema.Event{Epoch: a.Epoch, BootID: a.BootID})
	}
	h.seq, h.bootID = a.Seq, a.BootID
	there := make(map[linkKey]bool, len(a.Links))
	for i := range a.Links {
		k := linkKey{a.Links[i].Netns, a.Links[i].Link.Index}
		h.links[k], there[k] = a.Links[i].Link, true
	}
	changes = h.sweep(func(k linkKey) bool { return !there[k] })
	h.whole, h.gap, h.waiting, h.marked, h.tries = true, false, nil, nil, 0
	if !wasHealthy || len(changes) > 0 {
		h.healed++
		changes = append(changes, Change{Kind: Healed, Host: h.name})
	}
	for i := range waiting {
		changes = append(changes, h.apply(&waiting[i], nil, false)...)
	}
	return changes
}

// latest takes the last event of a link, as the bucket has it.
func (h *host) latest(e *schema.Event, data []byte) []Change {
	h.last, h.bootID = e.Time, e.BootID
	if e.Epoch != h.epoch || e.Seq > h.seq {
		h.epoch, h.seq = e.Epoch, e.Seq
	}
	k := keyOf(e)
	h.links[k] = e.Link
	if h.marked != nil {
		h.marked[k] = true
	}
	h.whole = true
	return []Change{{Kind: Applied, Host: h.name, Event: e, Data: data}}
}

// sweepUnseen removes the links that a bucket which was read from the beginning
// did not have.
func (h *host) sweepUnseen() (changes []Change) {
	if h.marked != nil {
		changes = h.sweep(func(k linkKey) bool { return !h.marked[k] })
		h.marked = nil
	}
	return changes
}
