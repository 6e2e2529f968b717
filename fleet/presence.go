package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/schema"
)

// Who is there, the bucket of hosts tells, where there is one: each bridge writes its
// host's key again and again ([schema.Presence]), and the server marks a key that has run
// out. Bridges that do not write there are asked.

// standing is what the bucket of hosts has of a host.
type standing int

const (
	unknown standing = iota // nothing: its bridge is asked
	present                 // a value
	silent                  // a marker: the value has run out
	retired                 // a marker: the host was retired
)

// hostEntry is a message of the bucket of hosts, or, without a token, that all that was
// there has been given.
type hostEntry struct {
	token    string
	standing standing
	value    *schema.Presence // when present
	at       time.Time        // the server's, of the message
}

// followHosts gives what the bucket of hosts has, from the beginning again after every
// failure, until ctx ends.
func (f *Fleet) followHosts(ctx context.Context) {
	follow := func(ctx context.Context) error {
		err := f.fromHosts(ctx)
		f.give(ctx, input{noHosts: true})
		// Without such a bucket the bridges are asked, as those that do not write there.
		if errors.Is(err, jetstream.ErrStreamNotFound) || !f.nc.IsConnected() {
			return nil
		}
		return err
	}
	f.retry(ctx, f.o.Presence, follow, func(err error) {
		f.o.Log.Warn("cannot read the bucket of hosts; asking the bridges whether they are there", "cause", err)
	})
}

// fromHosts follows the bucket of hosts, until that fails. A watcher of nats.go would not
// tell a host that is silent from one that was retired.
func (f *Fleet) fromHosts(ctx context.Context) error {
	js, err := jetstream.NewWithAPIPrefix(f.nc, f.o.JetStreamAPI, jetstream.WithDefaultTimeout(answerTimeout))
	if err != nil {
		return err
	}
	name, prefix := "KV_"+f.o.HostsBucket, "$KV."+f.o.HostsBucket+"."
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", f.o.HostsBucket, err)
	}
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: f.perHost(prefix+">", func(token string) string { return prefix + token }),
		DeliverPolicy:  jetstream.DeliverLastPerSubjectPolicy,
	}
	handle := func(m jetstream.Msg, meta *jetstream.MsgMetadata) {
		f.giveHost(ctx, strings.TrimPrefix(m.Subject(), prefix), m, meta.Timestamp)
	}
	consumer, err := js.OrderedConsumer(ctx, name, cfg)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", f.o.HostsBucket, err)
	}
	r, err := consume(consumer, handle, func() { f.give(ctx, input{hosts: &hostEntry{}}) })
	if err != nil {
		return fmt.Errorf("bucket %s: %w", f.o.HostsBucket, err)
	}
	defer r.stop()
	return f.whileSame(ctx, js, stream, r, func() { f.give(ctx, input{checkOverdue: true}) })
}

// giveHost gives a message of the bucket of hosts to the loop.
func (f *Fleet) giveHost(ctx context.Context, token string, m jetstream.Msg, at time.Time) {
	e := &hostEntry{token: token, standing: silent, at: at}
	switch {
	case len(m.Data()) > 0:
		value, err := schema.ParsePresence(token, m.Data())
		if err != nil {
			f.o.Log.Warn("ignoring what is no host's presence", "bucket", f.o.HostsBucket, "key", token, "cause", err)
			return
		}
		if value.Prefix != f.o.Prefix { // of another fleet
			return
		}
		e.standing, e.value = present, value
	case m.Headers().Get("KV-Operation") == "PURGE":
		e.standing = retired
	}
	f.give(ctx, input{hosts: e})
}

// takeHostEntry takes what the bucket of hosts has of a host.
func (f *Fleet) takeHostEntry(ctx context.Context, e *hostEntry) []Change {
	if e.token == "" {
		for _, h := range f.hosts {
			if h.stale {
				h.standing = unknown
			}
			h.stale = false
		}
		f.hostsRead, f.hostsKnown = true, true
		return nil
	}
	h := f.hosts[e.token]
	if h == nil && e.standing == retired {
		return nil
	}
	if h == nil {
		h = f.host(e.token, "")
	}
	h.standing, h.stale = e.standing, false
	switch e.standing {
	case present:
		h.heard, h.ttl = time.Now(), time.Duration(e.value.TTL)*time.Second
		is := presence{e.token, e.value.Host, e.value.Epoch, e.value.Seq, e.value.BucketBehind}
		return f.isThere(ctx, h, is, e.value.Labels)
	case silent:
		h.markedAt = time.Now()
		return h.fallQuiet(e.at)
	default:
		h.markedAt = time.Now()
		if changes := h.retire(); len(changes) > 0 {
			return changes
		}
		h.heard = time.Now() // its links' dels are on their way, or were missed
		return h.fallQuiet(e.at)
	}
}

// noHosts takes note that the bucket of hosts cannot be read.
func (f *Fleet) noHosts() {
	for _, h := range f.hosts {
		h.stale = h.standing != unknown
	}
	f.hostsRead, f.hostsKnown = false, true
}

// lateness is how much longer than its value is good for a host may take to write the next
// one, before it is silent where no server marks it; and how long the dels of one that was
// retired may take to come.
const lateness = 10 * time.Second

// findOverdue finds hosts of which the values have run out unmarked, as in a bucket that makes no
// markers, and those that were retired while the reader missed events: nobody is left who would
// tell it of them. What has not come while the connection was lost says nothing.
func (f *Fleet) findOverdue() (changes []Change) {
	now := time.Now()
	if !f.nc.IsConnected() {
		f.disconnected = now
	}
	for token, h := range f.hosts {
		if h.isRetired() && now.Sub(h.retiredAt) > keepRetired {
			delete(f.hosts, token)
		}
		late := now.Sub(later(h.heard, f.disconnected)) - lateness
		switch {
		case h.standing == present && h.ttl > 0 && late > h.ttl:
			h.standing = silent
			changes = append(changes, h.fallQuiet(h.heard)...)
		case h.standing == retired && !h.isRetired() && late > 0 && f.o.Join == FromQuery:
			changes = append(changes, h.sweep(func(schema.LinkKey) bool { return true })...)
			changes = append(changes, h.retire()...)
		}
	}
	return changes
}

// keepRetired is how long a host that was retired is remembered, so that its late events
// are known for repeats.
const keepRetired = time.Hour

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// asksRoll reports whether bridges may be there of which the bucket of hosts has nothing.
func (f *Fleet) asksRoll() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.hostsRead {
		return true
	}
	for _, h := range f.hosts {
		if h.standing == unknown && !h.quiet && !h.isRetired() {
			return true
		}
	}
	return false
}
