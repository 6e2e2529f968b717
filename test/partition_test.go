package test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// A host is a network namespace with an address, on a switch that the test's own
// namespace is.
type host struct {
	t    testing.TB
	k    *netnstest.Kernel
	addr string
}

// startHosts makes hosts 10.77.0.1 and up that reach each other. The test has
// 10.77.0.254.
func startHosts(t *testing.T, n int) []*host {
	t.Helper()
	own := netnstest.Parallel(t)
	sw, err := own.Add("switch", 0, netnstest.Kind{Name: "bridge"})
	must(t, err)
	must(t, own.Up(sw))
	ip(t, "addr", "add", "10.77.0.254/24", "dev", "switch")
	var hosts []*host
	for i := range n {
		h := &host{t: t, k: netnstest.New(t), addr: fmt.Sprintf("10.77.0.%d", i+1)}
		port, end, err := own.AddVeth(fmt.Sprintf("port%d", i), fmt.Sprintf("end%d", i))
		must(t, err)
		must(t, own.SetUint32(port, 10 /* IFLA_MASTER */, uint32(sw)))
		must(t, own.Up(port))
		must(t, own.Move(end, h.k, 0))
		end, err = h.k.Index(fmt.Sprintf("end%d", i))
		must(t, err)
		must(t, h.k.Rename(end, "eth0"))
		must(t, h.k.Up(1, end))
		h.run("ip", "addr", "add", h.addr+"/24", "dev", "eth0")
		hosts = append(hosts, h)
	}
	return hosts
}

func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command(netnstest.Tool(t, "ip"), args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// run runs a command on the host.
func (h *host) run(name string, args ...string) {
	h.t.Helper()
	path := netnstest.Tool(h.t, name)
	must(h.t, h.k.Do(func() error {
		if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
		}
		return nil
	}))
}

// cutFrom has the host drop every packet from and to the others.
func (h *host) cutFrom(others ...*host) {
	h.t.Helper()
	h.run("nft", "add", "table", "ip", "cut")
	h.run("nft", "add", "chain", "ip", "cut", "in", "{ type filter hook input priority 0; }")
	h.run("nft", "add", "chain", "ip", "cut", "out", "{ type filter hook output priority 0; }")
	for _, other := range others {
		h.run("nft", "add", "rule", "ip", "cut", "in", "ip", "saddr", other.addr, "drop")
		h.run("nft", "add", "rule", "ip", "cut", "out", "ip", "daddr", other.addr, "drop")
	}
}

// heal ends every cut.
func (h *host) heal() {
	h.t.Helper()
	h.run("nft", "flush", "table", "ip", "cut")
}

// Partitions of a cluster, under continuous churn: the bridge is cut from the
// stream's leader, to which it is connected; then the leader, to which it is
// connected, from the other two servers, so that it answers and can store
// nothing. IFACE_TEST_CLUSTER=10m is the long form.
func TestPartitions(t *testing.T) {
	hosts := startHosts(t, 4)
	var servers []*natstest.Server
	var urls []string
	for _, h := range hosts[:3] {
		s := natstest.NewOn(t, h.addr, 4222, h.k.Enter, "")
		servers, urls = append(servers, s), append(urls, s.URL)
	}
	natstest.JoinCluster(servers, []int{6222, 6222, 6222})
	nc := harness.ConnectTo(t, strings.Join(urls, ","))
	here := hosts[3]
	c := startChanges(t, here.k, 2*time.Millisecond)
	run := func(url string) *process {
		return startWith(t, launch{On: here.k}, harness.Command(t),
			[]string{"NATS_URL=" + url, "IFACE_HOST=test", "IFACE_REPLICAS=3", "IFACE_RESYNC=1s"})
	}
	b := run(urls[0])
	b.Ready()
	longest, cuts := time.Duration(0), 0
	// cut drops packets between a host and others, for this long, while the bridge is
	// connected to the leader.
	cut := func(what string, between func(leader int) (*host, []*host)) {
		leader := leaderOf(t, nc, servers)
		b.Signal(15)
		switch status := b.Wait(); status {
		case 0:
		case 1: // on a busy machine
			b.Says("events were not confirmed by NATS within 5s")
		default:
			t.Fatalf("exit status %d", status)
		}
		b = run(urls[leader])
		b.Says("connected to NATS")
		recovery(t, nc)
		one, others := between(leader)
		began := time.Now()
		one.cutFrom(others...)
		cuts++
		time.Sleep(time.Second)
		recovered := recovery(t, connect(t, servers[(leader+1)%3])) + time.Second
		t.Logf("%s: stored again after %v", what, recovered.Round(time.Millisecond))
		longest = max(longest, recovered)
		time.Sleep(time.Until(began.Add(duration(t, "IFACE_TEST_PARTITION", 5*time.Second))))
		one.heal()
	}
	for end := time.Now().Add(duration(t, "IFACE_TEST_CLUSTER", 0)); ; {
		cut("bridge cut from the leader", func(leader int) (*host, []*host) { return here, hosts[leader : leader+1] })
		cut("leader cut from the majority", func(leader int) (*host, []*host) {
			return hosts[leader], []*host{hosts[(leader+1)%3], hosts[(leader+2)%3]}
		})
		if time.Now().After(end) {
			break
		}
	}
	n := c.end(t)
	leaderOf(t, nc, servers)
	f := settledIn(t, here.k, servers[leaderOf(t, nc, servers)])
	t.Logf("%d changes, %d events stored each once and in order, %d partitions, longest recovery %v", n, f.Events, cuts, longest.Round(time.Millisecond))
}
