package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// release builds the program as it is released.
func release(t testing.TB) string {
	t.Helper()
	if tt, ok := t.(*testing.T); ok {
		tt.Setenv("CGO_ENABLED", "0")
	}
	return natstest.Binary(t, "ifacebridge/cmd/ifacebridge", "-tags", "noembed", "-trimpath", "-ldflags=-s -w")
}

// switches returns how often all threads of a process have gone to sleep.
func (p *process) switches() (sum int) {
	p.t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
	must(p.t, err)
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
// little else, and is small.
func TestIdle(t *testing.T) {
	k := netnstest.Own(t)
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
		b.says("read the links of this host")
		bridges = append(bridges, b)
	}
	const settle, long = 5 * time.Second, 40 * time.Second // two of NATS's pings
	time.Sleep(settle)
	var before [2]int
	for i, b := range bridges {
		before[i] = b.switches()
	}
	time.Sleep(long)
	for i, b := range bridges {
		perSecond, kib := float64(b.switches()-before[i])/long.Seconds(), residentKiB(t, b)
		t.Logf("%s: %.1f voluntary context switches a second, %.1f MiB", deliveries[i], perSecond, float64(kib)/1024)
		// 14.5 MiB are seen on a machine that does nothing else; three quarters of it are
		// pages of the program's file, of which the kernel maps more or fewer.
		// Around a timer the Go runtime polls for it, 20 times or so, which is most of what
		// is counted: 0.9 to 3.0 a second were seen.
		if perSecond >= 6 || kib >= 17<<10 {
			t.Errorf("%s: %.1f voluntary context switches a second, want less than 6; %.1f MiB, want less than 17", deliveries[i], perSecond, float64(kib)/1024)
		}
	}
}

// 10,000 links: how long until all of them are stored, and the memory it takes.
func TestManyLinks(t *testing.T) {
	netnstest.Own(t)
	k := netnstest.New(t) // all of its links go at once
	const links = 10000
	for i := range links / 2 {
		_, err := k.Add(fmt.Sprint("a", i), 0, netnstest.VethKind(fmt.Sprint("b", i)))
		must(t, err)
	}
	s := natstest.Start(t, "")
	js, err := jetstream.New(connect(t, s))
	must(t, err)
	path := release(t)
	began := time.Now()
	b := startBinary(t, path, []string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "IFACE_NETNS=" + k.ProcPath()})
	for stored := uint64(0); stored < links+1; time.Sleep(2 * time.Millisecond) {
		if stream, err := js.Stream(context.Background(), "IFACE"); err == nil {
			stored = stream.CachedInfo().State.Msgs
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("only %d are stored", stored)
		}
	}
	took := time.Since(began)
	eventually(t, "it is ready", func() bool {
		return b.metric("ifacebridge_ready") == 1 && b.metric("ifacebridge_bucket_behind_keys") == 0
	})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib := 0
	_, err = fmt.Sscan(rest, &kib)
	must(t, err)
	t.Logf("%d links are stored %v after the start; %.1f MiB at most", links, took.Round(time.Millisecond), float64(kib)/1024)
	if slack := 3 * 1500 * time.Millisecond; took > slack { // the figure is for a machine that does nothing else
		t.Errorf("it took %v", took)
	}
	if kib >= 48<<10 {
		t.Errorf("%.1f MiB, want less than 48", float64(kib)/1024)
	}
}

// 1,000 links at once do not overrun the buffer that is asked for by default.
func TestManyLinksAtOnce(t *testing.T) {
	k := netnstest.Own(t)
	s := natstest.Start(t, "")
	b := bridge(t, s)
	b.ready()
	b.signal(unix.SIGSTOP) // worse: nobody reads meanwhile
	for i := range 1000 {
		_, err := k.Add(fmt.Sprint("a", i), 0, netnstest.Kind{Name: "ifb"})
		must(t, err)
	}
	b.signal(unix.SIGCONT)
	f := settled(t, s)
	if f.overruns > 0 || len(f.replay.links) != 1001 {
		t.Errorf("%d overruns, %d links", f.overruns, len(f.replay.links))
	}
}

// What the environment says of CPUs holds; without, one is used. Profiles are served
// when that is asked for, and only then.
func TestRuntimeSettings(t *testing.T) {
	netnstest.Own(t)
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
		b.says("serving /healthz")
		if got := b.metric("go_sched_gomaxprocs_threads"); got != tt.cpus {
			t.Errorf("%v: %v CPUs, want %v", tt.env, got, tt.cpus)
		}
		if status, _ := get(t, "/debug/pprof/heap"); status != tt.status {
			t.Errorf("%v: /debug/pprof/heap answers %d, want %d", tt.env, status, tt.status)
		}
		if limit := b.metric("go_gc_gomemlimit_bytes"); (limit == 64<<20) != (tt.env != nil) {
			t.Errorf("%v: a memory limit of %v", tt.env, limit)
		}
		b.signal(unix.SIGTERM)
		b.wait(10 * time.Second)
	}
}
