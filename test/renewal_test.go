package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"golang.org/x/sys/unix"

	"ifacebridge/fleet"
	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// byTheRules returns the links, by namespace, that a consumer in another language knows who
// has read these events by the README's rules alone.
func byTheRules(t testing.TB, events []schema.Event) map[string]map[int32]schema.Link {
	t.Helper()
	var in, out, stderr bytes.Buffer
	for i := range events {
		in.Write(append(events[i].AppendJSON(nil), '\n'))
	}
	cmd := exec.Command(netnstest.Tool(t, "python3"), "testdata/consumer.py")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	links := map[string]map[int32]schema.Link{"": {}}
	for decoder := json.NewDecoder(&out); decoder.More(); {
		var l schema.LinkInNetns
		must(t, decoder.Decode(&l))
		if links[l.Netns] == nil {
			links[l.Netns] = map[int32]schema.Link{}
		}
		links[l.Netns][l.Link.Index] = l.Link
	}
	return links
}

// A bridge that runs for longer than its stream keeps events: at any time whoever reads the
// stream from its beginning knows every link, although most have not changed since long, by
// the rules alone and asking nobody. The bridge is killed every now and then, with a spool.
// Whatever is left of the stream has no gap in it, and nothing stands inside of a snapshot.
func TestStreamFromItsBeginning(t *testing.T) {
	k := netnstest.Parallel(t)
	r := seed(t)
	lasts := duration(t, "IFACE_TEST_RENEWAL", 25*time.Second)
	// A snapshot is told again before it is half as old, so the rest is what a stall may last.
	maxAge := min(max(lasts/10, 20*time.Second), time.Minute)
	blue := netnstest.New(t)
	_, _, err := blue.AddVeth("in", "out")
	must(t, err)
	s := natstest.Start(t, "")
	nc := connect(t, s)
	js := jetStream(t, nc)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "IFACE", Subjects: []string{"iface.*.*"}, MaxAge: maxAge, AllowDirect: true, AllowAtomicPublish: true,
	})
	must(t, err)
	for i := range 20 { // that never change
		_, err := k.Add(fmt.Sprint("still", i), 0, netnstest.Kind{Name: "ifb"})
		must(t, err)
	}
	env := []string{"IFACE_NETNS=self," + blue.ProcPath(), "IFACE_SPOOL_DIR=" + t.TempDir()}
	b := bridge(t, s, env...)
	eventually(t, "all is stored", func() bool { return b.Metric("ifacebridge_ready") == 1 })
	changing, err := k.Add("changing", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	joins, kills, firstGone, renewed := 0, 0, 0, 0.0
	const renewals = "ifacebridge_snapshots_renewed_total"
	// It may have been killed each time before the next snapshot was due, or nothing have expired yet.
	// No link begins with an MTU that comes later.
	lacking := func() bool { return firstGone == 0 || renewed+b.Metric(renewals) == 0 }
	for i, end := 0, time.Now().Add(lasts); time.Now().Before(end) || lacking(); i++ {
		must(t, k.SetUint32(changing, unix.IFLA_MTU, uint32(1600+i)))
		var events []schema.Event
		eventually(t, "it is stored", func() bool {
			events = stored(t, nc, "IFACE")
			return slices.ContainsFunc(events, func(e schema.Event) bool { // or a later one that says the same
				return e.Link.Index == changing && e.Link.MTU.Or(0) == uint32(1600+i)
			})
		})
		if joins++; events[0].Seq > 1 {
			firstGone++
		}
		late := harness.Replay{Late: true}
		for i := range events {
			if err := late.Apply(&events[i]); err != nil {
				t.Fatalf("event %d of %d: %v", i, len(events), err)
			}
		}
		links := byTheRules(t, events)
		if len(links) != 2 {
			t.Fatalf("links of %d namespaces", len(links))
		}
		for netns := range links {
			kernel := k
			if netns != "" {
				kernel = blue
			}
			if _, diffs := harness.SameAsIPIn(t, kernel, links[netns]); len(diffs) > 0 {
				t.Fatalf("join %d, of %d events from %s: in namespace %q: %q", joins, len(events), events[0].ID(), netns, diffs)
			}
		}
		switch r.IntN(20) {
		case 0:
			renewed += b.Metric(renewals)
			b.Kill()
			b = bridge(t, s, env...)
			kills++
		default:
			time.Sleep(time.Duration(r.IntN(int(maxAge / 50)))) // the stream's time has to pass
		}
	}
	renewed += b.Metric(renewals)
	info, err := stream.Info(t.Context())
	must(t, err)
	t.Logf("max_age %v: in %v %d readers joined, %d of them behind the epoch's beginning, %d kills",
		maxAge, lasts, joins, firstGone, kills)
	t.Logf("%v snapshots told again; the stream holds %d of %d events",
		renewed, info.State.Msgs, info.State.LastSeq)
}

// On request the snapshot is told again, within the epoch, without a gap, in both
// deliveries; several who ask together get one. A fleet takes it as any other: nothing is
// gone, and nothing joins again.
func TestSnapshotOnRequest(t *testing.T) {
	t.Parallel()
	for _, delivery := range []string{"jetstream", "core"} {
		t.Run(delivery, func(t *testing.T) {
			k := netnstest.Parallel(t)
			s := natstest.Start(t, "")
			nc := connect(t, s)
			_, _, err := k.AddVeth("veth0", "veth1")
			must(t, err)
			r := record(t, s)
			b := bridge(t, s, "IFACE_DELIVERY="+delivery)
			r.Snapshot()
			join := fleet.FromQuery
			if delivery == "jetstream" {
				join = fleet.FromStream
			}
			f := read(t, s.URL, fleet.Options{Join: join, Presence: 10 * time.Second})
			eventually(t, "a fleet has joined", func() bool { return f.has("joined test") })
			changed, err := k.Add("changed", 0, netnstest.Kind{Name: "ifb"})
			must(t, err)
			must(t, k.Up(changed))
			r.Until(0, "the change", func(e *schema.Event) bool {
				return e.Link.Name == "changed" && e.Link.Flags&unix.IFF_UP != 0
			})
			answers := make(chan schema.PublishedSnapshot, 5)
			for range cap(answers) {
				go func() {
					reply, err := nc.Request("ifacebridge.test.snapshot", nil, harness.Patience)
					var told schema.PublishedSnapshot
					if err != nil || reply.Header.Get(micro.ErrorCodeHeader) != "" || json.Unmarshal(reply.Data, &told) != nil {
						t.Errorf("asked for a snapshot: %v, %v", reply, err)
					}
					answers <- told
				}()
			}
			told := <-answers
			for range cap(answers) - 1 {
				told = <-answers
			}
			r.Until(0, "its last event", func(e *schema.Event) bool { return e.Epoch == told.Epoch && e.Seq == told.Seq })
			eventually(t, "the metric", func() bool { return b.Metric("ifacebridge_snapshots_renewed_total") >= 1 })
			// One, and another for those who asked while it was told.
			if n := b.Metric("ifacebridge_snapshots_renewed_total"); int(n) >= cap(answers) {
				t.Errorf("%v snapshots for %d who asked together", n, cap(answers))
			}
			events := r.Since(0)
			harness.ReplayAll(t, events)
			if told.Schema != "iface.v1" || told.Host != "test" || told.Seq-told.First != 3 {
				t.Errorf("got %+v", told)
			}
			for _, e := range events {
				if e.Seq < told.First || e.Seq > told.Seq {
					continue
				}
				if e.Snapshot.Of != 4 || uint64(e.Snapshot.Pos) != e.Seq-told.First+1 ||
					e.Action != schema.Existing || e.Cause != schema.SnapshotCause {
					t.Errorf("in the snapshot: %s", e.AppendJSON(nil))
				}
			}
			eventually(t, "the fleet has it", func() bool {
				h := f.host("test")
				return h != nil && h.Seq >= told.Seq && h.Whole
			})
			if links, joined := len(f.host("test").Links), f.times("joined test"); links != 4 || joined != 1 {
				t.Errorf("it has %d links, and has joined %d times", links, joined)
			}
		})
	}
}
