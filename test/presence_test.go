package test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"ifacebridge/fleet"
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
	js := jetStream(t, connect(t, s))
	_, _, err := k.AddVeth("veth0", "veth1")
	must(t, err)
	env := []string{"IFACE_HOST=web01.example.com", "IFACE_PRESENCE=1s", "IFACE_LABELS=site=fra1"}
	b := bridge(t, s, env...)
	var p *schema.Presence
	there := func() bool {
		p, _ = hostsOf(t, js, "web01_example_com")
		return p != nil && p.Links == 3 && p.Seq == 3
	}
	marked := func() bool { _, marker := hostsOf(t, js, "web01_example_com"); return marker == "MaxAge" }
	eventually(t, "the host is there", there)
	site, _ := p.Labels.Get("site")
	if p.Host != "web01.example.com" || p.Namespaces != 1 || p.Version == "" || site != "fra1" ||
		len(p.Epoch) != 32 || len(p.BootID) != 36 || p.TTL != 3 || p.Prefix != "iface" ||
		time.Since(p.Since) > harness.Patience {
		t.Errorf("got %+v", p)
	}
	first := p.Epoch
	_, err = k.Add("ifb9", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	eventually(t, "it is written again", func() bool {
		p, _ := hostsOf(t, js, "web01_example_com")
		return p != nil && p.Links == 4 && p.Seq > 3
	})

	b.Kill()
	eventually(t, "the marker of a host that is silent", marked)
	b = bridge(t, s, env...)
	eventually(t, "it is back", func() bool {
		p, _ := hostsOf(t, js, "web01_example_com")
		return p != nil && p.Epoch != first
	})

	allConfirmed(t, b)
	b.Signal(unix.SIGTERM)
	if status := b.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	b = bridge(t, s, env...) // a restart is no silence
	eventually(t, "the links are true again", func() bool { return b.Metric("ifacebridge_presence_puts_total") > 0 })
	eventually(t, "the host is there after a restart", func() bool { // of a bridge that stalls it is away for a moment
		p, _ := hostsOf(t, js, "web01_example_com")
		return p != nil
	})
	info, err := js.Stream(t.Context(), "KV_iface_hosts")
	must(t, err)
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
	js := jetStream(t, connect(t, s))
	b := bridge(t, s, "IFACE_PRESENCE=0")
	b.Ready()
	eventually(t, "the snapshot", func() bool { return b.Metric("ifacebridge_bucket_puts_total") > 0 })
	if _, err := js.KeyValue(t.Context(), "iface_hosts"); err == nil {
		t.Error("there is a bucket of hosts although nobody wants it")
	}
	b.Kill()
	env := []string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}
	doctor(t, env, 0, "warn  hosts bucket    iface_hosts is not there", "nats kv add iface_hosts ")
	if d := doctor(t, append(env, "IFACE_PRESENCE=0"), 0); strings.Contains(d.Output(), "hosts bucket") {
		t.Errorf("doctor looks at what nobody wants:\n%s", d.Output())
	}
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "iface_hosts"})
	must(t, err)
	doctor(t, env, 0, "warn  hosts bucket    bucket iface_hosts does not mark hosts that fall silent",
		"nats stream edit KV_iface_hosts --allow-msg-ttl")
	b = bridge(t, s, "IFACE_PRESENCE=1s")
	b.Says("the bucket of hosts does not mark hosts that fall silent")
	there := func() bool { p, _ := hostsOf(t, js, "test"); return p != nil }
	eventually(t, "the host is there", there)
	b.Signal(unix.SIGTERM)
	b.Wait()
	eventually(t, "the marker of a host that was stopped", func() bool {
		_, marker := hostsOf(t, js, "test")
		return marker == "DEL"
	})
}

// A bucket of hosts that learns to make markers, as we advise, marks a bridge that was running meanwhile.
func TestHostsBucketLearnsToMark(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "iface_hosts"})
	must(t, err)
	b := bridge(t, s, "IFACE_PRESENCE=1s")
	const advice = "the bucket of hosts does not mark hosts that fall silent"
	b.Says(advice)
	eventually(t, "it is written again", func() bool { return b.Metric("ifacebridge_presence_puts_total") > 1 })
	stream, err := js.Stream(t.Context(), "KV_iface_hosts")
	must(t, err)
	cfg := stream.CachedInfo().Config
	cfg.AllowMsgTTL, cfg.SubjectDeleteMarkerTTL = true, time.Hour
	_, err = js.UpdateStream(t.Context(), cfg)
	must(t, err)
	eventually(t, "the value expires", func() bool {
		m, err := stream.GetLastMsgForSubject(t.Context(), "$KV.iface_hosts.test")
		return err == nil && m.Header.Get(jetstream.MsgTTLHeader) != ""
	})
	if n := strings.Count(b.Output(), advice); n != 1 {
		t.Errorf("logged %d times", n)
	}
	b.Kill()
	eventually(t, "the marker of a host that is silent", func() bool {
		_, marker := hostsOf(t, js, "test")
		return marker == "MaxAge"
	})
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

// a reader is a fleet that is followed, and what it was told of hosts.
type reader struct {
	fleet *fleet.Fleet
	log   bytes.Buffer

	mu   sync.Mutex
	told []string // "quiet a", …
}

func (r *reader) has(what string) bool { return r.times(what) > 0 }

func (r *reader) times(what string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, told := range r.told {
		if told == what {
			n++
		}
	}
	return n
}

// Write implements io.Writer.
func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *reader) logs(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(r.log.String(), text)
}

// host is what the reader knows of one; nil when it does not know it.
func (r *reader) host(name string) *fleet.Host {
	for _, h := range r.fleet.View() {
		if h.Name == name {
			return &h
		}
	}
	return nil
}

// read follows a fleet. If the test fails, it says what the reader knows.
func read(t testing.TB, url string, o fleet.Options) *reader {
	t.Helper()
	r := &reader{}
	o.Log = slog.New(slog.NewTextHandler(r, nil))
	f, err := fleet.New(harness.ConnectTo(t, url), o)
	must(t, err)
	r.fleet = f
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- f.Run(ctx, func(c fleet.Change) {
			if c.Kind != fleet.Applied && c.Kind != fleet.Gone {
				r.mu.Lock()
				r.told = append(r.told, c.Kind.String()+" "+c.Host)
				r.mu.Unlock()
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
		if t.Failed() {
			t.Logf("the reader %s was told %q", o.Join, r.told)
			for _, h := range f.View() {
				var names []string
				for _, l := range h.Links {
					names = append(names, l.Link.Name)
				}
				h.Links = nil
				t.Logf("it knows %+v with the links %q", h, names)
			}
			t.Logf("it has logged:\n%s", &r.log)
		}
	})
	return r
}

// However a fleet is joined, it is told when a host falls silent and since when, and when it
// is back: by the bucket of hosts alone, since nobody is asked within the test's time. What
// stands in the bucket and is no host's presence, or a later version's, is ignored and
// logged. links and watch show who is silent.
func TestFleetKnowsWhoIsThere(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	one := func(name string) *process {
		return bridge(t, s, "IFACE_HOST="+name, "IFACE_PRESENCE=1s", "IFACE_HTTP_ADDR=", "IFACE_LABELS=name="+name)
	}
	b := one("a.example.com")
	one("b")
	js := jetStream(t, connect(t, s))
	eventually(t, "both hosts are there", func() bool {
		a, _ := hostsOf(t, js, "a_example_com")
		b, _ := hostsOf(t, js, "b")
		return a != nil && b != nil
	})
	kv, err := js.KeyValue(t.Context(), "iface_hosts")
	must(t, err)
	var value jetstream.KeyValueEntry
	eventually(t, "b's presence", func() bool { // of a bridge that stalls it is away for a moment
		value, err = kv.Get(t.Context(), "b")
		return err == nil
	})
	newer := strings.Replace(strings.Replace(string(value.Value()), `"b"`, `"newer"`, 1), "iface.v1", "iface.v2", 1)
	for key, text := range map[string]string{"garbage": "{", "newer": newer, "other": string(value.Value()), "e.f": "[]"} {
		_, err := kv.PutString(t.Context(), key, text)
		must(t, err)
	}
	var readers []*reader
	for _, join := range []fleet.Join{fleet.FromStream, fleet.FromQuery, fleet.FromBucket} {
		readers = append(readers, read(t, s.URL, fleet.Options{Join: join, Presence: time.Hour}))
	}
	check := func(what string, ok func(r *reader) bool) {
		t.Helper()
		for i, r := range readers {
			eventually(t, what+", to the reader "+fleet.Join(i%3).String(), func() bool { return ok(r) })
		}
	}
	check("both are known", func(r *reader) bool { return r.has("joined a.example.com") && r.has("joined b") })
	for _, r := range readers {
		catchesUp(t, r.fleet)
		for _, key := range []string{"garbage", "newer", "other", "e.f"} {
			eventually(t, key+" is logged", func() bool { return r.logs("key=" + key) })
			if r.host(key) != nil {
				t.Errorf("%s was not ignored", key)
			}
		}
	}
	watch := start(t, []string{"NATS_URL=" + s.URL}, "watch", "--json")
	watch.Says("connected to NATS")

	b.Kill()
	check("a is silent", func(r *reader) bool { return r.has("quiet a.example.com") })
	watch.Says("host is silent")
	for join := range fleet.Join(3) { // they come later
		readers = append(readers, read(t, s.URL, fleet.Options{Join: join, Presence: time.Hour}))
	}
	for _, r := range readers {
		catchesUp(t, r.fleet)
	}
	since := time.Time{}
	check("the view has it", func(r *reader) bool {
		a, b := r.host("a.example.com"), r.host("b")
		if a == nil || b == nil || !a.Quiet || b.Quiet || len(b.Links) == 0 {
			return false
		}
		if since.IsZero() {
			since = a.QuietSince
		}
		return a.QuietSince.Equal(since) && time.Since(since) < harness.Patience
	})
	links := func(args ...string) *process {
		t.Helper()
		return ends(t, func() *process {
			return start(t, []string{"NATS_URL=" + s.URL}, append([]string{"links"}, args...)...)
		}, 0)
	}
	want := "silent since " + since.UTC().Format(time.RFC3339)
	if out := links().Output(); strings.Count(out, want) != 1 || strings.Count(out, "\n") != 2 {
		t.Errorf("links has not one %q:\n%s", want, out)
	}
	if out := links("--json", "a.example.com").Output(); !strings.Contains(out, `"silent":true,"silent_since":"`) {
		t.Errorf("links --json:\n%s", out)
	}
	one("a.example.com")
	check("a is back", func(r *reader) bool {
		a := r.host("a.example.com")
		return r.has("back a.example.com") && a != nil && a.Whole && !a.Quiet && a.QuietSince.IsZero() && len(a.Links) == 1
	})
}
