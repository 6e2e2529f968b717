// Package fleet follows the network links of a fleet: it joins what the bridges
// publish, applies it in order, notices what is missing and mends it, and hands out
// every change and a consistent view.
//
//	f, err := fleet.New(nc, fleet.Options{})
//	…
//	err = f.Run(ctx, func(c fleet.Change) {
//		if c.Kind == fleet.Applied {
//			fmt.Println(c.Host, c.Event.Action, c.Event.Link.Name)
//		}
//	})
//
// There are three ways to join ([Join]): the JetStream stream, which has every
// event since it began; plain NATS, where each bridge is asked for its links and
// its events are applied from there on; and the bucket of current state, which
// skips what lies between. All of them lead to the same view.
//
// How it stays right: the events of a host carry an epoch and a gapless seq. A
// repeat is ignored, a gap is said ([Gap]), and the bridge is asked for its links
// and the place in its events that they are true at ([Healed]). An epoch opens
// with a snapshot: what is not in it is gone ([Gone]). A host that is silent, as the
// bucket of hosts has it, or since its bridge does not answer, is [Quiet], and what is known
// of it is marked as old. One that will not come back is [Retired].
package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/schema"
)

// Join is the way in which a fleet is joined.
type Join int

const (
	// FromStream replays the stream and follows it: nothing is missed that it holds.
	FromStream Join = iota
	// FromQuery subscribes, and asks each bridge for its links. It needs no
	// JetStream, and notices what it missed.
	FromQuery
	// FromBucket follows the bucket of current state: the last event of each link,
	// not those between. A bridge that stores nothing, since its delivery is core, is
	// asked for its links whenever it has moved on; its changes have no events.
	FromBucket
)

func (j Join) String() string { return [...]string{"stream", "query", "bucket"}[j] }

// Options say what to follow. The zero value is all hosts, from the stream, under
// the bridges' default names.
type Options struct {
	Join   Join
	Hosts  []string // names as the bridges know them; none: all
	Prefix string   // of the subjects, "" for "iface"
	Stream string   // "" for "IFACE"
	Bucket string   // "" for that of the prefix, "iface_links"
	// HostsBucket is the bucket of the hosts that are there, "" for that of the prefix, "iface_hosts".
	HostsBucket string
	Since       time.Time // FromStream: begin here rather than at the beginning

	// After resumes FromStream: begin behind this place in the stream, the last StreamSeq that
	// was not 0 among the changes that were dealt with; 0 is the beginning. What the stream does
	// not have any more is Expired. A stream that was made anew and has come as far again is not
	// recognised by its places: whoever keeps links replaces a host's when it is Joined. Not
	// together with Since or Ago.
	After uint64

	// Ago is FromStream: begin so long ago, by the clock of the server that has the stream,
	// whatever this machine's clock is set to. It comes before Since.
	Ago time.Duration

	// Presence is how often the bridges are asked whether they are there, and how
	// far they are: 100 ms at least, 0 for 10 s. One that has not answered three times is quiet. Bridges
	// that the bucket of hosts has are not asked: it tells. As often FromQuery subscribes anew,
	// in case that the server had refused that.
	Presence time.Duration

	// JetStreamAPI is what the subjects of JetStream's API begin with: "$JS.<domain>.API"
	// for that of another domain; "" for "$JS.API".
	JetStreamAPI string

	Log *slog.Logger // nil: none
}

// Kind is what a change is about.
type Kind int

const (
	// Applied: an event, in its place. FromBucket, an event that is the link's last.
	Applied Kind = iota
	// Gone: a link is not there any more, and its event was missed or never sent.
	// Event is made up: it has the host and the link as it was last known.
	Gone
	// Joined: all links of a host are known for the first time.
	Joined
	// Gap: events are missing. What follows is applied, but the host's links are not
	// all known until Healed.
	Gap
	// Healed: the host's links are true again. What changed meanwhile has no event.
	Healed
	// Quiet: the bridge is silent. Its host's links are as they were last.
	Quiet
	// Back: it is there again.
	Back
	// Retired: the host is gone for good, with all of its links, and not in View any
	// more. Should it come back, it is Joined again. Who missed its dels, as FromQuery may, is
	// told of each link as Gone, ten seconds after the bucket of hosts has it.
	Retired
	// Expired: messages behind Options.After, or behind what has been given, are not in
	// the stream any more, Missed at most; or it is another stream, which is read from its
	// beginning. It is about all hosts, so that Host is empty. What a consumer keeps of a
	// host is out of date until that is Joined or Healed.
	Expired
)

func (k Kind) String() string {
	return [...]string{"applied", "gone", "joined", "gap", "healed", "quiet", "back", "retired", "expired"}[k]
}

// A Change is one step of the fleet's state, or of what is known of it.
type Change struct {
	Kind   Kind
	Host   string
	Event  *schema.Event // of Applied and Gone
	Data   []byte        // the event as it was published
	Missed uint64        // of Gap and Expired: how many events, 0 when that is not known
	Since  time.Time     // of Quiet: when it fell silent, as far as that is known

	// StreamSeq is the place in the stream of the event that led to this, FromStream; of a
	// Gap, which comes before its event, and of what has another reason it is 0. A Fleet that
	// begins behind it (Options.After) gives what comes behind it, and nothing of what came
	// before.
	StreamSeq uint64
}

// A Host is what is known of one host.
type Host struct {
	Name   string
	BootID string
	Labels schema.Labels
	Epoch  string
	Seq    uint64               // of the last event that is in Links; FromBucket, of the newest
	Links  []schema.LinkInNetns // by namespace and index
	Last   time.Time            // of its last event

	// Whole is whether Links are all the host has, as of Seq. When it is not, they
	// are what was known last.
	Whole bool
	// Quiet is whether its bridge is silent, and QuietSince since when, as far as that is
	// known.
	Quiet      bool
	QuietSince time.Time

	Gaps, Healed, Repeats uint64 // how often
}

// A Fleet is the state of the hosts that it follows. Its methods may be called from any
// goroutine.
type Fleet struct {
	nc    *nats.Conn
	o     Options
	hosts map[string]*host // by token; written by Run, under mu
	mu    sync.Mutex

	failure  atomic.Pointer[error] // of the source; nil: it is followed, or was not tried yet
	input    chan input
	caughtUp chan struct{}
	asking   sync.WaitGroup
	asked    int  // bridges that have not answered yet
	read     bool // all that was stored has been given
	rolled   bool // who is there is known

	hostsKnown   bool      // what the bucket of hosts has is known, or that it cannot be
	hostsRead    bool      // it is being followed
	disconnected time.Time // when the connection was last seen to be lost

	slots   chan struct{} // bounds how many bridges are asked at once
	changed func(Change)

	bucketMade time.Time // FromBucket: when the bucket that was read last was made
	resume     resumption
}

// input is what Run's one loop takes.
type input struct {
	// An event, as published; or the answer of a bridge, or that it gave none.
	data   []byte
	event  schema.Event
	answer *schema.Links
	failed error
	token  string

	streamSeq uint64  // FromStream
	expired   *uint64 // so many messages, which have not been given, are not in the stream any more

	gone         bool // FromBucket: the key is gone
	key          schema.LinkKey
	caughtUp     bool // all that was there has been given
	restart      bool // the source begins again, from the beginning
	anew         bool // and it is a bucket that was made anew
	presence     []presence
	asked        time.Time // for presence
	hosts        *hostEntry
	noHosts      bool // the bucket of hosts cannot be read
	checkOverdue bool // find values there that have run out
	missed       bool // events may have been missed: ask everybody
}

// New returns a Fleet that follows nothing yet. The connection stays the caller's.
func New(nc *nats.Conn, o Options) (*Fleet, error) {
	o.Prefix, o.Stream = cmp.Or(o.Prefix, schema.DefaultPrefix), cmp.Or(o.Stream, "IFACE")
	o.Bucket = cmp.Or(o.Bucket, schema.LinksBucket(o.Prefix))
	o.JetStreamAPI = cmp.Or(o.JetStreamAPI, jetstream.DefaultAPIPrefix)
	o.HostsBucket = cmp.Or(o.HostsBucket, schema.HostsBucket(o.Prefix))
	o.Presence = cmp.Or(o.Presence, 10*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	// A server refuses filters that overlap, as those of a host that is named twice would.
	o.Hosts = slices.Compact(slices.Sorted(slices.Values(o.Hosts)))
	if err := o.check(); err != nil {
		return nil, err
	}
	return &Fleet{
		nc: nc, o: o, hosts: map[string]*host{},
		input: make(chan input, 256), caughtUp: make(chan struct{}), slots: make(chan struct{}, 8),
	}, nil
}

// minPresence bounds how often bridges are asked: all of them answer.
const minPresence = 100 * time.Millisecond

// check finds what cannot be followed.
func (o *Options) check() error {
	for _, name := range o.Hosts {
		if _, err := schema.HostToken(name); err != nil {
			return err
		}
	}
	switch {
	case o.Join < FromStream || o.Join > FromBucket:
		return fmt.Errorf("Options.Join: unknown (got %d); accepted: FromStream, FromQuery, FromBucket", int(o.Join))
	case o.Presence < minPresence:
		return fmt.Errorf("Options.Presence: too short (got %v); accepted: %v or more, 0 for 10s",
			o.Presence, minPresence)
	case o.Ago < 0:
		return fmt.Errorf("Options.Ago: in the future (got %v); accepted: a duration such as 10m", o.Ago)
	case o.After > 0 && (o.Join != FromStream || !o.Since.IsZero() || o.Ago > 0):
		return fmt.Errorf("Options.After: a place in a stream (got %d); "+
			"accepted: with Join FromStream and without Since or Ago", o.After)
	}
	return nil
}

// CaughtUp is closed when what was there when Run began has been applied: from
// then on View is complete, but for hosts that are not Whole. Where bridges have to be
// asked, it takes some seconds to know which there are.
func (f *Fleet) CaughtUp() <-chan struct{} { return f.caughtUp }

// Err returns why what is published cannot be followed at the moment, which is tried again
// and again; nil when it is followed, or has not failed yet. A subscription that the server
// refuses, FromQuery, does not fail: nats.go tells that to the error handler of the connection
// alone ([nats.ErrorHandler]), and makes it again with the next connection
// ([nats.Conn.ForceReconnect]).
func (f *Fleet) Err() error {
	if err := f.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// View returns every host, by name: a copy, as of one moment.
func (f *Fleet) View() []Host {
	f.mu.Lock()
	defer f.mu.Unlock()
	hosts := make([]Host, 0, len(f.hosts))
	for _, h := range f.hosts {
		if !h.isRetired() {
			hosts = append(hosts, h.view())
		}
	}
	slices.SortFunc(hosts, func(a, b Host) int { return cmp.Compare(a.Name, b.Name) })
	return hosts
}

// Run follows the fleet until ctx ends, and then returns nil. It calls changed with
// each change, one at a time, in each host's order; a change waits for the one
// before it to return. changed may call View, and keep what it is given. Failures of NATS
// are waited out, and logged. A connection that is closed does not come back: Run returns
// [nats.ErrConnectionClosed]. nats.go closes one that it has tried to make again 60 times
// ([nats.MaxReconnects]), or of which the credentials were refused twice
// ([nats.IgnoreAuthErrorAbort]), unless it is told not to. Run is called once.
func (f *Fleet) Run(ctx context.Context, changed func(Change)) error {
	closed := f.nc.StatusChanged(nats.CLOSED)
	defer f.nc.RemoveStatusListener(closed)
	if f.nc.IsClosed() {
		return nats.ErrConnectionClosed
	}
	f.changed = changed
	ctx, cancel := context.WithCancel(ctx)
	defer f.asking.Wait()
	defer cancel()
	var sources sync.WaitGroup
	defer sources.Wait()
	defer cancel()
	sources.Go(func() { f.source(ctx) })
	sources.Go(func() { f.askPresence(ctx) })
	sources.Go(func() { f.followHosts(ctx) })
	for {
		select {
		case in := <-f.input:
			f.take(ctx, in)
		case <-closed:
			if ctx.Err() != nil { // who ends it may close the connection at once
				return nil
			}
			return nats.ErrConnectionClosed
		case <-ctx.Done():
			return nil
		}
	}
}

// source gives what is published, from the top again after every failure.
func (f *Fleet) source(ctx context.Context) {
	begin := map[Join]func(context.Context) error{FromStream: f.fromStream, FromQuery: f.fromQuery, FromBucket: f.fromBucket}[f.o.Join]
	follow := func(ctx context.Context) error {
		err := begin(ctx)
		if ctx.Err() == nil {
			f.failure.Store(&err)
			f.give(ctx, input{restart: true})
		}
		return err
	}
	f.retry(ctx, 5*time.Second, follow, func(err error) {
		f.o.Log.Warn("cannot follow the fleet; retrying", "from", f.o.Join, "cause", err)
	})
}

// retry calls follow again and again, after ever longer pauses of most at most, until ctx ends
// or the connection is closed. An error that is another one than the last is given to warn.
func (f *Fleet) retry(
	ctx context.Context, most time.Duration, follow func(context.Context) error, warn func(error),
) {
	warned := ""
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, most) {
		began := time.Now()
		err := follow(ctx)
		if ctx.Err() != nil || f.nc.IsClosed() {
			return
		}
		if time.Since(began) > time.Minute {
			wait, warned = 100*time.Millisecond, ""
		}
		if err != nil && err.Error() != warned {
			warned = err.Error()
			warn(err)
		}
		select {
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-ctx.Done():
			return
		}
	}
}

// give hands in to Run's loop.
func (f *Fleet) give(ctx context.Context, in input) {
	select {
	case f.input <- in:
	case <-ctx.Done():
	}
}

// take applies one input.
func (f *Fleet) take(ctx context.Context, in input) {
	var changes []Change
	f.mu.Lock()
	switch {
	case in.caughtUp:
		changes = f.catchUp(ctx)
	case in.restart:
		for _, h := range f.hosts {
			if h.stored { // elsewhere what it repeats is known by its seq
				h.restart()
			}
		}
	case in.expired != nil:
		changes = f.expire(ctx, *in.expired)
	case in.anew:
		for _, h := range f.hosts {
			if h.stored {
				h.restartAnew()
			}
		}
	case in.missed:
		for _, h := range f.hosts {
			f.ask(ctx, h)
		}
	case in.hosts != nil:
		changes = f.takeHostEntry(ctx, in.hosts)
	case in.noHosts:
		f.noHosts()
	case in.checkOverdue:
		changes = f.findOverdue()
	case in.presence != nil:
		changes = f.present(ctx, in.presence, in.asked)
	case in.answer != nil, in.failed != nil:
		changes = f.answered(ctx, in)
	case in.gone:
		changes = f.bucketGone(in)
	default:
		changes = f.event(ctx, in)
	}
	f.joined()
	f.mu.Unlock()
	for _, c := range changes {
		if c.Kind != Gap { // it comes before the event, which one who resumed behind it would miss
			c.StreamSeq = in.streamSeq
		}
		f.changed(c)
	}
}

// host returns the host of a token.
func (f *Fleet) host(token, name string) *host {
	h := f.hosts[token]
	if h == nil {
		if name == "" {
			if name, _ = schema.HostName(token); name == "" { // no token of ours
				name = token
			}
		}
		h = newHost(token, name)
		h.inStream = f.o.Join == FromStream
		f.hosts[token] = h
	}
	return h
}

func (f *Fleet) isCaughtUp() bool {
	select {
	case <-f.caughtUp:
		return true
	default:
		return false
	}
}

func (f *Fleet) event(ctx context.Context, in input) []Change {
	h := f.host(in.token, in.event.Host)
	if f.o.Join == FromBucket {
		changes := h.latest(&in.event, in.data)
		if h.unsure {
			f.ask(ctx, h)
		}
		return changes
	}
	// What a stream begins with may be the middle of an epoch. It is no gap, as long
	// as what follows is still to come; who is not whole in the end is asked.
	changes := h.apply(&in.event, in.data, f.o.Join == FromStream && !f.read)
	if h.gap {
		f.ask(ctx, h)
	}
	return changes
}

func (f *Fleet) bucketGone(in input) []Change {
	if h := f.hosts[in.token]; h != nil {
		return append(h.forget(in.key), h.retire()...)
	}
	return nil
}

// catchUp asks the hosts that the beginning left incomplete.
func (f *Fleet) catchUp(ctx context.Context) (changes []Change) {
	f.read = true
	for _, h := range f.hosts {
		f.doubtStored(h)
	}
	for _, h := range f.hosts {
		if h.stored {
			changes = append(changes, h.sweepUnseen()...)
		} else if !h.whole {
			f.ask(ctx, h)
		}
		changes = append(changes, h.retire()...)
	}
	return changes
}

func (f *Fleet) answered(ctx context.Context, in input) []Change {
	h := f.host(in.token, "")
	h.asked = false
	f.asked--
	if h.stored { // meanwhile it came to the bucket
		return nil
	}
	if in.failed == nil {
		changes := h.adopt(in.answer)
		if !h.whole {
			f.ask(ctx, h)
		}
		return changes
	}
	if errors.Is(in.failed, ErrNobody) {
		return nil // the next presence, or a new epoch, makes it whole
	}
	f.o.Log.Warn("cannot ask a bridge for its links; retrying", "host", h.name, "cause", in.failed)
	if !h.whole {
		f.ask(ctx, h)
	}
	return nil
}

// ask has a bridge asked for its links, unless it is being asked.
func (f *Fleet) ask(ctx context.Context, h *host) {
	if h.asked || h.stored || h.isRetired() || f.o.Join != FromQuery && !f.read {
		return
	}
	h.asked, h.tries = true, h.tries+1
	f.asked++
	h.gap = h.gap || !h.whole // what comes from now on may be behind the answer
	token, wait := h.token, time.Duration(0)
	if h.tries > 1 {
		wait = rand.N(min(50*time.Millisecond<<min(h.tries, 6), 2*time.Second))
	}
	f.asking.Go(func() {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		select {
		case f.slots <- struct{}{}:
			defer func() { <-f.slots }()
		case <-ctx.Done():
			return
		}
		answer, err := QueryUnder(ctx, f.nc, f.o.Prefix, token)
		f.give(ctx, input{token: token, answer: answer, failed: err})
	})
}

// joined closes caughtUp when what was stored has been given and, where there may be
// hosts that have nothing stored, everybody who is there has answered. Whatever was taken may
// have been the last of it. It is called with each event, and looks at the hosts only when
// nothing else is missing.
func (f *Fleet) joined() {
	if f.isCaughtUp() || !f.hostsKnown || !f.read && f.o.Join != FromQuery {
		return
	}
	stored := f.read && (f.o.Join == FromStream || f.allStored())
	if stored || f.rolled && f.asked == 0 && !f.anyUnanswered() {
		close(f.caughtUp)
	}
}

// allStored reports whether the hosts to follow are named, and all in the bucket.
func (f *Fleet) allStored() bool {
	for _, name := range f.o.Hosts {
		token, _ := schema.HostToken(name) // was checked
		if h := f.hosts[token]; h == nil || !h.stored {
			return false
		}
	}
	return len(f.o.Hosts) > 0
}

// subjects are those of the hosts that are followed: one for all of them, since a server
// looks at each message of a stream for each filter of a consumer that has several.
func (f *Fleet) subjects() []string {
	return f.perHost(f.o.Prefix+".*.*", func(token string) string { return f.o.Prefix + "." + token + ".*" })
}

// perHost is what one makes of the token of each host to follow, or all when that is every
// host.
func (f *Fleet) perHost(all string, one func(token string) string) []string {
	if len(f.o.Hosts) == 0 {
		return []string{all}
	}
	var list []string
	for _, name := range f.o.Hosts {
		token, _ := schema.HostToken(name) // was checked
		list = append(list, one(token))
	}
	return list
}

// follows reports whether a host is one of those.
func (f *Fleet) follows(token string) bool {
	return len(f.o.Hosts) == 0 || slices.ContainsFunc(f.o.Hosts, func(name string) bool {
		t, _ := schema.HostToken(name)
		return t == token
	})
}

// sortedLinks are a host's links, by namespace and index.
func sortedLinks(links map[schema.LinkKey]schema.Link) []schema.LinkInNetns {
	list := make([]schema.LinkInNetns, 0, len(links))
	for _, k := range slices.SortedFunc(maps.Keys(links), func(a, b schema.LinkKey) int {
		return cmp.Or(cmp.Compare(a.Netns, b.Netns), cmp.Compare(a.Index, b.Index))
	}) {
		list = append(list, schema.LinkInNetns{Netns: k.Netns, Link: links[k]})
	}
	return list
}

// errNotOurs is a message that is no event of a bridge.
var errNotOurs = errors.New("no event")

// decode makes input of a message.
func decode(prefix, subject string, data []byte) (input, error) {
	in := input{data: data}
	token, ok := tokenOf(prefix, subject)
	if !ok {
		return in, fmt.Errorf("%w: subject %q", errNotOurs, subject)
	}
	in.token = token
	if err := in.event.UnmarshalJSON(data); err != nil {
		return in, fmt.Errorf("%w: %s: %w", errNotOurs, subject, err)
	}
	return in, nil
}
