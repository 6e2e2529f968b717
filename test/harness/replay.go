package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/schema"
	"ifacebridge/test/natstest"
	"ifacebridge/test/schematest"
)

// A Replay is a consumer that applies a host's events in order, and checks that
// they can be: seq without gaps or repeats, each epoch opening as it must.
type Replay struct {
	epoch string
	seq   uint64
	last  schema.Event

	// Late is whether the first event may be in the middle of an epoch: what was before is
	// not in the stream any more.
	Late bool

	Links map[int32]schema.Link            // of the bridge's own namespace
	Netns map[string]map[int32]schema.Link // of others

	Notifications uint64 // of the kernel, that the events stand for
}

// Apply returns what is wrong with the next event.
func (r *Replay) Apply(e *schema.Event) error {
	if e.Epoch != r.epoch {
		if late := r.Late && r.epoch == ""; e.Seq != 1 && !late {
			return fmt.Errorf("epoch %s begins with seq %d", e.Epoch, e.Seq)
		}
		r.epoch, r.seq = e.Epoch, e.Seq-1
	}
	if e.Seq != r.seq+1 {
		return fmt.Errorf("epoch %s: seq %d after %d", e.Epoch, e.Seq, r.seq)
	}
	r.seq++
	if r.Links == nil || e.Snapshot.Pos == 1 && e.Netns == "" { // mark and sweep: what is not in it is gone
		r.Links = map[int32]schema.Link{}
	}
	if r.Netns == nil {
		r.Netns = map[string]map[int32]schema.Link{}
	}
	links := r.Links
	if e.Netns != "" {
		if links = r.Netns[e.Netns]; links == nil || e.Snapshot.Pos == 1 {
			links = map[int32]schema.Link{}
			r.Netns[e.Netns] = links
		}
	}
	begun := !r.Late || r.last.Seq > 0 // else the beginning of a snapshot may not be there any more
	if begun && e.Snapshot.Of > 0 && e.Snapshot.Pos > 1 && e.Snapshot.Pos != r.last.Snapshot.Pos+1 {
		return fmt.Errorf("seq %d: something stands inside the snapshot", e.Seq)
	}
	r.last = *e
	if e.Cause == schema.Notification {
		r.Notifications += max(e.Coalesced, 1)
	}
	if former, renamed := e.FormerKey(); renamed {
		if _, known := r.Netns[former.Netns][former.Index]; !known && !r.Late {
			return fmt.Errorf("seq %d: link %d was not in %s before", e.Seq, former.Index, former.Netns)
		}
		delete(r.Netns[former.Netns], former.Index)
	}
	_, known := links[e.Link.Index]
	switch {
	case e.Kind == schema.New:
		links[e.Link.Index] = e.Link
	case e.Netns != "" && !known && e.NetnsPrevious == "" && e.Coalesced <= 1 && !r.Late:
		return fmt.Errorf("seq %d: link %d was not in %s", e.Seq, e.Link.Index, e.Netns)
	default:
		delete(links, e.Link.Index)
	}
	return nil
}

// ReplayAll applies events in order, and fails the test when they cannot be.
func ReplayAll(t testing.TB, events []schema.Event) *Replay {
	t.Helper()
	r := &Replay{}
	for i := range events {
		if err := r.Apply(&events[i]); err != nil {
			t.Fatalf("event %d of %d: %v", i, len(events), err)
		}
	}
	return r
}

// Stored reads the whole stream in order.
func Stored(t testing.TB, nc *nats.Conn, stream string) []schema.Event {
	t.Helper()
	js := JetStream(t, nc)
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	Must(t, err)
	info, err := s.Info(ctx)
	Must(t, err)
	consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	Must(t, err)
	messages, err := consumer.Messages()
	Must(t, err)
	defer messages.Stop()
	var events []schema.Event
	for last := uint64(0); info.State.Msgs > 0 && last < info.State.LastSeq; { // some may expire meanwhile
		m, err := messages.Next(jetstream.NextContext(ctx))
		Must(t, err)
		schematest.Validate(t, m.Data())
		var e schema.Event
		Must(t, json.Unmarshal(m.Data(), &e))
		events = append(events, e)
		meta, err := m.Metadata()
		Must(t, err)
		last = meta.Sequence.Stream
	}
	return events
}

// A Follower reads a stream in order as it grows, and replays it.
type Follower struct {
	t        testing.TB
	consumer jetstream.Consumer

	Replay   Replay
	Events   int
	Overruns uint64 // of the kernel, that the events tell of
}

// Follow begins with the first event of the stream IFACE.
func Follow(t testing.TB, s *natstest.Server) *Follower {
	t.Helper()
	js := JetStream(t, Connect(t, s))
	f := &Follower{t: t}
	Eventually(t, "a consumer", func() bool { // a cluster may just be electing its leader
		var err error
		f.consumer, err = js.OrderedConsumer(context.Background(), "IFACE", jetstream.OrderedConsumerConfig{})
		return err == nil
	})
	return f
}

// Until applies what is stored, as it comes, until ok. A backlog may take any time, as long as
// some of it comes.
func (f *Follower) Until(what string, ok func() bool) time.Duration {
	f.t.Helper()
	return EventuallyAsItGrows(f.t, what, func() int { return f.Events }, func() bool {
		f.CatchUp()
		return ok()
	})
}

// CatchUp applies what is in the stream now, or what of it a server gives that may
// just be looking for its leader. It validates a sample: each event would take longer
// than the soak.
func (f *Follower) CatchUp() {
	f.t.Helper()
	for {
		batch, err := f.consumer.FetchNoWait(5000)
		if err != nil {
			return
		}
		n := 0
		for m := range batch.Messages() {
			if n++; f.Events%100 == 0 {
				schematest.Validate(f.t, m.Data())
			}
			var e schema.Event
			Must(f.t, json.Unmarshal(m.Data(), &e))
			if err := f.Replay.Apply(&e); err != nil {
				f.t.Fatal(err)
			}
			f.Events++
			f.Overruns = max(f.Overruns, e.Overruns)
		}
		if n == 0 {
			return
		}
	}
}
