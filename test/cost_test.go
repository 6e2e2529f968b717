package test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// release builds the program as it is released.
func release(t testing.TB) string {
	t.Helper()
	return natstest.BinaryWith(t, []string{"CGO_ENABLED=0"}, "ifacebridge/cmd/ifacebridge", "-tags", "noembed", "-trimpath", "-ldflags=-s -w")
}

// switches returns how often all threads of a process have gone to sleep.
func switches(t testing.TB, p *process) (sum int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.Pid()))
	must(t, err)
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(status), "\nvoluntary_ctxt_switches:")
		n := 0
		_, _ = fmt.Sscan(rest, &n)
		sum += n
	}
	return sum
}

// With nothing to do, a bridge with 20 links sleeps: it wakes for NATS's ping and
// little else, and is small. IFACE_TEST_IDLE=40s has two of the pings in it.
func TestIdle(t *testing.T) {
	k := netnstest.Parallel(t)
	for i := range 10 {
		_, _, err := k.AddVeth(fmt.Sprint("a", i), fmt.Sprint("b", i))
		must(t, err)
	}
	s := natstest.Start(t, "")
	path := release(t)
	deliveries := []string{"core", "jetstream"}
	var bridges []*process
	for _, delivery := range deliveries {
		b := startBinary(t, path, []string{"NATS_URL=" + s.URL, "IFACE_HOST=" + delivery, "IFACE_DELIVERY=" + delivery, "IFACE_HTTP_ADDR="})
		b.Says("read the links of this host")
		b.Says("connected to NATS")
		bridges = append(bridges, b)
	}
	long := duration(t, "IFACE_TEST_IDLE", 8*time.Second)
	eventually(t, "a while in which both sleep", func() bool { // there may be something left of the start
		began := time.Now()
		var before [2]int
		for i, b := range bridges {
			before[i] = switches(t, b)
		}
		time.Sleep(long)
		asleep := true
		for i, b := range bridges {
			perSecond := float64(switches(t, b)-before[i]) / time.Since(began).Seconds()
			mib := float64(residentKiB(t, b)) / 1024
			t.Logf("%s: %.1f voluntary context switches a second, %.1f MiB", deliveries[i], perSecond, mib)
			if mib >= 128 { // the DaemonSet's container may not have more
				t.Errorf("%s: %.1f MiB, want less than 128", deliveries[i], mib)
			}
			// Around a timer the Go runtime polls for it, 20 times or so, which is most of what
			// is counted: 0.9 to 3.0 a second and 14.5 MiB were seen. Ten times that is a loop
			// that does not sleep.
			asleep = asleep && perSecond < 30
		}
		return asleep
	})
}

// Very many links: all of them are stored, in memory that a DaemonSet's container has.
// IFACE_TEST_LINKS=10000 is the long form.
func TestManyLinks(t *testing.T) {
	netnstest.Parallel(t)
	k := netnstest.New(t)
	links := number(t, "IFACE_TEST_LINKS", 3000)
	for i := range links / 2 {
		_, err := k.Add(fmt.Sprint("a", i), 0, netnstest.VethKind(fmt.Sprint("b", i)))
		must(t, err)
	}
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	path := release(t)
	began := time.Now()
	b := startBinary(t, path, []string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "IFACE_NETNS=" + k.ProcPath()})
	eventually(t, "all of them are stored", func() bool {
		stream, err := js.Stream(context.Background(), "IFACE")
		return err == nil && stream.CachedInfo().State.Msgs >= uint64(links+1)
	})
	took := time.Since(began)
	eventually(t, "it is ready", func() bool {
		return b.Metric("ifacebridge_ready") == 1 && b.Metric("ifacebridge_bucket_behind_keys") == 0
	})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.Pid()))
	must(t, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib := 0
	_, err = fmt.Sscan(rest, &kib)
	must(t, err)
	t.Logf("%d links are stored %v after the start; %.1f MiB at most", links, took.Round(time.Millisecond), float64(kib)/1024)
	if kib >= 128<<10 {
		t.Errorf("%.1f MiB, want less than 128", float64(kib)/1024)
	}
}

// A link whose messages are larger than the room for one, on a host with very many links:
// each change of it is an event, costs what that link costs and not what the host does, and
// is no overrun. IFACE_TEST_LINKS=5000 is the long form.
func TestLargeLinkAmongMany(t *testing.T) {
	k := netnstest.Parallel(t)
	for i := range number(t, "IFACE_TEST_LINKS", 1000) / 2 {
		_, err := k.Add(fmt.Sprint("a", i), 0, netnstest.VethKind(fmt.Sprint("b", i)))
		must(t, err)
	}
	wide, err := k.Add("wide", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	for i := range 80 {
		must(t, k.AddAltName(wide, fmt.Sprintf("%0120d", i)))
	}
	s := natstest.Start(t, "")
	nc := connect(t, s)
	sub, err := nc.SubscribeSync("iface.test.*")
	must(t, err)
	must(t, sub.SetPendingLimits(-1, -1))
	harness.Flush(t, nc)
	next := func() (e schema.Event) {
		m, err := sub.NextMsg(harness.Patience)
		must(t, err)
		must(t, json.Unmarshal(m.Data, &e))
		return e
	}
	b := startBinary(t, release(t), []string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "IFACE_DELIVERY=core"})
	for e := next(); e.Snapshot.Pos < e.Snapshot.Of; e = next() {
	}
	dumps, cpu := b.Metric("ifacebridge_netlink_dumps_total"), cpuTime(t, b)
	const changes = 300
	for i := range changes {
		must(t, k.SetUint32(wide, unix.IFLA_MTU, uint32(2000+i)))
		e := next() // before the next change: what is asked for is the state of that moment
		mtu, names := e.Link.MTU.Or(0), len(e.Link.Alt.List())
		if e.Kind != schema.New || mtu != uint32(2000+i) || names != 80 || e.Overruns > 0 {
			t.Fatalf("change %d: %s", i, e.AppendJSON(nil)[:400])
		}
	}
	perChange := (cpuTime(t, b) - cpu) / changes
	t.Logf("%v of CPU for a change of a link with 80 alternative names", perChange)
	dumps = b.Metric("ifacebridge_netlink_dumps_total") - dumps
	if overruns := b.Metric("ifacebridge_netlink_overruns_total"); dumps > 0 || overruns > 0 {
		t.Errorf("%v dumps, and %v overruns", dumps, overruns)
	}
}

// cpuTime returns what a process has used of CPUs, in the kernel too.
func cpuTime(t testing.TB, p *process) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
	must(t, err)
	_, fields, _ := strings.Cut(string(stat), ") ")
	var user, system time.Duration
	_, err = fmt.Sscan(strings.Join(strings.Fields(fields)[11:13], " "), &user, &system)
	must(t, err)
	return (user + system) * 10 * time.Millisecond // USER_HZ is 100
}

// As many links at once as the receive buffer that was granted has room for, 1,000 if
// it is what is asked for by default, do not overrun it.
func TestManyLinksAtOnce(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	b := bridge(t, s)
	b.Ready()
	_, text, _ := strings.Cut(b.Output(), " granted=")
	links := 0
	_, err := fmt.Sscan(text, &links)
	must(t, err)
	links = min(1000, 2*links/2304/2) // the kernel doubles it; 2,304 bytes a notification, and half is left free
	b.Signal(unix.SIGSTOP)            // worse: nobody reads meanwhile
	for i := range links {
		_, err := k.Add(fmt.Sprint("a", i), 0, netnstest.Kind{Name: "ifb"})
		must(t, err)
	}
	b.Signal(unix.SIGCONT)
	f := settled(t, s)
	if f.Overruns > 0 || len(f.Replay.Links) != links+1 {
		t.Errorf("%d overruns, %d links of %d", f.Overruns, len(f.Replay.Links), links+1)
	}
}

// What the environment says of CPUs holds; without, one is used. Profiles are served
// when that is asked for, and only then.
func TestRuntimeSettings(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	for _, tt := range []struct {
		env    []string
		cpus   float64
		status int
	}{
		{nil, 1, 404},
		{[]string{"GOMAXPROCS=2", "GOMEMLIMIT=64MiB", "IFACE_PPROF=on"}, 2, 200},
	} {
		b := bridge(t, s, tt.env...)
		b.Says("serving /healthz")
		if got := b.Metric("go_sched_gomaxprocs_threads"); got != tt.cpus {
			t.Errorf("%v: %v CPUs, want %v", tt.env, got, tt.cpus)
		}
		if status, _ := get(t, "/debug/pprof/heap"); status != tt.status {
			t.Errorf("%v: /debug/pprof/heap answers %d, want %d", tt.env, status, tt.status)
		}
		if limit := b.Metric("go_gc_gomemlimit_bytes"); (limit == 64<<20) != (tt.env != nil) {
			t.Errorf("%v: a memory limit of %v", tt.env, limit)
		}
		b.Signal(unix.SIGTERM)
		b.Wait()
	}
}
