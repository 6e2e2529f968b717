package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// spooled waits until the bridge has this many events on disk.
func spooled(t testing.TB, p *process, n float64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%v events in the spool", n), func() bool { return p.Metric("ifacebridge_spool_events") >= n })
}

// confirmed waits until NATS has the snapshot, and the spool is empty.
func confirmed(t testing.TB, b *process) {
	t.Helper()
	eventually(t, "the snapshot is confirmed", func() bool {
		return b.Metric("ifacebridge_ready") == 1 && b.Metric("ifacebridge_spool_events") == 0
	})
}

// With a spool, what a bridge has read survives its kill -9 while NATS is away,
// twice: each epoch is there whole, in order, before the next one begins.
func TestSpoolSurvivesCrash(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a := upLink(t, k)
	env := []string{"IFACE_SPOOL_DIR=" + t.TempDir(), "IFACE_RESYNC=0"}
	b := bridge(t, s, env...)
	confirmed(t, b)
	s.Kill()
	b = crashTwice(t, k, a, b, 0, func() *process { return bridge(t, s, env...) })
	s.Start()
	b.Says("published what an earlier run had left")
	settled(t, s)
	holdsAllChanges(t, stored(t, connect(t, s), "IFACE"))
}

// The same over plain NATS, where nobody remembers how far an epoch came but the
// spool itself.
func TestSpoolSurvivesCrashInCore(t *testing.T) {
	k := netnstest.Parallel(t)
	away, s := natstest.New(t, ""), natstest.Start(t, "")
	a := upLink(t, k)
	r := record(t, s)
	env := []string{"IFACE_SPOOL_DIR=" + t.TempDir(), "IFACE_DELIVERY=core", "IFACE_RESYNC=0"}
	b := bridge(t, s, env...)
	r.Snapshot()
	confirmed(t, b)
	b.Kill()
	b = bridge(t, away, env...)
	b = crashTwice(t, k, a, b, 3, func() *process { return bridge(t, away, env...) })
	b.Kill()
	bridge(t, s, env...)
	must(t, k.SetAlias(a, "the end"))
	r.Until(0, "the end", func(e *schema.Event) bool { return e.Link.Alias == "the end" })
	holdsAllChanges(t, r.Since(0))
}

const changesBeforeCrash = 300

// crashTwice changes the alias of a link, and kills the bridge when all changes are in
// the spool, behind the events that are there before, two times. It returns the bridge
// that runs then.
func crashTwice(t *testing.T, k *netnstest.Kernel, link int32, b *process, before int, again func() *process) *process {
	t.Helper()
	for run := range 2 {
		spooled(t, b, float64(before))
		for i := range changesBeforeCrash {
			must(t, k.SetAlias(link, fmt.Sprintf("%d/%d", run, i)))
			if (i+1)%100 == 0 { // so many fit into any receive buffer
				spooled(t, b, float64(before+i+1))
			}
		}
		b.Kill()
		b = again()
		b.Says("found events that an earlier run had not published")
		before += changesBeforeCrash + 3 // its snapshot
	}
	spooled(t, b, float64(before))
	return b
}

func holdsAllChanges(t *testing.T, events []schema.Event) {
	t.Helper()
	replayAll(t, events)
	aliases := map[string]int{}
	for _, e := range events {
		if e.Changed.Has("ifalias") {
			aliases[e.Link.Alias]++
		}
	}
	for run := range 2 {
		for i := range changesBeforeCrash {
			if alias := fmt.Sprintf("%d/%d", run, i); aliases[alias] != 1 {
				t.Fatalf("change %s is there %d times", alias, aliases[alias])
			}
		}
	}
}

// SIGTERM while NATS is away: everything is in the spool, and the status 0.
func TestSpoolAtStop(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.New(t, "")
	env := []string{"IFACE_SPOOL_DIR=" + t.TempDir()}
	b := bridge(t, s, env...)
	b.Says("read the links of this host")
	a := upLink(t, k)
	must(t, k.SetAlias(a, "kept"))
	spooled(t, b, 4)
	b.Signal(unix.SIGTERM)
	if status := b.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	b.Says("what NATS has not confirmed is in the spool, and the next start publishes it")
	must(t, k.Delete(a)) // nobody sees it
	s.Start()
	allConfirmed(t, bridge(t, s, env...)) // else the first event leads to the kernel's state, too
	settled(t, s)
	events := stored(t, connect(t, s), "IFACE")
	replayAll(t, events)
	var life []string
	for _, e := range events {
		if e.Link.Index == a {
			life = append(life, fmt.Sprintf("%v %v", e.Action, e.Cause))
		}
	}
	got := strings.Join(life, ", ")
	if !strings.HasPrefix(got, "created notification, updated notification, ") || !strings.HasSuffix(got, ", deleted resync") {
		t.Errorf("got %s", got)
	}
}

// A link that only the spool tells of, and that is gone when the bridge starts again, gets its
// del over plain NATS, too, where no bucket holds it; and queries do not have it.
func TestSpoolOfALinkThatIsGoneInCore(t *testing.T) {
	k := netnstest.Parallel(t)
	away, s := natstest.New(t, ""), natstest.Start(t, "")
	env := []string{"IFACE_SPOOL_DIR=" + t.TempDir(), "IFACE_DELIVERY=core"}
	b := bridge(t, away, env...)
	b.Says("read the links of this host")
	a := upLink(t, k)
	spooled(t, b, 4)
	b.Kill()
	must(t, k.Delete(a)) // nobody sees it
	r := record(t, s)
	bridge(t, s, env...)
	r.Until(0, "its del", func(e *schema.Event) bool {
		return e.Link.Index == a && e.Kind == schema.Del && e.Cause == schema.Resync
	})
	var links schema.Links
	eventually(t, "an answer", func() bool {
		reply, err := r.Conn.Request(schema.QuerySubject("test"), nil, time.Second)
		return err == nil && json.Unmarshal(reply.Data, &links) == nil && len(links.Links) > 0
	})
	if len(links.Links) != 1 {
		t.Errorf("%d links are told of, and one is there", len(links.Links))
	}
}

// What was spooled and not published is dropped, and said, when another bridge
// has written under the name meanwhile: it comes too late.
func TestSpoolComesTooLate(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a := upLink(t, k)
	env := "IFACE_SPOOL_DIR=" + t.TempDir()
	b := bridge(t, s, env)
	holds(t, s)
	confirmed(t, b)
	s.Kill()
	must(t, k.SetAlias(a, "too late"))
	spooled(t, b, 1)
	b.Kill()
	s.Start()
	other := bridge(t, s) // without the spool
	holds(t, s)
	other.Signal(unix.SIGTERM)
	other.Wait()
	b = bridge(t, s, env)
	b.Says("another bridge has written as this host since; dropped the events that an earlier run had not published")
	holds(t, s)
	replayAll(t, stored(t, connect(t, s), "IFACE"))
}

// A full disk: it is said, events are published all the same, and spooled again
// when there is room.
func TestSpoolOnFullDisk(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a := upLink(t, k)
	dir := t.TempDir()
	// A disk of its own, in a mount namespace of its own.
	mount := fmt.Sprintf("mount -t tmpfs -o size=400k tmpfs %s && exec %s", dir, harness.Command(t))
	b := startWith(t, launch{Attr: syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}}, "/bin/sh",
		[]string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "IFACE_RESYNC=1s", "IFACE_SPOOL_DIR=" + dir, "PATH=" + os.Getenv("PATH")}, "-c", mount)
	holds(t, s)
	disk := fmt.Sprintf("/proc/%d/root%s", b.Pid(), dir)
	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	s.Kill()
	const changes = 2000
	for i := range changes {
		must(t, k.SetAlias(a, fmt.Sprint(i)))
	}
	b.Says("cannot spool events; until it works again a crash of the bridge loses those that NATS has not confirmed")
	b.Says("no space left on device")
	must(t, os.Remove(filler))
	s.Start()
	f := settled(t, s)
	b.Says("spooling again")
	if f.Overruns == 0 && f.Replay.Notifications < changes {
		t.Errorf("%d changes, and the events stand for %d notifications", changes, f.Replay.Notifications)
	}
	if n := b.Metric("ifacebridge_spool_failures_total"); n == 0 {
		t.Error("no failure was counted")
	}
}

// A broker that loses what it had confirmed while a backlog of the spool is published: the new
// epoch tells the state, which has those events, and then what is left of them. So no event is
// told again but those on their way just then, one each time.
func TestSpoolWhenTheBrokerLosesTheMiddle(t *testing.T) {
	k := netnstest.Parallel(t)
	a := upLink(t, k)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	stream, err := js.CreateStream(t.Context(),
		jetstream.StreamConfig{Name: "IFACE", Subjects: []string{"iface.*.*"}, AllowDirect: true})
	must(t, err) // it takes no batches: a part of what the spool gives at once is confirmed
	b := bridge(t, s, "IFACE_SPOOL_DIR="+t.TempDir(), "IFACE_RESYNC=0")
	confirmed(t, b)
	r := record(t, s)
	s.Signal(unix.SIGSTOP)
	const changes = 1000
	for i := range changes {
		must(t, k.SetAlias(a, fmt.Sprint(i)))
		if (i+1)%100 == 0 { // so many fit into any receive buffer
			spooled(t, b, float64(i+1))
		}
	}
	s.Signal(unix.SIGCONT)
	for n := range 3 {
		eventually(t, "some of it is told", func() bool { return r.Mark() >= (n+1)*changes/5 })
		must(t, stream.Purge(t.Context()))
	}
	must(t, k.SetAlias(a, "last")) // all may have been confirmed before the last purge
	settled(t, s)
	r.Until(0, "the last change", func(e *schema.Event) bool { return e.Link.Alias == "last" })
	sent, times := map[string]bool{}, map[string]int{}
	for _, e := range r.Since(0) {
		if e.Changed.Has("ifalias") && !sent[e.ID()] { // an answer that is late has it sent again
			sent[e.ID()] = true
			times[e.Link.Alias]++
		}
	}
	again := 0
	for _, n := range times {
		again += n - 1
	}
	lost := int(b.Metric("ifacebridge_epochs_total")) - 1
	if len(times) != changes+1 || lost == 0 || again > lost {
		t.Errorf("%d of %d changes were told, %d of them again; %d epochs could not go on",
			len(times), changes+1, again, lost)
	}
}
