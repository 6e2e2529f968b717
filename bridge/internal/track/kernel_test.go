package track

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/linktest"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/netnstest"
)

func TestMain(m *testing.M) { harness.Main(m) }

// Links come and go while a dump of thousands of them runs, again and again, and the
// changes lead to what the kernel has. IFACE_TEST_LINKS=10000 is the long form.
func TestDumpOfManyLinks(t *testing.T) {
	k := netnstest.New(t)
	links := harness.Number(t, "IFACE_TEST_LINKS", 3000)
	began := time.Now()
	for i := range links / 2 {
		if _, _, err := k.AddVeth(fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d links made in %v", links, time.Since(began).Round(time.Millisecond))
	src, err := netlinksrc.Open(netlinksrc.Config{NetNS: int(k.File.Fd()), ReadBuffer: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	q := queue.New(linktest.Events(1<<20), 0)
	w := &watcher{
		src:      src,
		table:    NewTable(config.Filter{}, event.Namespace{}),
		queue:    q,
		resync:   time.Millisecond,
		log:      slog.New(slog.DiscardHandler),
		overruns: new(atomic.Uint64),
		metrics:  newKernelMetrics(metrics.Registry{Registry: prometheus.NewRegistry()}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- startAndRun(ctx, w) }()

	replayed := map[int32]schema.Link{}
	follow := func() {
		into, events := make([]event.Delta, 1000), new(event.Writer)
		for {
			n, _ := q.Take(into, time.Now())
			for i := range into[:n] {
				data, _ := events.Append(nil, &into[i], "epoch", 1)
				var e schema.Event
				if err := e.UnmarshalJSON(data); err != nil {
					t.Fatal(err)
				}
				if delete(replayed, e.Link.Index); e.Kind == schema.New {
					e.Link.LowerName, e.Link.MasterName = "", "" // which the kernel does not send
					replayed[e.Link.Index] = e.Link
				}
			}
			if n == 0 {
				return
			}
		}
	}
	<-q.Ready() // the snapshot
	for i := range 200 {
		index, err := k.Add(fmt.Sprintf("late%d", i), 0, netnstest.Kind{Name: "ifb"})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.SetFlags(index, unix.IFF_UP, true); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if err := k.Delete(index); err != nil {
				t.Fatal(err)
			}
		}
		follow()
	}
	want := map[int32]schema.Link{}
	probe, err := netlinksrc.Open(netlinksrc.Config{NetNS: int(k.File.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	if _, err := probe.Dump(ctx, func(m *netlinksrc.Message) { want[m.Link.Index] = m.Link }); err != nil {
		t.Fatal(err)
	}
	same := func() bool {
		follow()
		if len(replayed) != len(want) {
			return false
		}
		for index, l := range want {
			if replayed[index] != l {
				return false
			}
		}
		return true
	}
	harness.Eventually(t, fmt.Sprintf("the changes lead to the kernel's %d links", len(want)), same)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A link's hardware type changes in place, and a dump finds that, since the notification is
// lost: it tells what the notification tells where that is read.
func TestDumpFindsHardwareType(t *testing.T) {
	k := netnstest.New(t)
	tap, err := k.OpenTap("tap0")
	if err != nil {
		netnstest.Skip(t, "tun", err.Error())
	}
	defer tap.Close()
	notified, dumped := startedIn(t, k), startedIn(t, k)
	if err := unix.IoctlSetInt(int(tap.Fd()), unix.TUNSETLINK, unix.ARPHRD_IEEE80211); err != nil {
		t.Fatal(err)
	}
	var want, got []string
	drain := func(w *watcher, handle func(*netlinksrc.Message)) {
		w.src.Lock()
		defer w.src.Unlock()
		if err := w.src.Drain(handle); err != nil {
			t.Fatal(err)
		}
	}
	drain(notified, func(m *netlinksrc.Message) {
		notified.handle(m, func(c *event.Change) { want = append(want, describe(c)+" resync") })
	})
	drain(dumped, func(*netlinksrc.Message) {})
	if err := dumped.synchronize(t.Context(), func(c *event.Change) { got = append(got, describe(c)) }); err != nil {
		t.Fatal(err)
	}
	expect(t, got, want...)
	if len(got) != 1 || !strings.Contains(got[0], "new updated ") || !strings.Contains(got[0], "link_type") {
		t.Errorf("got %q", got)
	}
}

// startedIn returns a watcher of a namespace that knows its links.
func startedIn(t *testing.T, k *netnstest.Kernel) *watcher {
	t.Helper()
	src, err := netlinksrc.Open(netlinksrc.Config{NetNS: int(k.File.Fd()), ReadBuffer: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	w := &watcher{
		src:      src,
		table:    NewTable(config.Filter{}, event.Namespace{}),
		queue:    queue.New(linktest.Events(100), 0),
		log:      slog.New(slog.DiscardHandler),
		overruns: new(atomic.Uint64),
		metrics:  newKernelMetrics(metrics.Registry{Registry: prometheus.NewRegistry()}),
	}
	if err := w.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}
