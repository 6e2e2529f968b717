package fleet

import (
	"slices"
	"time"

	"ifacebridge/schema"
)

// A host applies the events of one host. It knows nothing of NATS, and of time only when it
// was retired: what it does is a function of what it is given, in order.
type host struct {
	token, name   string
	bootID, epoch string
	labels        schema.Labels
	seq           uint64
	links         map[schema.LinkKey]schema.Link
	last          time.Time
	past          []string                // epochs that are over, the newest last
	marked        map[schema.LinkKey]bool // in the snapshot that is being read

	whole   bool
	known   bool           // it was whole before
	opening bool           // its epoch's snapshots are being read, none of them was missed
	gap     bool           // events are missing: what comes is kept for the answer
	waiting []schema.Event // since the gap; at most maxWaiting

	stored     bool          // FromBucket: the bucket has had it, so that there is nothing to ask
	lacks      int           // links that the bucket does not have as they are, as the bridge said last
	unsure     bool          // FromBucket: it lacks some, or was made anew, and its bridge has not said yet what there is
	standing   standing      // in the bucket of hosts
	stale      bool          // that was so before the bucket is read again
	heard      time.Time     // when its value, or that it was retired, came last, and
	ttl        time.Duration // how long the value is good for
	markedAt   time.Time     // when its marker came, of either kind
	quietSince time.Time
	leaving    bool      // its last event has retired a link
	retiredAt  time.Time // when it was gone for good; zero: it is not

	inStream bool   // FromStream: every event is given, in the stream's order
	given    uint64 // FromStream: the seq of the last event of epoch that was given
	ahead    bool   // FromStream: the epoch is that of an answer, and the stream has not come to it

	behind  uint64 // what the bridge had confirmed at the last presence, when that was more
	lost    bool   // it was so already at the presence before that
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
	return &host{token: token, name: name, links: map[schema.LinkKey]schema.Link{}}
}

func (h *host) view() Host {
	view := Host{
		Name: h.name, BootID: h.bootID, Labels: h.labels,
		Epoch: h.epoch, Seq: h.seq, Links: sortedLinks(h.links), Last: h.last,
		Whole: h.whole, Quiet: h.quiet, Gaps: h.gaps, Healed: h.healed, Repeats: h.repeats,
	}
	if h.quiet {
		view.QuietSince = h.quietSince
	}
	return view
}

// restart prepares for a bucket that is read again from the beginning: what it does
// not have any more is gone.
func (h *host) restart() { h.marked = map[schema.LinkKey]bool{} }

// restartAnew prepares for a bucket that was made anew. The bridge fills it link by link:
// what it does not have yet may be there all the same, which only the bridge can say.
func (h *host) restartAnew() {
	h.doubt()
	h.restart()
	h.unsure, h.stored = true, false
}

// apply takes the next event. It is applied also when events before it are
// missing, so that nobody waits for news; what is known of the host is not whole
// then, until the bridge has answered. Lenient is for a beginning in the middle,
// behind which all the rest will come.
func (h *host) apply(e *schema.Event, data []byte, lenient bool) (changes []Change) {
	applied := Change{Kind: Applied, Host: h.name, Event: e, Data: data}
	if h.ahead = h.ahead && e.Epoch != h.epoch; h.ahead {
		return []Change{applied}
	}
	switch {
	case slices.Contains(h.past, e.Epoch), e.Epoch == h.epoch && e.Seq <= h.seq:
		if h.inStream && e.Epoch == h.epoch && e.Seq > h.given { // an answer has overtaken it
			h.given = e.Seq
			return []Change{applied}
		}
		h.repeats++
		return nil
	case e.Epoch != h.epoch && e.Seq == 1:
		h.begin(e)
	case e.Epoch == h.epoch && e.Seq == h.seq+1:
	default:
		changes = h.lose(e, lenient)
	}
	h.seq, h.given, h.last = e.Seq, e.Seq, e.Time
	h.leaving = e.Kind == schema.Del && e.Cause == schema.Retired
	if h.isRetired() && !h.leaving {
		h.comeBack()
	}
	if h.standing == retired && !h.leaving && !h.inStream {
		h.standing = unknown // its marker is from before, and its bridge may not write another one
	}
	if h.gap {
		h.waiting = append(h.waiting, *e)
		h.waiting = h.waiting[max(0, len(h.waiting)-maxWaiting):]
	}
	changes = append(changes, applied)
	return append(append(changes, h.change(e)...), h.retire()...)
}

// isRetired reports whether the host is gone for good.
func (h *host) isRetired() bool { return !h.retiredAt.IsZero() }

// fallQuiet notes that the host is silent since then.
func (h *host) fallQuiet(since time.Time) []Change {
	if h.quiet || h.isRetired() {
		return nil
	}
	h.quiet, h.quietSince = true, since
	return []Change{{Kind: Quiet, Host: h.name, Since: since}}
}

// comeBack notes that the host is there.
func (h *host) comeBack() (changes []Change) {
	if h.quiet && !h.isRetired() {
		changes = []Change{{Kind: Back, Host: h.name}}
	}
	h.quiet, h.quietSince, h.retiredAt, h.awayFor = false, time.Time{}, time.Time{}, 0
	return changes
}

// retire notes that the host is gone for good, if it is: it was retired, and has no links.
// One that has none for a moment, and is silent, may just be starting.
func (h *host) retire() []Change {
	gone := h.leaving || h.standing == retired
	if h.isRetired() || len(h.links) > 0 || !gone || h.standing == present {
		return nil
	}
	h.retiredAt, h.whole, h.known = time.Now(), false, false
	return []Change{{Kind: Retired, Host: h.name}}
}

// doubt notes that events may be missing, with nothing that shows it.
func (h *host) doubt() {
	if h.whole {
		h.gaps++
	}
	h.whole, h.marked, h.opening, h.gap = false, nil, false, true
}

// begin goes over to the epoch of e. It is whole when its snapshot is.
func (h *host) begin(e *schema.Event) {
	if h.epoch != "" && h.epoch != e.Epoch {
		h.past = append(h.past, h.epoch)
		h.past = h.past[max(0, len(h.past)-maxPast):]
	}
	h.epoch, h.bootID, h.labels, h.seq, h.given = e.Epoch, e.BootID, e.Labels, 0, 0
	h.whole, h.gap, h.waiting, h.marked = false, false, nil, nil
	h.opening = e.Seq == 1
}

// lose takes note that events before e are missing. A host that is seen for the
// first time has lost nothing: it is joined.
func (h *host) lose(e *schema.Event, lenient bool) []Change {
	first, missed := h.epoch == "", uint64(0)
	if e.Epoch == h.epoch {
		missed = e.Seq - h.seq - 1
	} else {
		h.begin(e)
	}
	h.whole, h.marked, h.opening, h.gap = false, nil, false, h.gap || !lenient
	if lenient || first {
		return nil
	}
	h.gaps++
	return []Change{{Kind: Gap, Host: h.name, Missed: missed}}
}

// change makes e's change, and sweeps what a snapshot does not have.
func (h *host) change(e *schema.Event) (gone []Change) {
	k := e.Key()
	if former, renamed := e.FormerKey(); renamed {
		delete(h.links, former)
	}
	if e.Kind == schema.Del {
		delete(h.links, k)
		return nil
	}
	h.links[k] = e.Link
	if e.Snapshot.Of > 0 {
		gone = h.snapshot(e)
	}
	return gone
}

// snapshot takes note of an event of a snapshot. The epoch opens with those of all
// namespaces, the bridge's own first: what is in none of them is gone. They are told again
// in the middle of the epoch. Any other is of a namespace that appeared, and speaks for
// that alone.
func (h *host) snapshot(e *schema.Event) (gone []Change) {
	if e.Snapshot.Pos == 1 {
		h.opening = h.opening || e.Netns == ""
		if h.marked == nil || !h.opening {
			h.marked = map[schema.LinkKey]bool{}
		}
	}
	if h.marked == nil { // its beginning was missed
		return nil
	}
	h.marked[e.Key()] = true
	switch {
	case e.Snapshot.Pos < e.Snapshot.Of || h.opening && e.Snapshot.More > 0:
		return nil
	case h.opening:
		gone = h.sweep(func(k schema.LinkKey) bool { return !h.marked[k] })
		gone = append(gone, h.complete()...)
	default:
		gone = h.sweep(func(k schema.LinkKey) bool { return k.Netns == e.Netns && !h.marked[k] })
	}
	h.marked, h.opening = nil, false
	return gone
}

// complete says that all of the host's links are known now.
func (h *host) complete() (changes []Change) {
	switch {
	case h.whole:
	case !h.known:
		changes = []Change{{Kind: Joined, Host: h.name}}
	case h.gaps > h.healed:
		h.healed = h.gaps
		changes = []Change{{Kind: Healed, Host: h.name}}
	}
	h.whole, h.known, h.gap, h.waiting, h.tries = true, true, false, nil, 0
	return changes
}

// sweep removes links whose events were missed.
func (h *host) sweep(gone func(schema.LinkKey) bool) (changes []Change) {
	for _, l := range sortedLinks(h.links) {
		if k := l.Key(); gone(k) {
			changes = append(changes, h.forget(k)...)
		}
	}
	return changes
}

// forget removes a link.
func (h *host) forget(k schema.LinkKey) []Change {
	link, ok := h.links[k]
	if !ok {
		return nil
	}
	delete(h.links, k)
	return []Change{h.goneEvent(k, link)}
}

// goneEvent is the change of a link that went without an event.
func (h *host) goneEvent(k schema.LinkKey, link schema.Link) Change {
	return Change{Kind: Gone, Host: h.name, Event: &schema.Event{
		Host: h.name, BootID: h.bootID, Epoch: h.epoch, Seq: h.seq, Kind: schema.Del, Action: schema.Deleted, Cause: schema.Resync, Netns: k.Netns, Link: link,
	}}
}

// adopt takes the bridge's answer for the host's state, and applies what has come
// behind it. The host is not whole afterwards when the answer is of an earlier
// moment than what is missing: the bridge has to be asked again. So it has when the
// stream has not come to the answer's epoch, which opens with a snapshot there; unless
// that has been waited for in vain (lost).
func (h *host) adopt(a *schema.Links) (changes []Change) {
	if slices.Contains(h.past, a.Epoch) || a.Epoch == h.epoch && h.whole && (h.inStream || a.Seq <= h.seq) {
		return nil // late, or as expected, or the stream has it
	}
	if h.inStream && a.Epoch != h.epoch && h.epoch != "" && !h.lost {
		return nil
	}
	seq := a.Seq
	var behind []schema.Event
	for _, e := range h.waiting {
		if e.Epoch == a.Epoch && e.Seq == seq+1 {
			seq, behind = e.Seq, append(behind, e)
		}
	}
	if a.Epoch == h.epoch && seq < h.seq {
		return nil
	}
	if a.Epoch != h.epoch {
		h.begin(&schema.Event{Epoch: a.Epoch, BootID: a.BootID, Labels: a.Labels})
		h.ahead = h.inStream
	} else if h.whole { // it knows of events that never came
		h.gaps++
		h.whole = false
	}
	before := h.links
	h.links = make(map[schema.LinkKey]schema.Link, len(a.Links))
	for i := range a.Links {
		h.links[a.Links[i].Key()] = a.Links[i].Link
	}
	for i := range behind {
		h.change(&behind[i])
	}
	h.seq, h.bootID, h.opening = seq, a.BootID, false
	if h.unsure {
		h.unsure, h.stored = false, len(h.marked) > 0
	}
	h.marked = nil
	for _, l := range sortedLinks(before) {
		if k := l.Key(); !has(h.links, k) {
			changes = append(changes, h.goneEvent(k, l.Link))
		}
	}
	return append(changes, h.complete()...)
}

func has(links map[schema.LinkKey]schema.Link, k schema.LinkKey) bool {
	_, ok := links[k]
	return ok
}

// latest takes the last event of a link, as the bucket has it.
func (h *host) latest(e *schema.Event, data []byte) (changes []Change) {
	if h.isRetired() {
		h.comeBack()
	}
	h.stored = !h.unsure
	h.last, h.bootID = e.Time, e.BootID
	if e.Epoch != h.epoch || e.Seq > h.seq {
		h.epoch, h.labels, h.seq = e.Epoch, e.Labels, e.Seq
	}
	k := e.Key()
	h.links[k] = e.Link
	if h.marked != nil {
		h.marked[k] = true
	}
	if h.stored {
		changes = h.complete()
	}
	return append(changes, Change{Kind: Applied, Host: h.name, Event: e, Data: data})
}

// sweepUnseen removes the links that a bucket which was read from the beginning
// did not have.
func (h *host) sweepUnseen() (changes []Change) {
	if h.marked != nil {
		changes = h.sweep(func(k schema.LinkKey) bool { return !h.marked[k] })
		h.marked = nil
	}
	return changes
}
