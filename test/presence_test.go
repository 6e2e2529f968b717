package test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// hostsOf returns what is in the bucket of hosts under a key: the value, or else what the
// last message there is.
func hostsOf(t testing.TB, js jetstream.JetStream, key string) (p *schema.Presence, marker string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	stream, err := js.Stream(ctx, "KV_iface_hosts")
	if err != nil {
		return nil, err.Error()
	}
	m, err := stream.GetLastMsgForSubject(ctx, "$KV.iface_hosts."+key)
	if err != nil {
		return nil, err.Error()
	}
	if len(m.Data) == 0 {
		return nil, m.Header.Get("KV-Operation") + m.Header.Get("Nats-Marker-Reason")
	}
	p, err = schema.ParsePresence(key, m.Data)
	must(t, err)
	return p, ""
}

// A host is in the bucket of hosts while its bridge runs, with what it is. When the bridge
// is killed, the server marks the key; started again, it is there again; stopped, it is
// marked soon. A bucket that is deleted is made anew.
func TestHostsAreInTheirBucket(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js, err := jetstream.New(connect(t, s))
	must(t, err)
	_, _, err = k.AddVeth("veth0", "veth1")
	must(t, err)
	env := []string{"IFACE_HOST=web01.example.com", "IFACE_PRESENCE=1s", "IFACE_LABELS=site=fra1"}
	b := bridge(t, s, env...)
	var p *schema.Presence
	there := func() bool {
		p, _ = hostsOf(t, js, "web01_example_com")
		return p != nil && p.Links == 3
	}
	marked := func() bool { _, marker := hostsOf(t, js, "web01_example_com"); return marker == "MaxAge" }
	eventually(t, "the host is there", there)
	site, _ := p.Labels.Get("site")
	if p.Host != "web01.example.com" || p.Seq != 3 || p.Namespaces != 1 || p.Version == "" || site != "fra1" ||
		len(p.Epoch) != 32 || len(p.BootID) != 36 || time.Since(p.Since) > harness.Patience || p.TTL != 3 || p.Prefix != "iface" {
		t.Errorf("got %+v", p)
	}
	first := p.Epoch
	_, err = k.Add("ifb9", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	eventually(t, "it is written again", func() bool { p, _ := hostsOf(t, js, "web01_example_com"); return p.Links == 4 && p.Seq > 3 })

	b.Kill()
	eventually(t, "the marker of a host that is silent", marked)
	b = bridge(t, s, env...)
	eventually(t, "it is back", func() bool { p, _ := hostsOf(t, js, "web01_example_com"); return p != nil && p.Epoch != first })

	b.Signal(unix.SIGTERM)
	if status := b.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	b = bridge(t, s, env...) // a restart is no silence
	eventually(t, "the links are true again", func() bool { return b.Metric("ifacebridge_presence_puts_total") > 0 })
	info, err := js.Stream(t.Context(), "KV_iface_hosts")
	must(t, err)
	if _, marker := hostsOf(t, js, "web01_example_com"); marker != "" {
		t.Errorf("after a restart: %s", marker)
	}
	if n := info.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("%d messages of one host", n)
	}
	must(t, js.DeleteKeyValue(t.Context(), "iface_hosts"))
	eventually(t, "the bucket is made anew", func() bool { p, _ := hostsOf(t, js, "web01_example_com"); return p != nil })
	b.Signal(unix.SIGTERM)
	b.Wait()
	eventually(t, "the marker of a host that was stopped", marked)
}

// A bucket of hosts that cannot make markers is used all the same, and it is reported; with
// IFACE_PRESENCE=0 there is none.
func TestHostsBucketWithoutMarkers(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js, err := jetstream.New(connect(t, s))
	must(t, err)
	b := bridge(t, s, "IFACE_PRESENCE=0")
	b.Ready()
	eventually(t, "the snapshot", func() bool { return b.Metric("ifacebridge_bucket_puts_total") > 0 })
	if _, err := js.KeyValue(t.Context(), "iface_hosts"); err == nil {
		t.Error("there is a bucket of hosts although nobody wants it")
	}
	b.Kill()
	_, err = js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "iface_hosts"})
	must(t, err)
	b = bridge(t, s, "IFACE_PRESENCE=1s")
	b.Says("the bucket of hosts does not mark hosts that fall silent")
	there := func() bool { p, _ := hostsOf(t, js, "test"); return p != nil }
	eventually(t, "the host is there", there)
	b.Signal(unix.SIGTERM)
	b.Wait()
	if _, marker := hostsOf(t, js, "test"); marker != "DEL" {
		t.Errorf("after the stop: %q", marker)
	}
}

// A bridge that may not write into the bucket of hosts goes on without, and says so once.
func TestHostsBucketIsRefused(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, `authorization { users = [ { user: u, password: p,
		permissions: { publish: { deny: [ "$KV.iface_hosts.>" ] } } } ] }`)
	b := bridge(t, s, "IFACE_PRESENCE=200ms", "NATS_USER=u", "NATS_PASSWORD=p")
	b.Says("cannot write this host into the bucket of hosts; events are not affected")
	eventually(t, "the bridge is ready", func() bool { return b.Metric("ifacebridge_ready") == 1 })
	if n := strings.Count(b.Output(), "cannot write this host into the bucket of hosts"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}
