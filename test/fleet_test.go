package test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"ifacebridge/fleet"
	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// A fleetHost is a test host with a bridge on it.
type fleetHost struct {
	*host
	name   string
	bridge *process
	links  []int32 // that the test has made
}

// startBridge starts the host's bridge, again after a kill.
func (h *fleetHost) startBridge(s *natstest.Server) {
	h.t.Helper()
	h.bridge = startWith(h.t, launch{On: h.k}, natstest.Binary(h.t, "ifacebridge/cmd/ifacebridge"),
		[]string{"NATS_URL=" + s.URL, "IFACE_HOST=" + h.name, "IFACE_RESYNC=2s", "IFACE_HTTP_ADDR=", "GOMAXPROCS=1"})
}

// change makes one random change on the host.
func (h *fleetHost) change(r *rand.Rand, n int) error {
	if len(h.links) < 3 || len(h.links) < 20 && r.IntN(4) == 0 {
		index, err := h.k.Add(fmt.Sprintf("l%d", n), 0, netnstest.Kind{Name: "ifb"})
		if err == nil {
			h.links = append(h.links, index)
		}
		return err
	}
	i := r.IntN(len(h.links))
	switch r.IntN(5) {
	case 0:
		index := h.links[i]
		h.links = append(h.links[:i], h.links[i+1:]...)
		return h.k.Delete(index)
	case 1:
		return h.k.SetUint32(h.links[i], unix.IFLA_MTU, uint32(1000+r.IntN(500)))
	case 2:
		return h.k.SetFlags(h.links[i], unix.IFF_UP, r.IntN(2) == 0)
	default:
		return h.k.SetAlias(h.links[i], fmt.Sprint(n))
	}
}

// A consumer follows the fleet in one of the three ways.
type consumer struct {
	join   fleet.Join
	fleet  *fleet.Fleet
	events atomic.Int64
}

func startConsumer(t testing.TB, s *natstest.Server, join fleet.Join) *consumer {
	t.Helper()
	return startConsumerAt(t, s.URL, join)
}

// startConsumerAt is startConsumer for a URL with a user and a password.
func startConsumerAt(t testing.TB, url string, join fleet.Join) *consumer {
	t.Helper()
	nc := harness.ConnectTo(t, url, nats.RetryOnFailedConnect(true))
	f, err := fleet.New(nc, fleet.Options{Join: join, Presence: time.Second, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	c := &consumer{join: join, fleet: f}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- f.Run(ctx, func(change fleet.Change) {
			if change.Kind == fleet.Applied {
				c.events.Add(1)
			}
		})
	}()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	return c
}

// wrong says how the consumer's view differs from the kernels'.
func (c *consumer) wrong(kernels map[string]map[int32]map[string]any) (diffs []string) {
	view := c.fleet.View()
	if len(view) != len(kernels) {
		diffs = append(diffs, fmt.Sprintf("it knows %d hosts of %d", len(view), len(kernels)))
	}
	for _, h := range view {
		links := map[int32]schema.Link{}
		for _, l := range h.Links {
			links[l.Link.Index] = l.Link
		}
		_, d := harness.SameLinks(links, kernels[h.Name])
		if !h.Whole {
			d = append(d, "not whole")
		}
		for _, text := range d {
			diffs = append(diffs, h.Name+": "+text)
		}
	}
	return diffs
}

// Fifty hosts; bridges and the server are killed and started again; consumers join
// at random, by the stream, by query, by the bucket. After quiet, every consumer's
// view is every kernel's.
func TestFleet(t *testing.T) {
	netnstest.Tool(t, "ip")
	r := seed(t)
	const count = 50
	var hosts []*fleetHost
	for i, h := range startHosts(t, count) {
		hosts = append(hosts, &fleetHost{host: h, name: fmt.Sprintf("host%02d.example.com", i)})
	}
	s := natstest.NewOn(t, "10.77.0.254", 4222, netnstest.Where(t).Enter, "")
	s.Start()
	for _, h := range hosts {
		h.startBridge(s)
	}
	var consumers []*consumer
	changes, bridgeKills, serverKills := 0, 0, 0
	began := time.Now()
	for end := began.Add(duration(t, "IFACE_TEST_FLEET", 10*time.Second)); time.Now().Before(end); {
		h := hosts[r.IntN(count)]
		must(t, h.change(r, changes))
		changes++
		time.Sleep(2 * time.Millisecond)
		switch n := r.IntN(1500); {
		case n < 4:
			h.bridge.Kill()
			h.startBridge(s)
			bridgeKills++
		case n == 4 && serverKills < 4:
			s.Kill()
			s.Start()
			serverKills++
		case n < 8 && len(consumers) < 12:
			consumers = append(consumers, startConsumer(t, s, fleet.Join(len(consumers)%3)))
		}
	}
	for len(consumers) < 3 {
		consumers = append(consumers, startConsumer(t, s, fleet.Join(len(consumers))))
	}
	quiet := time.Now()
	kernels := map[string]map[int32]map[string]any{}
	for _, h := range hosts {
		kernels[h.name] = harness.IPLinks(t, h.k)
	}
	for i, c := range consumers {
		var diffs []string
		defer func() {
			if t.Failed() {
				t.Logf("%d differences: %q", len(diffs), diffs[:min(5, len(diffs))])
			}
		}()
		eventually(t, fmt.Sprintf("consumer %d, from the %v, sees what the kernels have", i, c.join), func() bool {
			diffs = c.wrong(kernels)
			return len(diffs) == 0
		})
	}
	settled := time.Since(quiet)
	var gaps, healed, repeats uint64
	events := int64(0)
	for _, c := range consumers {
		events += c.events.Load()
		for _, h := range c.fleet.View() {
			gaps, healed, repeats = gaps+h.Gaps, healed+h.Healed, repeats+h.Repeats
		}
	}
	t.Logf("%d hosts, %d changes in %v, %d bridges and %d servers killed, %d consumers: %d events, %d gaps, %d healed, %d repeats; every view right %v after the last change",
		count, changes, quiet.Sub(began).Round(time.Second), bridgeKills, serverKills, len(consumers), events, gaps, healed, repeats, settled.Round(time.Millisecond))
	if gaps > healed {
		t.Errorf("%d gaps, %d healed", gaps, healed)
	}
}
