package test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// A service is a bridge on a machine of its own, which a service manager starts again
// whenever it ends.
type service struct {
	*host
	bootID   string
	run      func() *process
	b        *process
	restarts int
}

// newService starts a bridge for host "test" on a machine: with a boot id of its own.
func newService(t *testing.T, h *host, s *natstest.Server) *service {
	t.Helper()
	sv := &service{host: h, bootID: rand.Text()}
	file := filepath.Join(t.TempDir(), "boot_id")
	must(t, os.WriteFile(file, []byte(sv.bootID+"\n"), 0o644))
	script := fmt.Sprintf("mount --bind %s /proc/sys/kernel/random/boot_id && exec %s", file, harness.Command(t))
	sv.run = func() *process {
		return startWith(t, launch{On: h.k, Attr: syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}}, "/bin/sh",
			[]string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "IFACE_RESYNC=1s", "PATH=" + os.Getenv("PATH")}, "-c", script)
	}
	sv.b = sv.run()
	return sv
}

// keep starts it again if it has ended.
func (s *service) keep() {
	select {
	case <-s.b.Ended():
		s.restarts++
		s.b = s.run()
	default:
	}
}

func (s *service) standsBy() bool { return s.b.Metric("ifacebridge_standby") == 1 }

// Two machines of one name, each with a service manager that starts its bridge again, and
// with changes: one publishes, the other stands by and says so. When the owner is killed, or is
// cut off, the other goes on within a few seconds; the one that comes back stands by.
// IFACE_TEST_RIVALS=1m is how long they are left alone.
func TestTwoMachinesOfOneName(t *testing.T) {
	hosts := startHosts(t, 3)
	s := natstest.NewOn(t, hosts[0].addr, 4222, hosts[0].k.Enter, "")
	s.Start()
	r := record(t, s)
	var busy []*changes
	services := []*service{}
	for _, h := range hosts[1:] {
		busy = append(busy, startChanges(t, h.k, 20*time.Millisecond))
		services = append(services, newService(t, h, s))
	}
	eventually(t, "one of the two stands by", func() bool { return services[0].standsBy() != services[1].standsBy() })
	end := time.Now().Add(duration(t, "IFACE_TEST_RIVALS", 5*time.Second))
	for ; time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, sv := range services {
			sv.keep()
		}
	}
	owner, other := services[0], services[1]
	if owner.standsBy() {
		owner, other = other, owner
	}
	other.b.Says("standing by: another bridge publishes as this host")
	// An owner that stalls for seconds is taken for gone; a war has an epoch and a restart a second.
	if n := epochsIn(r.Since(0)); n > 6 || owner.restarts+other.restarts > 0 {
		t.Errorf("%d epochs and %d restarts of two bridges that are left alone", n, owner.restarts+other.restarts)
	}
	stream, err := jetStream(t, connect(t, s)).Stream(t.Context(), "IFACE")
	must(t, err)
	// What counts is what is stored: who subscribes is also given what the one that was cut off
	// had on its way, which the stream then refuses.
	takesOver := func(sv *service, what string) {
		took := eventually(t, what, func() bool {
			last, err := stream.GetLastMsgForSubject(t.Context(), "iface.test.new")
			if err != nil {
				return false
			}
			var e schema.Event
			must(t, json.Unmarshal(last.Data, &e))
			return e.BootID == sv.bootID
		})
		t.Logf("%s: the other publishes after %v", what, took.Round(10*time.Millisecond))
		if took > takeover { // 3 s are usual after a kill, 5 s after a cut
			t.Logf("slower than the %v that are meant: on a busy machine, it may be", takeover)
		}
	}

	owner.b.Kill()
	takesOver(other, "the owner was killed")
	owner.keep()
	eventually(t, "the one that was started again stands by", owner.standsBy)
	owner, other = other, owner

	owner.whileCut(t, hosts[0], func() { takesOver(other, "the owner was cut off") })
	eventually(t, "the one that was cut off stands by", owner.standsBy)
	owner, other = other, owner

	owner.b.Signal(unix.SIGSTOP)
	takesOver(other, "the owner hangs")
	owner.b.Signal(unix.SIGCONT)
	eventually(t, "the one that hung stands by", owner.standsBy)
	owner, other = other, owner

	for _, c := range busy {
		c.end(t)
	}
	settledIn(t, owner.k, s)
	events := stored(t, connect(t, s), "IFACE")
	replayAll(t, events)
	if n := epochsIn(events); n > 12 { // stalls included
		t.Errorf("%d epochs, of two bridges and three changes of the owner", n)
	}
	allConfirmed(t, owner.b)
	for _, sv := range services {
		sv.b.Signal(unix.SIGTERM)
		if status := sv.b.Wait(); status != 0 {
			t.Errorf("exit status %d", status)
		}
	}
}

// What happens while a bridge stands by is told by the other, once: when it goes on, it begins
// with what is there then, and gives no link a del that came meanwhile. It does so whether it has
// stood by from its start, or was replaced.
func TestTakeoverTellsNoPast(t *testing.T) {
	for _, spools := range []bool{false, true} {
		t.Run(fmt.Sprint("spool ", spools), func(t *testing.T) {
			k := netnstest.Parallel(t)
			s := natstest.Start(t, "")
			env := func(addr string) []string {
				env := []string{"IFACE_RESYNC=500ms", "IFACE_HTTP_ADDR=" + addr}
				if spools {
					env = append(env, "IFACE_SPOOL_DIR="+t.TempDir())
				}
				return env
			}
			changes := func(n int) { // told by the one that publishes, and read by the one that stands by
				_, _, err := k.AddVeth(fmt.Sprint("new", n), fmt.Sprint("peer", n))
				must(t, err)
				old, err := k.Index(fmt.Sprint("old", n))
				must(t, err)
				must(t, k.Delete(old))
				settled(t, s)
			}
			for n := range 2 {
				_, err := k.Add(fmt.Sprint("old", n), 0, netnstest.Kind{Name: "ifb"})
				must(t, err)
			}
			a := upLink(t, k)
			first := bridge(t, s, env("127.0.0.1:9469")...)
			holds(t, s)
			second := bridge(t, s, env("127.0.0.1:9470")...)
			second.Says("standing by: another bridge publishes as this host")
			second.Says("read the links of this host")
			changes(0)

			first.Signal(unix.SIGSTOP)
			second.Says("publishing as this host again: the other bridge is gone")
			must(t, k.SetAlias(a, "the second's"))
			holds(t, s)
			first.Signal(unix.SIGCONT)
			first.Says("standing by: another bridge publishes as this host")
			changes(1)

			second.Signal(unix.SIGTERM)
			first.Says("publishing as this host again: the other bridge is gone")
			must(t, k.SetAlias(a, "the first's again"))
			holds(t, s)
			events := stored(t, connect(t, s), "IFACE")
			replayAll(t, events)
			told := map[string]int{}
			for _, e := range events {
				if e.Action == schema.Created || e.Action == schema.Deleted {
					told[fmt.Sprint(e.Action, " ", e.Link.Name)]++
				}
			}
			want := map[string]int{
				"created new0": 1, "created peer0": 1, "deleted old0": 1,
				"created new1": 1, "created peer1": 1, "deleted old1": 1,
			}
			if !maps.Equal(told, want) {
				t.Errorf("told how often %v, want %v", told, want)
			}
		})
	}
}

// A bridge that is stopped while it stands by leaves what waited to the other: it is not said
// to be confirmed, and no later start publishes it.
func TestStoppedWhileStandingBy(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprint("NATS is away ", away), func(t *testing.T) {
			k := netnstest.Parallel(t)
			s := natstest.Start(t, "")
			a := upLink(t, k)
			first := bridge(t, s, "IFACE_RESYNC=500ms")
			holds(t, s)
			env := []string{"IFACE_HTTP_ADDR=", "IFACE_SPOOL_DIR=" + t.TempDir()}
			second := bridge(t, s, env...)
			second.Says("standing by: another bridge publishes as this host")
			second.Says("read the links of this host")
			must(t, k.SetAlias(a, "the first's"))
			holds(t, s)
			if away {
				s.Kill()
				second.Says("lost the connection to NATS")
			}
			second.Signal(unix.SIGTERM)
			if status := second.Wait(); status != 0 {
				t.Errorf("exit status %d", status)
			}
			second.Says("stopped while standing by; what waited is the other bridge's to publish")
			if strings.Contains(second.Output(), "msg=\"stopped; ") {
				t.Error("it says besides what became of its own events")
			}
			if away {
				s.Start()
			}
			first.Signal(unix.SIGTERM)
			first.Wait()
			third := bridge(t, s, env...)
			holds(t, s)
			if strings.Contains(third.Output(), "found events that an earlier run had not published") {
				t.Error("what waited is found by a later start")
			}
			replayAll(t, stored(t, connect(t, s), "IFACE"))
		})
	}
}

// takeover is within how long another bridge goes on.
const takeover = 5 * time.Second

// whileCut cuts the machine off from another while do runs.
func (s *service) whileCut(t *testing.T, from *host, do func()) {
	t.Helper()
	s.cutFrom(from)
	do()
	s.heal()
}

func epochsIn(events []schema.Event) int {
	epochs := map[string]bool{}
	for i := range events {
		epochs[events[i].Epoch] = true
	}
	return len(epochs)
}

// A bridge that stands still for longer than anybody waits for it: every change that the
// kernel has kept for it is published, in its epoch, and it is there again.
// IFACE_TEST_STALL=150s is longer than the server waits, too.
func TestBridgeIsFrozen(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a := upLink(t, k)
	b := bridge(t, s, "IFACE_RESYNC=1s", "IFACE_PRESENCE=1s", "IFACE_SPOOL_DIR="+t.TempDir())
	holds(t, s)
	b.Signal(unix.SIGSTOP)
	const frozen = 300 // changes: so many fit into any receive buffer
	for i := range frozen {
		must(t, k.SetAlias(a, fmt.Sprint("frozen ", i)))
	}
	time.Sleep(duration(t, "IFACE_TEST_STALL", 6*time.Second))
	thawed := time.Now()
	b.Signal(unix.SIGCONT)
	must(t, k.SetAlias(a, "thawed"))
	settled(t, s)
	holds(t, s)
	eventually(t, "ready", func() bool { return b.Metric("ifacebridge_ready") == 1 })
	puts := b.Metric("ifacebridge_presence_puts_total")
	eventually(t, "it is there again", func() bool { return b.Metric("ifacebridge_presence_puts_total") > puts })
	eventually(t, "healthy", func() bool { status, _ := get(t, "/healthz"); return status == 200 })
	events := stored(t, connect(t, s), "IFACE")
	if n := epochsIn(events); n != 1 {
		t.Errorf("%d epochs", n)
	}
	replayAll(t, events)
	next := 0
	var last time.Time
	for _, e := range events {
		if e.Time.Before(last) {
			t.Errorf("seq %d is of %v, the one before of %v", e.Seq, e.Time, last)
		}
		last = e.Time
		if e.Link.Alias == fmt.Sprint("frozen ", next) && e.Changed.Has("ifalias") {
			if next++; e.Time.Before(thawed) {
				t.Errorf("seq %d is of %v, when nobody read the kernel", e.Seq, e.Time)
			}
		}
	}
	if next != frozen {
		t.Errorf("%d of %d changes are there", next, frozen)
	}
}

// A container that is made again has the host's name, boot and indexes, and other links: those
// of the one before get their del.
func TestContainerMadeAgain(t *testing.T) {
	hosts := startHosts(t, 3)
	s := natstest.NewOn(t, hosts[0].addr, 4222, hosts[0].k.Enter, "")
	s.Start()
	run := func(h *host) *process {
		_, _, err := h.k.AddVeth("veth0", "veth1")
		must(t, err)
		return startWith(t, launch{On: h.k}, harness.Command(t), []string{"NATS_URL=" + s.URL, "IFACE_HOST=test"})
	}
	b := run(hosts[1])
	settledIn(t, hosts[1].k, s)
	b.Signal(unix.SIGTERM)
	b.Wait()
	before := stored(t, connect(t, s), "IFACE")
	run(hosts[2])
	settledIn(t, hosts[2].k, s)
	gone := map[int32]bool{}
	for _, e := range stored(t, connect(t, s), "IFACE")[len(before):] {
		if e.Kind == schema.Del {
			gone[e.Link.Index] = true
		}
		if e.OwnNetnsInode == before[0].OwnNetnsInode || e.OwnNetnsInode == 0 {
			t.Fatalf("own_netns_inode is %d, and was %d before", e.OwnNetnsInode, before[0].OwnNetnsInode)
		}
	}
	for _, e := range before {
		if !gone[e.Link.Index] {
			t.Errorf("link %d %s of the container before got no del", e.Link.Index, e.Link.Name)
		}
	}
}

// The hardware type of a link that stays the same is changed, while a bridge runs and while
// none does: it is no other link.
func TestLinkTypeChanges(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	tap, err := k.OpenTap("tap0")
	if err != nil {
		netnstest.Skip(t, "tun", err.Error())
	}
	defer tap.Close()
	index, err := k.Index("tap0")
	must(t, err)
	setType := func(to int) { must(t, unix.IoctlSetInt(int(tap.Fd()), unix.TUNSETLINK, to)) }
	b := bridge(t, s)
	r := record(t, s)
	holds(t, s)
	setType(unix.ARPHRD_IEEE80211)
	e := r.Until(0, "the change", func(e *schema.Event) bool {
		return e.Link.Index == index && e.Changed.Has("link_type")
	})
	if e.Action != schema.Updated || e.Previous.Type.String() != "ether" {
		t.Errorf("got %s", e.AppendJSON(nil))
	}
	b.Kill()
	setType(unix.ARPHRD_ETHER)
	bridge(t, s)
	settled(t, s)
	for _, e := range stored(t, connect(t, s), "IFACE") {
		if e.Kind == schema.Del {
			t.Errorf("a del of a link that is there: %s", e.AppendJSON(nil))
		}
	}
}
