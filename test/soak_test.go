package test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// A churn changes links at random.
type churn struct {
	k, elsewhere *netnstest.Kernel
	r            *rand.Rand
	mine         []int32 // links here
	abroad       []int32 // links there
	bridges      []int32
	n            int
	reused       int
}

func newChurn(t testing.TB, k *netnstest.Kernel, r *rand.Rand) *churn {
	t.Helper()
	c := &churn{k: k, elsewhere: netnstest.New(t), r: r}
	for i := range 2 {
		index, err := k.Add(fmt.Sprintf("bridge%d", i), 0, netnstest.Kind{Name: "bridge"})
		must(t, err)
		must(t, k.Up(index))
		c.bridges = append(c.bridges, index)
	}
	return c
}

// step does one thing; what the kernel refuses is no matter.
func (c *churn) step() {
	if c.n++; c.n%20 == 0 {
		c.look()
	}
	if len(c.mine) < 4 || c.r.IntN(8) == 0 && len(c.mine) < 40 {
		c.create()
		return
	}
	i := c.r.IntN(len(c.mine))
	index := c.mine[i]
	switch c.r.IntN(14) {
	case 0, 1:
		if c.k.Delete(index) == nil {
			c.mine = slices.Delete(c.mine, i, i+1)
			if c.r.IntN(2) == 0 { // its index for another link
				if again, err := c.k.Add(c.name(), index, netnstest.Kind{Name: "ifb"}); err == nil {
					c.mine = append(c.mine, again)
					c.reused++
				}
			}
		}
	case 2:
		_ = c.k.Rename(index, c.name())
	case 3, 4:
		_ = c.k.SetFlags(index, unix.IFF_UP, c.r.IntN(2) == 0)
	case 5, 6:
		_ = c.k.SetAlias(index, c.odd())
	case 7:
		_ = c.k.SetUint32(index, unix.IFLA_MTU, uint32(1000+c.r.IntN(500)))
	case 8:
		_ = c.k.SetUint32(index, unix.IFLA_MASTER, uint32(c.bridges[c.r.IntN(len(c.bridges))]))
	case 9:
		_ = c.k.SetUint32(index, unix.IFLA_MASTER, 0)
	case 10:
		_ = c.k.AddAltName(index, fmt.Sprintf("alt%d%s", c.n, c.odd()))
	case 11:
		_ = c.k.SetUint32(index, unix.IFLA_GROUP, c.r.Uint32N(5))
	case 12:
		if c.k.Move(index, c.elsewhere, 0) == nil {
			c.mine = slices.Delete(c.mine, i, i+1)
		}
	case 13:
		if n := len(c.abroad); n > 0 {
			_ = c.elsewhere.Move(c.abroad[n-1], c.k, 0)
			c.abroad = c.abroad[:n-1]
		}
	}
}

// look finds out which links there are: the other ends of pairs go along, and a
// link that moved may have another index now.
func (c *churn) look() {
	mine, err := c.k.Indexes()
	if err != nil {
		return
	}
	c.mine = slices.DeleteFunc(mine, func(i int32) bool { return slices.Contains(c.bridges, i) })
	if abroad, err := c.elsewhere.Indexes(); err == nil {
		c.abroad = abroad
	}
}

func (c *churn) create() {
	switch c.r.IntN(3) {
	case 0:
		if a, b, err := c.k.AddVeth(c.name(), c.name()); err == nil {
			c.mine = append(c.mine, a, b)
		}
	default:
		if index, err := c.k.Add(c.name(), 0, netnstest.Kind{Name: "ifb"}); err == nil {
			c.mine = append(c.mine, index)
		}
	}
}

// name is one of few, so that names are taken again by other links.
func (c *churn) name() string { return fmt.Sprintf("l%d%s", c.r.IntN(60), c.odd()) }

func (c *churn) odd() string {
	return []string{"", "", "", "\xff", "\xfe", `"`, `\`, "*", ">", "ü"}[c.r.IntN(10)]
}

// A soak: links are changed at random at full speed, with the bridge stopped and
// continued so that the kernel overruns it. A consumer that applies the stream in
// order holds exactly the kernel's links at the end. IFACE_TEST_SOAK=60s is the
// long form.
func TestSoak(t *testing.T) {
	netnstest.Tool(t, "ip")
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	r := seed(t)
	b := bridge(t, s, "IFACE_RCVBUF=64KiB", "IFACE_RESYNC=1s")
	b.Ready()
	c := newChurn(t, k, r)
	stops := 0
	for end := time.Now().Add(duration(t, "IFACE_TEST_SOAK", 4*time.Second)); stops < 3 || time.Now().Before(end); {
		if r.IntN(200) == 0 {
			b.Signal(unix.SIGSTOP)
			stops++
			for range 300 {
				c.step()
			}
			b.Signal(unix.SIGCONT)
		}
		c.step()
	}
	f := follow(t, s)
	var compared int
	var diffs []string
	began := time.Now()
	defer func() {
		if t.Failed() {
			t.Logf("%q", diffs)
		}
	}()
	f.Until("the replayed stream is the kernel's state", func() bool {
		compared, diffs = sameAsIP(t, f.Replay.Links)
		return len(diffs) == 0
	})
	t.Logf("%d steps, %d indexes reused, %d stops, %d events, %d overruns, %d values of %d links compared, the same %v after the last change",
		c.n, c.reused, stops, f.Events, f.Overruns, compared, len(f.Replay.Links), time.Since(began).Round(time.Millisecond))
	if f.Overruns == 0 {
		t.Error("the kernel never overran the bridge: this was no test of it")
	}
}
