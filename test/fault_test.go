package test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// changes changes links without rest until it is stopped: an alias that counts on
// one link, and links that come and go.
type changes struct {
	stop chan struct{}
	done chan error
	n    atomic.Int64
}

func startChanges(t testing.TB, k *netnstest.Kernel, pause time.Duration) *changes {
	t.Helper()
	a, _ := upPair(t, k, "busy", "busy-peer")
	c := &changes{stop: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		for i := 0; ; i++ {
			select {
			case <-c.stop:
				c.done <- nil
				return
			case <-time.After(pause):
			}
			err := k.SetAlias(a, fmt.Sprint(i))
			if i%50 == 0 {
				var index int32
				index, err = k.Add(fmt.Sprintf("brief%d", i), 0, netnstest.Kind{Name: "ifb"})
				if err == nil && i%100 == 0 {
					err = k.Delete(index)
				}
			}
			if err != nil {
				c.done <- err
				return
			}
			c.n.Add(1)
		}
	}()
	return c
}

// end stops the changes and returns how many there were.
func (c *changes) end(t testing.TB) int64 {
	t.Helper()
	close(c.stop)
	must(t, <-c.done)
	return c.n.Load()
}

// recovery measures how long until the next event is stored.
func recovery(t testing.TB, nc *nats.Conn) time.Duration {
	t.Helper()
	js := jetStream(t, nc)
	last := func() uint64 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stream, err := js.Stream(ctx, "IFACE")
		if err != nil {
			return 0
		}
		return stream.CachedInfo().State.LastSeq
	}
	began, before := time.Now(), uint64(0)
	eventually(t, "events are stored again", func() bool {
		if before == 0 {
			before = last()
			return false
		}
		return last() > before
	})
	return time.Since(began)
}

// kill -9 of the server under continuous churn, ten times: nothing is lost,
// nothing is there twice.
func TestServerKilled(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.New(t, "")
	s.Configure(fmt.Sprintf("jetstream { store_dir: %q, sync_interval: always }", s.Dir+"/store"))
	s.Start()
	b := bridge(t, s, "IFACE_RESYNC=1s")
	b.Ready()
	nc := connect(t, s)
	c := startChanges(t, k, 500*time.Microsecond)
	longest := time.Duration(0)
	const kills = 10
	for range kills {
		time.Sleep(150 * time.Millisecond)
		s.Kill()
		s.Start()
		longest = max(longest, recovery(t, nc))
	}
	n := c.end(t)
	f := settled(t, s)
	t.Logf("%d changes, %d events stored each once and in order, %d kills, %v duplicates avoided, longest recovery %v",
		n, f.Events, kills, b.Duplicates(), longest.Round(time.Millisecond))
	if f.Overruns == 0 && f.Replay.Notifications < uint64(n) {
		t.Errorf("%d changes, and the events stand for %d notifications", n, f.Replay.Notifications)
	}
}

// Three servers, three replicas: kill -9 of the stream's leader, of a follower,
// and a rolling restart, under continuous churn. IFACE_TEST_CLUSTER=10m is the
// long form.
func TestClusterServersKilled(t *testing.T) {
	k := netnstest.Parallel(t)
	servers := natstest.StartCluster(t)
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL)
	}
	b := start(t, []string{"NATS_URL=" + strings.Join(urls, ","), "IFACE_HOST=test", "IFACE_REPLICAS=3", "IFACE_RESYNC=1s"})
	b.Ready()
	nc := harness.ConnectTo(t, strings.Join(urls, ","))
	c := startChanges(t, k, 2*time.Millisecond)
	longest, kills := time.Duration(0), 0
	restart := func(s *natstest.Server, away time.Duration) {
		s.Kill()
		kills++
		time.Sleep(away)
		s.Start()
		longest = max(longest, recovery(t, nc))
	}
	for end := time.Now().Add(duration(t, "IFACE_TEST_CLUSTER", 0)); ; {
		leader := leaderOf(t, nc, servers)
		restart(servers[leader], time.Second)
		leader = leaderOf(t, nc, servers)
		restart(servers[(leader+1)%3], time.Second)
		for _, s := range servers {
			restart(s, 0)
		}
		if time.Now().After(end) {
			break
		}
	}
	n := c.end(t)
	leaderOf(t, nc, servers)
	f := settled(t, servers[0])
	t.Logf("%d changes, %d events stored each once and in order, %d kills, %v duplicates avoided, longest recovery %v",
		n, f.Events, kills, b.Duplicates(), longest.Round(time.Millisecond))
	if f.Overruns == 0 && f.Replay.Notifications < uint64(n) {
		t.Errorf("%d changes, and the events stand for %d notifications", n, f.Replay.Notifications)
	}
}

// leaderOf waits until the stream has a leader and all its replicas are current,
// and returns which server leads.
func leaderOf(t testing.TB, nc *nats.Conn, servers []*natstest.Server) int {
	t.Helper()
	js := jetStream(t, nc)
	leader := -1
	eventually(t, "the stream has a leader and current replicas", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stream, err := js.Stream(ctx, "IFACE")
		if err != nil || stream.CachedInfo().Cluster == nil {
			return false
		}
		cluster := stream.CachedInfo().Cluster
		current := 0
		for _, r := range cluster.Replicas {
			if r.Current {
				current++
			}
		}
		_, err = fmt.Sscanf(cluster.Leader, "s%d", &leader)
		return err == nil && current == len(servers)-1
	})
	return leader
}

// A server in lame duck mode is left at once for another one of the cluster.
func TestLameDuck(t *testing.T) {
	k := netnstest.Parallel(t)
	servers := natstest.StartCluster(t)
	b := start(t, []string{"NATS_URL=" + servers[0].URL, "IFACE_HOST=test", "IFACE_REPLICAS=3", "IFACE_RESYNC=1s"})
	b.Ready()
	c := startChanges(t, k, time.Millisecond)
	recovery(t, connect(t, servers[1]))
	duck := connectedTo(t, b, servers)
	nc := connect(t, servers[(duck+1)%3])
	servers[duck].Signal(unix.SIGUSR2) // nats-server --signal ldm
	b.Says("the NATS server is shutting down and asks its clients to move")
	eventually(t, "another server", func() bool { return connectedTo(t, b, servers) != duck })
	recovered := recovery(t, nc)
	servers[duck].Kill()
	n := c.end(t)
	f := settled(t, servers[(duck+1)%3])
	t.Logf("%d changes, %d events stored each once and in order, recovery %v", n, f.Events, recovered.Round(time.Millisecond))
	if f.Overruns == 0 && f.Replay.Notifications < uint64(n) {
		t.Errorf("%d changes, and the events stand for %d notifications", n, f.Replay.Notifications)
	}
}

// connectedTo returns which server the bridge says it is connected to.
func connectedTo(t testing.TB, b *process, servers []*natstest.Server) int {
	t.Helper()
	said := b.Output()
	_, url, _ := strings.Cut(said[strings.LastIndex(said, "connected to NATS"):], "server=")
	return slices.IndexFunc(servers, func(s *natstest.Server) bool { return strings.HasPrefix(url, s.URL+" ") })
}

// kill -9 of the bridge at random, with and without a spool: each epoch opens with
// what vanished and a snapshot, and the end state is right. Then of both at once.
func TestBridgeKilled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		env  []string
	}{{"without a spool", nil}, {"with a spool", []string{"IFACE_SPOOL_DIR=" + t.TempDir()}}} {
		t.Run(tt.name, func(t *testing.T) {
			k := netnstest.Parallel(t)
			s := natstest.Start(t, "")
			env := append(tt.env, "IFACE_RESYNC=1s")
			r := seed(t)
			c := startChanges(t, k, 500*time.Microsecond)
			const kills = 6
			for i := range kills {
				b := bridge(t, s, env...)
				time.Sleep(time.Duration(r.IntN(500)) * time.Millisecond)
				if i == kills-1 {
					s.Kill()
				}
				b.Kill()
			}
			s.Start()
			b := bridge(t, s, env...)
			n := c.end(t)
			f := settled(t, s)
			holds(t, s)
			t.Logf("%d changes, %d events stored each once and in order, %d kills, %v duplicates avoided in the last run",
				n, f.Events, kills, b.Duplicates())
		})
	}
}

// A server that is there and answers nothing, for longer than the ping limit.
func TestServerStalled(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	b := bridge(t, s, "IFACE_RESYNC=1s")
	b.Ready()
	c := startChanges(t, k, time.Millisecond)
	time.Sleep(300 * time.Millisecond)
	s.Signal(unix.SIGSTOP)
	began, lasting := time.Now(), duration(t, "IFACE_TEST_STALL", 18*time.Second)
	const waits = "the oldest event that NATS has not confirmed is "
	if lasting > 45*time.Second {
		eventually(t, "/readyz says that events wait", func() bool {
			_, ready := get(t, "/readyz")
			return strings.Contains(ready, waits)
		})
		t.Logf("/readyz says after %v that events wait, 30s are meant", time.Since(began).Round(time.Millisecond))
	}
	time.Sleep(time.Until(began.Add(lasting)))
	eventually(t, "/readyz says that NATS is away", func() bool {
		status, _ := get(t, "/readyz")
		return status == 503
	})
	s.Signal(unix.SIGCONT)
	n := c.end(t)
	f := settled(t, s)
	b.Says("publishing again")
	eventually(t, "ready", func() bool { status, _ := get(t, "/readyz"); return status == 200 })
	t.Logf("%d changes, %d events stored each once and in order", n, f.Events)
	if f.Overruns == 0 && f.Replay.Notifications < uint64(n) {
		t.Errorf("%d changes, and the events stand for %d notifications", n, f.Replay.Notifications)
	}
}

// An outage with a queue of 1,000 and 40,000 changes on 50 links: the queue is
// bounded, coalesced says what was folded, and the end state is right.
func TestLongOutage(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	var links []int32
	for i := range 25 {
		a, peer := upPair(t, k, fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i))
		links = append(links, a, peer)
	}
	b := bridge(t, s, "IFACE_QUEUE=1000", "IFACE_RESYNC=1s")
	holds(t, s)
	before := residentKiB(t, b)
	s.Kill()
	began := time.Now()
	const changes = 40000
	for i := range changes {
		must(t, k.SetAlias(links[i%len(links)], fmt.Sprint(i)))
	}
	during := residentKiB(t, b)
	if n := b.Metric("ifacebridge_queue_events"); n > changes/10 { // the queue, and one for each link
		t.Errorf("%v events wait, in a queue of 1,000", n)
	}
	time.Sleep(time.Until(began.Add(duration(t, "IFACE_TEST_OUTAGE", 0))))
	s.Start()
	f := settled(t, s)
	t.Logf("%d changes on %d links in an outage of %v, %d events: %d KiB of memory before, %d KiB during it",
		changes, len(links), time.Since(began).Round(time.Second), f.Events, before, during)
	folded := uint64(0)
	for _, e := range stored(t, connect(t, s), "IFACE") {
		folded = max(folded, e.Coalesced)
	}
	if f.Overruns == 0 && folded < 10 { // else the kernel has dropped what would have been folded
		t.Errorf("the most that was folded into one event is %d", folded)
	}
}

func residentKiB(t testing.TB, p *process) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	must(t, err)
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kib int
	_, err = fmt.Sscan(rest, &kib)
	must(t, err)
	return kib
}

// Core delivery is confirmed by flush: what was published when the server died is
// published again, with the same id; a consumer that was there all the time, on
// another server of the cluster, would lose nothing.
func TestCoreServerKilled(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	b := bridge(t, s, "IFACE_DELIVERY=core")
	b.Says("connected to NATS")
	c := startChanges(t, k, time.Millisecond)
	time.Sleep(200 * time.Millisecond)
	s.Kill()
	time.Sleep(300 * time.Millisecond)
	s.Start()
	r := record(t, s)
	r.Until(0, "an event", func(*schema.Event) bool { return true })
	time.Sleep(300 * time.Millisecond)
	c.end(t)
	allConfirmed(t, b)
	b.Signal(unix.SIGTERM)
	if status := b.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	_, said, _ := strings.Cut(b.Output(), "every event is confirmed\" events=")
	var confirmed uint64
	_, err := fmt.Sscan(said, &confirmed)
	must(t, err)
	r.Until(0, "the last event that was confirmed", func(e *schema.Event) bool { return e.Seq == confirmed })
	seq := uint64(0)
	for _, e := range r.Since(0) {
		if seq != 0 && e.Seq > seq+1 {
			t.Fatalf("seq %d after %d", e.Seq, seq)
		}
		seq = max(seq, e.Seq)
	}
}

// What a server may refuse: the log and /readyz say why and what to do, and it is
// counted; when the cause goes, the bridge goes on by itself.
func TestRefusals(t *testing.T) {
	t.Parallel()
	users := func(publish string) string {
		return fmt.Sprintf("authorization { users = [ { user: bridge, password: secret-of-bridge, permissions: { %s } }, { user: admin, password: admin } ] }", publish)
	}
	tests := []struct {
		name       string
		conf, then string
		env        []string
		prepare    func(t *testing.T, js jetstream.JetStream)
		says       []string
		readyz     string
		mend       func(t *testing.T, js jetstream.JetStream)
	}{
		{name: "a wrong password", conf: users("publish: \">\""), then: strings.ReplaceAll(users("publish: \">\""), "secret-of-bridge", "wrong"),
			env:    []string{"NATS_USER=bridge", "NATS_PASSWORD=wrong"},
			says:   []string{"cannot connect to NATS; retrying", "Authorization Violation", "check NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, or NATS_TOKEN"},
			readyz: "NATS is not connected: nats: Authorization Violation; check NATS_CREDS, "},
		{name: "no permission to create the stream", conf: users(`publish: ["iface.>", "_INBOX.>", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.MSG.GET.*", "$JS.API.INFO", "$KV.>", "$JS.API.CONSUMER.>"]`), then: users("publish: \">\""),
			env:    []string{"NATS_USER=bridge", "NATS_PASSWORD=secret-of-bridge"},
			says:   []string{"Permissions Violation for Publish to", "nats stream add IFACE --subjects='iface.*.*'"},
			readyz: "have the stream created by someone who may run: nats stream add IFACE"},
		{name: "no permission for one subject", conf: users(`publish: { deny: "iface.test.new" }`), then: users("publish: \">\""),
			env:    []string{"NATS_USER=bridge", "NATS_PASSWORD=secret-of-bridge"},
			says:   []string{`NATS refuses a subject to this user`, `Permissions Violation for Publish to \"iface.test.new\"`},
			readyz: `Permissions Violation for Publish to "iface.test.new"; grant what this prints: ifacebridge permissions`},
		{name: "no JetStream", conf: users("publish: \">\"") + "\n# jetstream is off", then: users("publish: \">\""),
			env:    []string{"NATS_USER=bridge", "NATS_PASSWORD=secret-of-bridge"},
			says:   []string{"enable JetStream on the server, or set IFACE_DELIVERY=core"},
			readyz: "; enable JetStream on the server, or set IFACE_DELIVERY=core"},
		{name: "a full stream", conf: users("publish: \">\""), env: []string{"NATS_USER=bridge", "NATS_PASSWORD=secret-of-bridge"},
			prepare: func(t *testing.T, js jetstream.JetStream) {
				_, err := js.CreateStream(context.Background(), fullStream(2))
				must(t, err)
			},
			says:   []string{"maximum messages exceeded"},
			readyz: "publishing fails: nats: API error: code=503 err_code=10077 description=maximum messages exceeded",
			mend: func(t *testing.T, js jetstream.JetStream) {
				_, err := js.UpdateStream(context.Background(), fullStream(-1))
				must(t, err)
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := netnstest.Parallel(t)
			_, _, err := k.AddVeth("veth0", "veth1")
			must(t, err)
			s := natstest.Start(t, tt.conf)
			admin := func() jetstream.JetStream {
				js := jetStream(t, harness.ConnectTo(t, s.URL, nats.UserInfo("admin", "admin")))
				return js
			}
			if tt.prepare != nil {
				tt.prepare(t, admin())
			}
			b := bridge(t, s, tt.env...)
			for _, text := range tt.says {
				b.Says(text)
			}
			eventually(t, "the failure is counted", func() bool { return b.Metric("ifacebridge_publish_failures_total") > 0 })
			eventually(t, "/readyz says "+tt.readyz, func() bool {
				status, body := get(t, "/readyz")
				return status == 503 && strings.Contains(body, tt.readyz)
			})
			if tt.mend != nil {
				tt.mend(t, admin())
			} else {
				s.Kill()
				s.Configure(tt.then)
				s.Start()
			}
			js := admin()
			eventually(t, "all events stored", func() bool {
				stream, err := js.Stream(context.Background(), "IFACE")
				return err == nil && stream.CachedInfo().State.Msgs >= 3
			})
			eventually(t, "ready", func() bool { status, _ := get(t, "/readyz"); return status == 200 })
			if strings.Contains(b.Output(), "secret-of-bridge") {
				t.Error("the password is in the log")
			}
		})
	}
}

func fullStream(messages int64) jetstream.StreamConfig {
	return jetstream.StreamConfig{Name: "IFACE", Subjects: []string{"iface.>"}, MaxMsgs: messages, Discard: jetstream.DiscardNew, AllowAtomicPublish: true}
}

// A server that takes smaller batches than ours gets smaller ones.
func TestBatchLimit(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.New(t, "")
	s.Configure(fmt.Sprintf("jetstream { store_dir: %q, limits { batch { max_msgs: 50 } } }\n", s.Dir+"/store"))
	a := upLink(t, k)
	b := bridge(t, s)
	b.Says("cannot connect to NATS")
	b.Says("read the links of this host") // what changes before is in the snapshot
	for i := range 2000 {
		must(t, k.SetAlias(a, fmt.Sprint(i)))
		if i%100 == 99 { // so many fit into any receive buffer
			eventually(t, "they wait in the queue", func() bool { return b.Metric("ifacebridge_queue_events") > float64(i) })
		}
	}
	s.Start()
	b.Ready()
	if f := settled(t, s); f.Events != 2000+3 {
		t.Errorf("%d events are stored, want 2003", f.Events)
	}
}

// A stream that is deleted under a running bridge is made again, and a new epoch tells
// the whole state in it.
func TestStreamDeleted(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	b := bridge(t, s, "IFACE_RESYNC=500ms")
	b.Ready()
	holds(t, s)
	js := jetStream(t, connect(t, s))
	must(t, js.DeleteStream(context.Background(), "IFACE"))
	_, _, err := k.AddVeth("veth0", "veth1")
	must(t, err)
	eventually(t, "the stream is there again", func() bool {
		stream, err := js.Stream(context.Background(), "IFACE")
		return err == nil && stream.CachedInfo().State.Msgs >= 2
	})
	b.Says("beginning a new epoch: this one cannot go on")
	holds(t, s)
	replayAll(t, stored(t, connect(t, s), "IFACE"))
}

// An event that is larger than the server takes says what it left out.
func TestTruncated(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "max_payload: 4096")
	a := upLink(t, k)
	b := bridge(t, s)
	b.Ready()
	r := record(t, s)
	for i := range 40 {
		must(t, k.AddAltName(a, fmt.Sprintf("%d%s", i, strings.Repeat("x", 100))))
	}
	must(t, k.SetAlias(a, "the end"))
	e := r.Until(0, "the alias", func(e *schema.Event) bool { return e.Link.Alias == "the end" })
	if !e.Truncated.Has("altnames") || e.Link.Alt != "" || !e.Changed.Has("ifalias") {
		t.Errorf("got %s", e.AppendJSON(nil))
	}
	for _, e := range r.Since(0) {
		if size := len(e.AppendJSON(nil)); size > 4096 {
			t.Errorf("seq %d has %d bytes", e.Seq, size)
		}
	}
}

// Throughput from a full queue to a stream in a file.
func BenchmarkFullQueue(b *testing.B) {
	k := netnstest.Own(b)
	s := natstest.New(b, "")
	a := upLink(b, k)
	p := bridge(b, s, "IFACE_QUEUE=1000000")
	p.Says("cannot connect to NATS")
	const events = 60000
	for i := range events {
		must(b, k.SetAlias(a, fmt.Sprint(i)))
	}
	began := time.Now()
	s.Start()
	js := jetStream(b, connect(b, s))
	eventually(b, "all stored", func() bool {
		stream, err := js.Stream(context.Background(), "IFACE")
		return err == nil && stream.CachedInfo().State.Msgs >= events
	})
	b.ReportMetric(events/time.Since(began).Seconds(), "events/s")
}
