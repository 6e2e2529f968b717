package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// prompt is how long after the kernel's message its event may come: ten times the 100 ms
// that are asked for, since the time of an emulated machine is no gate, and a bridge that
// waits for a dump, or for a poll, is found all the same.
const prompt = time.Second

// A bond fails over from one slave to the other: what the bond knows of each is in the
// event, as it is and as it was, as soon as the kernel says so.
func TestGuestBondFailover(t *testing.T) {
	guest(t)
	clean(t)
	modprobe(t, "bonding max_bonds=0", "veth")
	setUp(t, `link add e0 type veth peer name s0
link add e1 type veth peer name s1
link add bond0 type bond mode active-backup miimon 100
link set e0 master bond0
link set e1 master bond0
link set s0 up
link set s1 up
link set bond0 up`)
	k, b := listen(t), startBridge(t)
	b.await(t, "a slave that is active", 0, func(e *schema.Event) bool {
		return e.Link.Name == "e0" && port(&e.Link, "state") == "ACTIVE" && port(&e.Link, "mii_status") == "UP"
	})
	var delays []time.Duration
	for i := range 6 {
		active, other := fmt.Sprint(i%2), fmt.Sprint((i+1)%2)
		n, began := b.count(), time.Now()
		must(t, ip("link set s"+active+" down"))
		for _, step := range []struct{ link, key, was, is string }{
			{"e" + active, "mii_status", "UP", "DOWN"},
			{"e" + active, "state", "ACTIVE", "BACKUP"},
			{"e" + other, "state", "BACKUP", "ACTIVE"},
		} {
			delays = append(delays, arrives(t, k, b, began, n, step.link, step.key, step.was, step.is))
		}
		n = b.count()
		must(t, ip("link set s"+active+" up"))
		b.await(t, "the slave is up again", n, func(e *schema.Event) bool {
			return e.Link.Name == "e"+active && port(&e.Link, "mii_status") == "UP"
		})
	}
	judge(t, delays)
}

// Two bridges with two cables between them: the spanning tree blocks a port, and when the
// other cable is cut, opens it.
func TestGuestLoop(t *testing.T) {
	guest(t)
	clean(t)
	modprobe(t, "bridge", "veth")
	setUp(t, `link add br0 type bridge stp_state 1 forward_delay 200 hello_time 100 priority 4096
link add br1 type bridge stp_state 1 forward_delay 200 hello_time 100
link add p0 type veth peer name q0
link add p1 type veth peer name q1
link set p0 master br0
link set p1 master br0
link set q0 master br1
link set q1 master br1
link set p0 up
link set p1 up
link set q0 up
link set q1 up`)
	k, b := listen(t), startBridge(t)
	n, began := b.count(), time.Now()
	setUp(t, "link set br0 up\nlink set br1 up")
	blocked := b.await(t, "a port that is blocked", n, func(e *schema.Event) bool {
		return port(&e.Link, "state") == "blocking"
	})
	if blocked.event.Link.Name != "q1" {
		t.Errorf("%q is blocked, and not the second port of the bridge that is not the root", blocked.event.Link.Name)
	}
	var delays []time.Duration
	delays = append(delays, arrives(t, k, b, began, n, "q1", "state", port(&blocked.event.Previous, "state"), "blocking"))
	b.await(t, "the other one forwards", n, func(e *schema.Event) bool {
		return e.Link.Name == "q0" && port(&e.Link, "state") == "forwarding"
	})
	n, began = b.count(), time.Now()
	must(t, ip("link set q0 down"))
	for _, step := range [][2]string{{"blocking", "listening"}, {"listening", "learning"}, {"learning", "forwarding"}} {
		delays = append(delays, arrives(t, k, b, began, n, "q1", "state", step[0], step[1]))
	}
	n, began = b.count(), time.Now()
	must(t, ip("link set q0 up"))
	delays = append(delays, arrives(t, k, b, began, n, "q1", "state", "forwarding", "blocking"))
	judge(t, delays)
}

// port is a setting of a link in info_slave_data.
func port(l *schema.Link, key string) string {
	var settings map[string]any
	if l.Info.SlaveData == "" || json.Unmarshal([]byte(l.Info.SlaveData), &settings) != nil || settings[key] == nil {
		return ""
	}
	return fmt.Sprint(settings[key])
}

// arrives waits for the event of a link that says that what its master knows of it became
// something else, and returns how long after the kernel's message it came.
func arrives(t *testing.T, k *kernel, b *bridge, began time.Time, n int, name, key, was, is string) time.Duration {
	t.Helper()
	what := fmt.Sprintf("%s of %s from %q to %q", key, name, was, is)
	got := b.await(t, what, n, func(e *schema.Event) bool {
		return e.Link.Name == name && port(&e.Link, key) == is && slices.Contains(e.Changed.Names(), "linkinfo") &&
			port(&e.Previous, key) == was
	})
	said, ok := k.first(began, got.event.Link.Index, key, is)
	if !ok {
		t.Errorf("%s: the kernel has not said so", what)
		return 0
	}
	delay := got.at.Sub(said)
	t.Logf("%s: its event came %v after the kernel's message", what, delay.Round(time.Millisecond))
	return max(delay, 0)
}

// judge holds the shortest of delays to what is promised: this machine is emulated, ten times
// slower than the one that does it, and stands still while that one has other work.
func judge(t *testing.T, delays []time.Duration) {
	t.Helper()
	slices.Sort(delays)
	at := func(i int) time.Duration { return delays[i].Round(time.Millisecond) }
	t.Logf("%d events came %v to %v after the kernel's messages, half of them within %v",
		len(delays), at(0), at(len(delays)-1), at(len(delays)/2))
	if delays[0] > prompt {
		t.Errorf("no event came within %v", prompt)
	}
}

// setUp has ip do lines that this kernel can do.
func setUp(t *testing.T, lines string) {
	t.Helper()
	if out, err := script(lines + "\n"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A kernel is what a socket of the test's own has heard of it, and when.
type kernel struct {
	mu    sync.Mutex
	heard []netlinksrc.Message
}

// listen hears the kernel from now on, until the test ends.
func listen(t *testing.T) *kernel {
	t.Helper()
	src, err := netlinksrc.Open(netlinksrc.Config{ReadBuffer: 8 << 20})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	k, done := &kernel{}, make(chan struct{})
	t.Cleanup(func() { cancel(); <-done; src.Close() })
	go func() {
		defer close(done)
		for {
			if err := src.Receive(ctx, k.take); errors.Is(err, context.Canceled) {
				return
			} else if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	return k
}

func (k *kernel) take(m *netlinksrc.Message) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.heard = append(k.heard, *m)
}

// first returns when the kernel first said after a moment that a setting of a port is this.
func (k *kernel) first(after time.Time, index int32, key, is string) (time.Time, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.heard {
		m := &k.heard[i]
		if m.Kind == netlinksrc.New && m.Link.Index == index && m.Time.After(after) && port(&m.Link, key) == is {
			return m.Time, true
		}
	}
	return time.Time{}, false
}
