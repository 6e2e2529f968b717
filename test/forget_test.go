package test

import (
	"os/exec"
	"strings"
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

// A host that will not come back is forgotten, by a user that may do what the README says an
// operator needs and nothing more: a del for each link, of those in the bucket and those
// that only the stream has, and nothing in either bucket. Its living neighbour is refused,
// and not disturbed; who was never there is named. One that comes back begins anew. A bridge
// that was only cut off, and finds itself forgotten, does so, too.
func TestForget(t *testing.T) {
	k := netnstest.Parallel(t)
	operator, err := exec.Command(harness.Command(t), "permissions", "--operator").Output()
	must(t, err)
	s := natstest.Start(t, `authorization { users: [
		{ user: admin, password: admin }
		{ user: op, password: op, `+string(operator)+` }
	] }`)
	admin := []string{"NATS_URL=" + s.URL, "NATS_USER=admin", "NATS_PASSWORD=admin", "IFACE_PRESENCE=1s"}
	nc := harness.ConnectTo(t, s.URL, nats.UserInfo("admin", "admin"))
	js := jetStream(t, nc)
	_, _, err = k.AddVeth("veth0", "veth1")
	must(t, err)
	one := func(name string) *process {
		return start(t, append(admin, "IFACE_HTTP_ADDR=", "IFACE_HOST="+name, "IFACE_LABELS=name="+name))
	}
	dead, frozen := one("dead.example.com"), one("frozen")
	one("living")
	keys := func(host string) (n int) {
		for key := range harness.BucketOf(t, nc, "iface_links") {
			if strings.HasPrefix(key, host+".") {
				n++
			}
		}
		return n
	}
	eventually(t, "all links are in the bucket", func() bool {
		p, _ := hostsOf(t, js, "dead_example_com")
		return p != nil && keys("dead_example_com") == 3 && keys("living") == 3 && keys("frozen") == 3
	})
	var readers []*reader
	for join := range fleet.Join(3) {
		readers = append(readers, read(t, asAdmin(s), fleet.Options{Join: join, Presence: time.Second}))
	}
	for _, r := range readers {
		eventually(t, "a reader knows all", func() bool { return r.has("joined dead.example.com") && r.has("joined living") })
	}
	dead.Kill()
	kv, err := js.KeyValue(t.Context(), "iface_links")
	must(t, err)
	lo, err := k.Index("lo")
	must(t, err)
	// The bucket was behind when it died.
	must(t, kv.Purge(t.Context(), "dead_example_com."+schema.LinkKey{Index: lo}.String()))
	frozen.Signal(unix.SIGSTOP)

	forget := func(args ...string) *process {
		operator := []string{"NATS_URL=" + s.URL, "NATS_USER=op", "NATS_PASSWORD=op"}
		return start(t, operator, append([]string{"forget"}, args...)...)
	}
	refuses := func(host, why string) {
		t.Helper()
		// Whether its bridge is there is asked for a second, which a busy machine may miss.
		ends(t, func() *process { return forget(host) }, 1, host+" is not forgotten: "+why)
	}
	refuses("living", "its bridge runs, since ")
	refuses("nobody", "nothing is known of it")
	refuses("frozen", "its bridge is there, though it does not answer")
	four := func() *process { return forget("living", "nobody", "frozen", "dead.example.com", "dead.example.com") }
	endsTogether(t, four, 1,
		"living is not forgotten: ", "nobody is not forgotten: ", "frozen is not forgotten: ",
		"forgot dead.example.com: 3 links")
	frozen.Signal(unix.SIGCONT)
	var retired []schema.Event
	for _, e := range harness.Stored(t, nc, "IFACE") {
		if e.Cause == schema.Retired {
			retired = append(retired, e)
		}
	}
	harness.ReplayAll(t, retired)
	for _, e := range retired {
		if e.Host != "dead.example.com" || e.Kind != schema.Del || e.Action != schema.Deleted || len(e.BootID) != 36 ||
			e.Labels.String() != "name=dead.example.com" || e.Link.Name == "" {
			t.Errorf("got %s", e.AppendJSON(nil))
		}
	}
	left := keys("dead_example_com")
	if _, marker := hostsOf(t, js, "dead_example_com"); len(retired) != 3 || left != 0 || marker != "PURGE" {
		t.Errorf("%d dels, %d keys left, and in the bucket of hosts %q", len(retired), left, marker)
	}
	for i, r := range readers {
		eventually(t, "the reader "+fleet.Join(i).String()+" sees it go", func() bool {
			h := r.host("living")
			return r.has("retired dead.example.com") && r.host("dead.example.com") == nil && h != nil && h.Whole && !h.Quiet
		})
	}
	refuses("dead.example.com", "nothing is known of it")
	one("dead.example.com")
	for i, r := range readers {
		eventually(t, "the reader "+fleet.Join(i).String()+" sees it again", func() bool {
			h := r.host("dead.example.com")
			return h != nil && h.Whole && !h.Quiet && len(h.Links) == 3
		})
	}
	events := harness.Stored(t, nc, "IFACE")
	for _, host := range []string{"dead.example.com", "living", "frozen"} {
		harness.ReplayAll(t, of(events, host))
	}
}

// A reader that is given no del sees a host go all the same that was forgotten: the bucket of hosts
// has it, and there is nobody left to ask. If it comes back it stays, also where it cannot write
// into that bucket, which has it as gone.
func TestForgottenUnheard(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, `authorization { users: [
		{ user: admin, password: admin }
		{ user: deaf, password: p, permissions: { publish: ">", subscribe: { deny: "iface.*.del" } } }
		{ user: mute, password: p, permissions: { publish: { deny: "$KV.iface_hosts.>" } } }
	] }`)
	admin := []string{"NATS_URL=" + s.URL, "NATS_USER=admin", "NATS_PASSWORD=admin"}
	dead := start(t, append(admin, "IFACE_HOST=dead", "IFACE_PRESENCE=1s"))
	deaf := strings.Replace(asAdmin(s), "admin:admin", "deaf:p", 1)
	r := read(t, deaf, fleet.Options{Join: fleet.FromQuery, Presence: time.Second})
	eventually(t, "it is known", func() bool { return r.has("joined dead") })
	js := jetStream(t, harness.ConnectTo(t, asAdmin(s)))
	eventually(t, "it is in the bucket of hosts", func() bool { p, _ := hostsOf(t, js, "dead"); return p != nil })
	dead.Kill()
	ends(t, func() *process { return start(t, admin, "forget", "dead") }, 0, "forgot dead: 1 link")
	eventually(t, "it is gone", func() bool { return r.has("retired dead") && r.host("dead") == nil })
	start(t, []string{"NATS_URL=" + s.URL, "NATS_USER=mute", "NATS_PASSWORD=p", "IFACE_HOST=dead"})
	eventually(t, "it is back", func() bool { return r.times("joined dead") == 2 })
	time.Sleep(15 * time.Second) // in which it would go again
	if h := r.host("dead"); r.times("retired dead") != 1 || h == nil || !h.Whole {
		t.Errorf("a host that is there is gone, or not whole: %+v", h)
	}
}

// Hosts that have been silent for long enough are forgotten together, and no others.
func TestForgetSilentHosts(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	one := func(name, presence string) *process {
		return bridge(t, s, "IFACE_HOST="+name, "IFACE_PRESENCE="+presence, "IFACE_HTTP_ADDR=")
	}
	a, b := one("a", "1s"), one("b", "1s")
	one("c", "1m") // and is not silent when it stands still for a moment
	for _, name := range []string{"a", "b", "c"} {
		eventually(t, name+" is there", func() bool { p, _ := hostsOf(t, js, name); return p != nil })
	}
	forgot := "" // by all runs: one that does not reach all of them on a busy machine has another
	forget := func(silentFor string) *process {
		p := start(t, []string{"NATS_URL=" + s.URL}, "forget", "--silent-for", silentFor)
		p.Wait()
		forgot += p.Output()
		return p
	}
	a.Kill()
	b.Kill()
	for _, name := range []string{"a", "b"} {
		eventually(t, name+" is silent", func() bool { _, marker := hostsOf(t, js, name); return marker == "MaxAge" })
	}
	ends(t, func() *process { return forget("24h") }, 0)
	if strings.Contains(forgot, "forgot ") {
		t.Errorf("forgot too early: %s", forgot)
	}
	ends(t, func() *process { return forget("1ms") }, 0)
	for _, want := range []string{"forgot a: 1 link\n", "forgot b: 1 link\n"} {
		if strings.Count(forgot, want) != 1 || strings.Count(forgot, "forgot ") != 2 {
			t.Errorf("forget says %q, want %q", forgot, want)
		}
	}
	list := ends(t, func() *process { return start(t, []string{"NATS_URL=" + s.URL}, "links") }, 0, "c  lo")
	if strings.Count(list.Output(), "\n") != 1 {
		t.Errorf("links:\n%s", list.Output())
	}
}

// of returns the events of one host.
func of(events []schema.Event, host string) (its []schema.Event) {
	for _, e := range events {
		if e.Host == host {
			its = append(its, e)
		}
	}
	return its
}
