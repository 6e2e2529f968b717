package test

import (
	"fmt"
	"strings"
	"testing"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// An outage with many changes of links that have 1 KiB of names each, within the memory
// that the manifest and the unit allow: nothing is killed, and what has no room is folded
// into events that say so. IFACE_TEST_CHANGES=100000, of 1,000 links, is the long form; the
// short one has a smaller queue and a smaller limit.
func TestMemoryInAnOutage(t *testing.T) {
	changes := number(t, "IFACE_TEST_CHANGES", 10000)
	bytes, queue := 64<<20, "3MiB"
	if changes >= 100000 {
		bytes, queue = 128<<20, ""
	}
	for _, tt := range []struct {
		name string
		env  []string
	}{
		{"without a spool", nil},
		{"with a spool", []string{"IFACE_SPOOL_DIR=" + t.TempDir()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := netnstest.Parallel(t)
			links := namedLinks(t, k, changes/100)
			s := natstest.Start(t, "")
			limit := harness.LimitMemory(t, bytes)
			b := limit.Start(t, release(t), append(tt.env, "NATS_URL="+s.URL, "IFACE_HOST=test", "IFACE_QUEUE="+queue)...)
			holds(t, s)
			s.Kill()
			for i := range changes {
				change(t, k, links[i%len(links)], i/len(links))
			}
			waiting, folded := b.Metric("ifacebridge_queue_events"), b.Metric("ifacebridge_events_folded_total")
			s.Start()
			f := settled(t, s)
			own, counted := limit.Check(t)
			t.Logf("%d changes of %d links in an outage: %v events waited, %v changes were folded; %d events stored; "+
				"%.1f MiB of its own at most, %.1f with pages of files",
				changes, len(links), waiting, folded, f.Events, own, counted)
			if f.Overruns == 0 && f.Replay.Notifications < uint64(changes) {
				t.Errorf("%d changes, and the events stand for %d notifications", changes, f.Replay.Notifications)
			}
		})
	}
}

// A storm of changes while NATS takes them takes less than 64 MiB.
func TestMemoryInAStorm(t *testing.T) {
	k := netnstest.Parallel(t)
	a := upLink(t, k)
	s := natstest.Start(t, "")
	limit := harness.LimitMemory(t, 64<<20)
	b := limit.Start(t, release(t), "NATS_URL="+s.URL, "IFACE_HOST=test")
	holds(t, s)
	if got := b.Metric("go_gc_gomemlimit_bytes"); int(got)>>20 != 57 { // 90 %
		t.Errorf("the garbage collector's limit is %.0f bytes, and the cgroup's is %d", got, 64<<20)
	}
	changes := number(t, "IFACE_TEST_CHANGES", 10000)
	for i := range changes {
		must(t, k.SetAlias(a, fmt.Sprint(i)))
	}
	f := settled(t, s)
	own, counted := limit.Check(t)
	t.Logf("%d changes of one link, %d events stored; %.1f MiB of its own at most, %.1f with pages of files",
		changes, f.Events, own, counted)
}

// namedLinks makes links that are up and have 1 KiB of alternative names.
func namedLinks(t testing.TB, k *netnstest.Kernel, n int) (links []int32) {
	t.Helper()
	for i := range n / 2 {
		a, b := upPair(t, k, fmt.Sprint("a", i), fmt.Sprint("b", i))
		links = append(links, a, b)
	}
	for _, link := range links {
		for place := range 8 {
			must(t, k.AddAltName(link, altName(link, place, 0)))
		}
	}
	return links
}

// altName is an alternative name of 127 bytes, as many as there may be.
func altName(link int32, place, round int) string {
	name := fmt.Sprintf("%d-%d-%d-", link, place, round)
	return name + strings.Repeat("x", 127-len(name))
}

// change makes the next change of a link: another MTU, or another alternative name, which
// is one change when the old one goes and one when the new one comes.
func change(t testing.TB, k *netnstest.Kernel, link int32, turn int) {
	t.Helper()
	switch round := turn / 3; turn % 3 {
	case 0:
		must(t, k.SetUint32(link, 4 /* IFLA_MTU */, uint32(1400+round%2)))
	case 1:
		must(t, k.DeleteAltName(link, altName(link, 0, round)))
	case 2:
		must(t, k.AddAltName(link, altName(link, 0, round+1)))
	}
}
