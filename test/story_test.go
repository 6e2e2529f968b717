package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// A loss is a way in which a broker loses what it had confirmed, or comes by what nobody
// had published. What it returns, if anything, makes a stream of events alone of it again,
// once the bridge has seen it.
type loss struct {
	name   string
	reason string // of the new epoch
	lose   losing
}

type losing func(t testing.TB, s *natstest.Server, backups map[string]string) (tidy func())

// restore puts the server's store back to a backup; "" is an empty one.
func restore(of string) losing {
	return func(t testing.TB, s *natstest.Server, backups map[string]string) func() {
		t.Helper()
		s.Kill()
		store := filepath.Join(s.Dir, "store")
		must(t, os.RemoveAll(store))
		if of != "" {
			must(t, os.CopyFS(store, os.DirFS(backups[of])))
		}
		s.Start()
		return nil
	}
}

// streamOf returns the stream of events on a server.
func streamOf(t testing.TB, s *natstest.Server) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	js := jetStream(t, connect(t, s))
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	stream, err := js.Stream(ctx, "IFACE")
	must(t, err)
	return js, stream
}

// alter does something to the stream.
func alter(do func(context.Context, testing.TB, jetstream.JetStream, jetstream.Stream)) losing {
	return func(t testing.TB, s *natstest.Server, _ map[string]string) func() {
		t.Helper()
		js, stream := streamOf(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
		defer cancel()
		do(ctx, t, js, stream)
		return nil
	}
}

// intrude publishes something of somebody else's behind the last event.
func intrude(data string) losing {
	return func(t testing.TB, s *natstest.Server, _ map[string]string) func() {
		t.Helper()
		js, stream := streamOf(t, s)
		ack, err := js.Publish(t.Context(), "iface.test.new", []byte(data))
		must(t, err)
		return func() { must(t, stream.DeleteMsg(t.Context(), ack.Sequence)) }
	}
}

// cutPower ends the server without a word, and cuts the last block of each stream's file in
// the middle of a message: what the disk of a machine holds that had not written all of it.
func cutPower(t testing.TB, s *natstest.Server, _ map[string]string) func() {
	t.Helper()
	s.Kill()
	for _, stream := range []string{"IFACE", "KV_iface_links"} {
		blocks, err := filepath.Glob(filepath.Join(s.Dir, "store/jetstream/*/streams", stream, "msgs/*.blk"))
		must(t, err)
		if len(blocks) == 0 {
			t.Fatalf("%s has no blocks", stream)
		}
		last := blocks[len(blocks)-1]
		info, err := os.Stat(last)
		must(t, err)
		must(t, os.Truncate(last, info.Size()-min(info.Size()/2, 1500)))
	}
	s.Start()
	return nil
}

var losses = []loss{
	{"restored to an earlier run", "broker_lost", restore("earlier run")},
	{"restored to the middle of this run", "broker_lost", restore("middle")},
	{"restored to nothing", "broker_lost", restore("")},
	{"cut off in the last block", "broker_lost", cutPower},
	{"purged", "broker_lost",
		alter(func(ctx context.Context, t testing.TB, _ jetstream.JetStream, s jetstream.Stream) {
			must(t, s.Purge(ctx))
		})},
	{"purged by subject", "broker_lost",
		alter(func(ctx context.Context, t testing.TB, _ jetstream.JetStream, s jetstream.Stream) {
			must(t, s.Purge(ctx, jetstream.WithPurgeSubject("iface.test.*")))
		})},
	{"deleted message by message to an earlier epoch", "broker_lost",
		alter(func(ctx context.Context, t testing.TB, _ jetstream.JetStream, s jetstream.Stream) {
			info, err := s.Info(ctx)
			must(t, err)
			events := info.State.LastSeq
			for seq := events; seq > info.State.FirstSeq+2; seq-- {
				must(t, s.DeleteMsg(ctx, seq))
			}
		})},
	{"made anew by somebody else", "broker_lost",
		alter(func(ctx context.Context, t testing.TB, js jetstream.JetStream, s jetstream.Stream) {
			cfg := s.CachedInfo().Config
			must(t, js.DeleteStream(ctx, "IFACE"))
			_, err := js.CreateStream(ctx, cfg)
			must(t, err)
		})},
	{"followed by garbage", "foreign_data", intrude("no event")},
	{"followed by another schema", "foreign_data", intrude(`{"schema":"iface.v2","host":"test","epoch":"e","seq":1}`)},
}

// A broker that lost what it had confirmed: the bridge lives, says so, and a new epoch
// makes the stream and the bucket whole again; with a spool and without, with the bridge
// running meanwhile and with it down. What the spool had kept is not lost with it. Each loss
// meets two of these four, every other loss the other two; IFACE_TEST_LOSSES=4 is all of them.
func TestBrokerLosesWhatItConfirmed(t *testing.T) {
	bridges := []struct {
		name            string
		withSpool, down bool
	}{
		{"", false, false}, {" with a spool while the bridge was down", true, true},
		{" with a spool", true, false}, {" while the bridge was down", false, true},
	}
	n := number(t, "IFACE_TEST_LOSSES", 2)
	for i, l := range losses {
		for j := range n {
			b := bridges[(2*i+j)%len(bridges)]
			t.Run(l.name+b.name, func(t *testing.T) { testLoss(t, l, b.withSpool, b.down) })
		}
	}
}

func testLoss(t *testing.T, l loss, withSpool, down bool) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a := upLink(t, k)
	env := []string{"IFACE_RESYNC=1s"}
	if withSpool {
		env = append(env, "IFACE_SPOOL_DIR="+t.TempDir())
	}
	backups := map[string]string{}
	backup := func(name string) {
		s.Kill()
		backups[name] = filepath.Join(t.TempDir(), "backup")
		must(t, os.CopyFS(backups[name], os.DirFS(filepath.Join(s.Dir, "store"))))
		s.Start()
	}
	b := bridge(t, s, env...)
	holds(t, s)
	b.Signal(unix.SIGTERM)
	b.Wait()
	backup("earlier run")
	b = bridge(t, s, env...)
	holds(t, s)
	must(t, k.SetAlias(a, "before the middle"))
	holds(t, s)
	backup("middle")
	must(t, k.SetAlias(a, "behind the middle"))
	holds(t, s)
	for _, alias := range []string{"x", "y", "z"} {
		must(t, k.SetAlias(a, alias))
	}
	holds(t, s)

	var kept []string // by the spool alone
	if down && withSpool {
		kept = []string{"kept one", "kept two"}
		confirmed(t, b)
		s.Kill()
		for _, alias := range kept {
			must(t, k.SetAlias(a, alias))
		}
		spooled(t, b, float64(len(kept)))
		b.Kill()
		s.Start()
	} else if down {
		b.Kill()
	}
	tidy := l.lose(t, s, backups)
	must(t, k.SetAlias(a, "after the loss"))
	began := time.Now()
	if down {
		b = bridge(t, s, env...)
	}
	if tidy != nil { // a replay reads events alone
		b.Says("is no event of a bridge")
		tidy()
	}
	settled(t, s)
	holds(t, s)
	t.Logf("whole %v after the loss", time.Since(began).Round(10*time.Millisecond))
	switch {
	case !down:
		b.Says("beginning a new epoch: this one cannot go on")
		b.Says("the new epoch has told again what was told before")
		if b.Metric("ifacebridge_epochs_total") != 2 {
			t.Errorf("%v epochs were begun, want two", b.Metric("ifacebridge_epochs_total"))
		}
	case withSpool:
		b.Says("beginning a new epoch for what an earlier run had left: its own cannot go on")
	}
	if !down || withSpool {
		b.Says("reason=" + l.reason)
	}
	must(t, k.SetAlias(a, "and on"))
	settled(t, s)
	allConfirmed(t, b)
	b.Signal(unix.SIGTERM)
	if status := b.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	events := stored(t, connect(t, s), "IFACE")
	replayAll(t, events)
	for _, alias := range kept {
		n := 0
		for i := range events {
			if events[i].Link.Alias == alias && events[i].Changed.Has("ifalias") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("the change to %q, which the spool had kept, is in the stream %d times", alias, n)
		}
	}
}

// A broker that loses it again while a new epoch tells everything: nothing is left out of
// the next, and no link that is there gets a del.
func TestBrokerLosesTheRetelling(t *testing.T) {
	k := netnstest.Parallel(t)
	a := upLink(t, k)
	const pairs = 30
	for i := range pairs {
		_, _, err := k.AddVeth(fmt.Sprint("a", i), fmt.Sprint("b", i))
		must(t, err)
	}
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "IFACE", Subjects: []string{"iface.*.*"}, AllowDirect: true})
	must(t, err) // it takes no batches: the retelling is as slow as can be
	r := record(t, s)
	b := bridge(t, s)
	random := seed(t)
	n := 0
	for i := range 12 {
		if i > 0 { // the first time in the middle of the run's own beginning
			must(t, k.SetAlias(a, fmt.Sprint("change ", i)))
		}
		some := random.IntN(2 * pairs)
		eventually(t, "some of it is told", func() bool { return r.Mark() >= n+some })
		n = r.Mark() // before: the bridge may have told everything again before Purge returns
		must(t, stream.Purge(t.Context()))
	}
	must(t, k.SetAlias(a, "at last"))
	settled(t, s)
	holds(t, s)
	for _, e := range r.Since(0) {
		if e.Kind == schema.Del {
			t.Errorf("a del of a link that is there: %s", e.AppendJSON(nil))
		}
	}
	if epochs := b.Metric("ifacebridge_epochs_total"); epochs < 3 {
		t.Errorf("%v epochs were begun: nothing was lost in the middle", epochs)
	}
	replayAll(t, stored(t, connect(t, s), "IFACE"))
}
