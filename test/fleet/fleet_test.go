package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	follow "ifacebridge/fleet"
	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/proctest"
)

func TestMain(m *testing.M) { harness.Main(m) }

var (
	must       = harness.Must
	eventually = harness.Eventually
	number     = harness.Number
)

// A simulation is a process with the bridges of many hosts.
type simulation struct {
	t   testing.TB
	run *proctest.Process
	in  io.WriteCloser
	out *bufio.Scanner
}

// simulate starts a process with so many hosts, whose names end with the domain and
// whose bridges, which are not started yet, publish to these servers. More is for
// their environment.
func simulate(t testing.TB, servers []*natstest.Server, hosts, links int, domain string, more ...string) *simulation {
	t.Helper()
	cmd := exec.Command(natstest.Binary(t, "ifacebridge/test/fleet"), "-hosts", fmt.Sprint(hosts), "-links", fmt.Sprint(links), "-domain", domain)
	cmd.Env = append(append(os.Environ(), "NATS_URL="+urls(servers), fmt.Sprint("IFACE_REPLICAS=", len(servers))), more...)
	s := &simulation{t: t}
	log := proctest.NewLog(t, "bridges-of-"+domain)
	var err error
	s.in, err = cmd.StdinPipe()
	must(t, err)
	out, to := io.Pipe()
	cmd.Stdout = to
	s.out = bufio.NewScanner(out)
	s.out.Buffer(nil, 64<<20)
	s.run, err = proctest.Start(cmd, nil, log)
	must(t, err)
	go func() { <-s.run.Ended(); to.Close() }()
	t.Cleanup(func() {
		s.run.Kill()
		text := log.String()
		said := map[string]int{}
		for line := range strings.Lines(text) {
			_, message, _ := strings.Cut(line, " msg=")
			message, _, _ = strings.Cut(message, " host=")
			said[strings.TrimSpace(message)]++
		}
		for _, message := range slices.Sorted(maps.Keys(said)) {
			t.Logf("the bridges of %s said %d times: %s", domain, said[message], message)
		}
	})
	return s
}

func urls(servers []*natstest.Server) string {
	var list []string
	for _, s := range servers {
		list = append(list, s.URL)
	}
	return strings.Join(list, ",")
}

// A client is a connection of the test's own to the servers.
type client struct {
	t       testing.TB
	servers []*natstest.Server
	js      jetstream.JetStream
}

// connect returns a client when JetStream answers.
func connect(t testing.TB, servers ...*natstest.Server) *client {
	t.Helper()
	nc := harness.ConnectTo(t, urls(servers), nats.RetryOnFailedConnect(true))
	js := harness.JetStream(t, nc)
	c := &client{t, servers, js}
	c.eventually("JetStream is there", func(ctx context.Context) bool {
		_, err := js.AccountInfo(ctx)
		return err == nil
	})
	return c
}

// eventually waits until ok, which has a while for each try.
func (c *client) eventually(what string, ok func(ctx context.Context) bool) {
	c.t.Helper()
	eventually(c.t, what, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return ok(ctx)
	})
}

// command has the process do something, and decodes its answer.
func (s *simulation) command(answer any, format string, args ...any) {
	s.t.Helper()
	_, err := fmt.Fprintf(s.in, format+"\n", args...)
	must(s.t, err)
	if !s.out.Scan() {
		s.t.Fatalf("no answer to "+format+": %v", append(args, s.out.Err())...)
	}
	must(s.t, json.Unmarshal(s.out.Bytes(), answer))
}

// end stops the bridges, which have to have confirmed everything.
func (s *simulation) end() {
	s.t.Helper()
	must(s.t, s.in.Close())
	select {
	case <-s.run.Ended():
	case <-time.After(harness.Patience):
		s.t.Fatal("the bridges do not end")
	}
	if status := s.run.Cmd.ProcessState; !status.Success() {
		s.t.Fatalf("the bridges' process: %v", status)
	}
}

// leader returns the server that leads the stream.
func (c *client) leader(stream string) *natstest.Server {
	c.t.Helper()
	var name string
	c.eventually("the stream has a leader", func(ctx context.Context) bool {
		if st, err := c.js.Stream(ctx, stream); err == nil && st.CachedInfo().Cluster != nil {
			name = st.CachedInfo().Cluster.Leader
		}
		return name != ""
	})
	i, err := strconv.Atoi(strings.TrimPrefix(name, "s")) // natstest.JoinCluster's names
	must(c.t, err)
	return c.servers[i]
}

// An audit reads the stream as any consumer does, and holds it to what is promised:
// of each host one epoch, from 1, without gaps or repeats, a snapshot first.
type audit struct {
	mu     sync.Mutex
	stream uint64 // sequence of the last message
	hosts  map[string]*audited
	events int
	wrong  []string
	delays []delay
}

type audited struct {
	epoch    string
	seq      uint64
	snapshot uint32 // events of it that are to come
	links    map[int32]schema.Link
}

// delay is how long an event took that was made then: until it was stored, and
// until it was here.
type delay struct {
	made         time.Time
	stored, took time.Duration
}

// startAudit reads a stream from its beginning, as soon as it is there.
func (c *client) startAudit(stream string) *audit {
	c.t.Helper()
	a := &audit{hosts: map[string]*audited{}}
	var consumer jetstream.Consumer
	c.eventually("a consumer of the stream", func(ctx context.Context) bool {
		var err error
		consumer, err = c.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
		return err == nil
	})
	consuming, err := consumer.Consume(a.message, jetstream.PullHeartbeat(time.Second))
	must(c.t, err)
	c.t.Cleanup(consuming.Stop)
	return a
}

func (a *audit) message(m jetstream.Msg) {
	now := time.Now()
	meta, err := m.Metadata()
	var e schema.Event
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		err = json.Unmarshal(m.Data(), &e)
	}
	if err != nil {
		a.complain("%s: %v", m.Subject(), err)
		return
	}
	if meta.Sequence.Stream <= a.stream {
		a.complain("message %d after %d", meta.Sequence.Stream, a.stream)
		return
	}
	a.stream = meta.Sequence.Stream
	a.events++
	h := a.hosts[e.Host]
	if h == nil {
		h = &audited{epoch: e.Epoch, snapshot: e.Snapshot.Of, links: map[int32]schema.Link{}}
		a.hosts[e.Host] = h
	}
	if e.Epoch != h.epoch || e.Seq != h.seq+1 {
		a.complain("%s: %s after %s-%d", e.Host, e.ID(), h.epoch, h.seq)
	}
	h.epoch, h.seq = e.Epoch, e.Seq
	if h.snapshot > 0 {
		if e.Snapshot.Pos != e.Snapshot.Of-h.snapshot+1 {
			a.complain("%s: %d of %d where %d are to come", e.Host, e.Snapshot.Pos, e.Snapshot.Of, h.snapshot)
		}
		h.snapshot--
	} else {
		a.delays = append(a.delays, delay{e.Time, meta.Timestamp.Sub(e.Time), now.Sub(e.Time)})
	}
	if e.Kind == schema.Del {
		delete(h.links, e.Link.Index)
	} else {
		h.links[e.Link.Index] = e.Link
	}
}

func (a *audit) complain(format string, args ...any) {
	a.wrong = append(a.wrong, fmt.Sprintf(format, args...))
}

// verdict reports what was wrong so far.
func (a *audit) verdict(t testing.TB) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.wrong) > 0 {
		t.Fatalf("%d things are wrong, such as: %s", len(a.wrong), strings.Join(a.wrong[:min(5, len(a.wrong))], "; "))
	}
}

// whole returns how many hosts have a whole snapshot, and how many events came.
func (a *audit) whole() (hosts, events int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.hosts {
		if h.snapshot == 0 {
			hosts++
		}
	}
	return hosts, a.events
}

// differs returns how what came of the hosts differs from the truth.
func (a *audit) differs(truths map[string]truth, links int) (diffs []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, want := range truths {
		h := a.hosts[name]
		switch {
		case h == nil:
			diffs = append(diffs, name+": nothing")
		case h.seq != uint64(links+want.Notifications):
			diffs = append(diffs, fmt.Sprintf("%s: %d events of %d", name, h.seq, links+want.Notifications))
		case digest(h.links) != want.Links:
			diffs = append(diffs, name+": other links")
		}
	}
	return diffs
}

// powerUp starts all bridges at once, and waits until their snapshots are stored, and
// in the bucket.
func powerUp(c *client, s *simulation, hosts, links int) *audit {
	c.t.Helper()
	began := time.Now()
	s.start()
	a := c.startAudit("IFACE")
	a.opened(c.t, hosts)
	c.t.Logf("%d hosts with %d links each: all snapshots stored, and read, %v after the simultaneous start", hosts, links, time.Since(began).Round(10*time.Millisecond))
	c.eventually("the bucket holds every link", func(ctx context.Context) bool {
		st, err := c.js.Stream(ctx, "KV_iface_links")
		return err == nil && st.CachedInfo().State.Msgs >= uint64(hosts*links)
	})
	c.t.Logf("the bucket held all of them %v after it", time.Since(began).Round(10*time.Millisecond))
	return a
}

func (s *simulation) start() {
	s.t.Helper()
	var answer string
	s.command(&answer, "start")
}

// opened waits until so many hosts have a whole snapshot.
func (a *audit) opened(t testing.TB, hosts int) {
	t.Helper()
	defer func() {
		if t.Failed() {
			n, events := a.whole()
			t.Logf("%d of %d hosts are whole, %d events", n, hosts, events)
		}
	}()
	came := func() int { _, events := a.whole(); return events }
	harness.EventuallyAsItGrows(t, "all snapshots are stored", came, func() bool {
		n, _ := a.whole()
		return n == hosts
	})
	a.verdict(t)
}

// complete waits until everything that the hosts of these simulations made is there.
func (a *audit) complete(t testing.TB, links, made int, of ...*simulation) {
	t.Helper()
	truths := map[string]truth{}
	for _, s := range of {
		s.command(&truths, "truth")
	}
	var diffs []string
	defer func() {
		if t.Failed() {
			t.Logf("%d hosts differ: %.2000q", len(diffs), diffs)
		}
	}()
	came := func() int { _, events := a.whole(); return events }
	harness.EventuallyAsItGrows(t, "the consumer has everything", came, func() bool {
		if came() < len(truths)*links+made {
			return false
		}
		diffs = a.differs(truths, links)
		return len(diffs) == 0
	})
	a.verdict(t)
}

// A kill is one of a server, and what came of it.
type kill struct {
	at time.Time
	// Until events were stored, and were with the consumer, within a second again.
	stored, recovery time.Duration
	elected          time.Duration // until the stream had a leader
}

// underLoad kills the server that leads the stream so many times while hosts make
// notifications, and returns how many they made.
func underLoad(c *client, s *simulation, rate, seconds, kills int) (made int, done []kill) {
	var killing sync.WaitGroup
	began := time.Now()
	killing.Go(func() {
		for i := range kills {
			time.Sleep(time.Until(began.Add(time.Duration(seconds) * time.Second * time.Duration(2*i+1) / time.Duration(2*kills))))
			leader := c.leader("IFACE")
			done = append(done, kill{at: time.Now()})
			leader.Kill()
			eventually(c.t, "another leader", func() bool { return c.leader("IFACE") != leader })
			done[i].elected = time.Since(done[i].at)
			time.Sleep(3 * time.Second)
			leader.Start()
		}
	})
	s.command(&made, "load %d %d", rate, seconds)
	killing.Wait()
	return made, done
}

// A thousand hosts get power at once, and then live through failovers: with
// IFACE_TEST_FLEET_HOSTS=1000 IFACE_TEST_FLEET_SECONDS=120. Else some of that.
func TestPowerUpAndFailovers(t *testing.T) {
	t.Parallel()
	hosts := number(t, "IFACE_TEST_FLEET_HOSTS", 60)
	rate := number(t, "IFACE_TEST_FLEET_RATE", 2*hosts)
	seconds := number(t, "IFACE_TEST_FLEET_SECONDS", 12)
	const links = 50
	c := connect(t, natstest.StartCluster(t)...)
	s := simulate(t, c.servers, hosts, links, "example.com")
	a := powerUp(c, s, hosts, links)
	made, kills := underLoad(c, s, rate, seconds, max(1, seconds/60))
	quiet := time.Now()
	a.complete(t, links, made, s)
	settled := time.Since(quiet)
	p50, p99 := a.latency(kills)
	t.Logf("%d notifications in %d s: each there once, in order, %v after the last; outside of failovers p50 %v, p99 %v from the notification to the consumer",
		made, seconds, settled.Round(time.Millisecond), p50.Round(100*time.Microsecond), p99.Round(100*time.Microsecond))
	for _, k := range kills {
		t.Logf("the stream's leader killed: another one after %v, events stored within a second again after %v, and with the consumer after %v",
			k.elected.Round(10*time.Millisecond), k.stored.Round(10*time.Millisecond), k.recovery.Round(10*time.Millisecond))
	}
	c.bucketIs("iface_links", a)
	c.ofOneHost(a, "host00007.example.com")
	c.joins(a)
	s.end()
}

// joins follows the hosts as consumers do, in each of the three ways, until the view is
// what the audit has.
func (c *client) joins(a *audit) {
	c.t.Helper()
	for _, join := range []follow.Join{follow.FromStream, follow.FromQuery, follow.FromBucket} {
		f, err := follow.New(c.js.Conn(), follow.Options{Join: join})
		must(c.t, err)
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx, func(follow.Change) {}) }()
		began := time.Now()
		select {
		case <-f.CaughtUp():
		case <-time.After(harness.Patience):
			c.t.Fatalf("from the %v it does not catch up", join)
		}
		eventually(c.t, fmt.Sprintf("the view from the %v is whole", join), func() bool {
			view := f.View()
			a.mu.Lock()
			defer a.mu.Unlock()
			for _, h := range view {
				links := map[int32]schema.Link{}
				for _, l := range h.Links {
					links[l.Link.Index] = l.Link
				}
				if known := a.hosts[h.Name]; !h.Whole || known == nil || digest(links) != digest(known.links) {
					return false
				}
			}
			return len(view) == len(a.hosts)
		})
		took := time.Since(began)
		stop()
		must(c.t, <-done)
		c.t.Logf("a consumer that joins from the %v knew every link of %d hosts after %v", join, len(a.hosts), took.Round(10*time.Millisecond))
	}
}

// ofOneHost sees to it that who wants one host's events, or links, reads no others.
func (c *client) ofOneHost(a *audit, name string) {
	c.t.Helper()
	token, err := schema.HostToken(name)
	must(c.t, err)
	a.mu.Lock()
	events, links := a.hosts[name].seq, uint64(len(a.hosts[name].links))
	a.mu.Unlock()
	for stream, filter := range map[string]string{"IFACE": "iface." + token + ".*", "KV_iface_links": "$KV.iface_links." + token + ".>"} {
		var st jetstream.Stream
		var consumer jetstream.Consumer
		c.eventually("a consumer of "+filter, func(ctx context.Context) (ok bool) { // after an election
			var err error
			if st, err = c.js.Stream(ctx, stream); err == nil {
				cfg := jetstream.ConsumerConfig{FilterSubject: filter, AckPolicy: jetstream.AckNonePolicy}
				consumer, err = st.CreateConsumer(ctx, cfg)
			}
			return err == nil
		})
		pending := uint64(0)
		c.eventually(fmt.Sprintf("%d events, and %d links or more, to read of one host", events, links), func(ctx context.Context) bool {
			info, err := consumer.Info(ctx) // it may be on a server that is catching up
			if err == nil {
				pending = info.NumPending
			}
			return err == nil && (stream == "IFACE" && pending == events || stream != "IFACE" && pending >= links)
		})
		c.t.Logf("a consumer of %s has %d messages to read, of %d", filter, pending, st.CachedInfo().State.Msgs)
	}
}

// latency fills in the recoveries, and returns percentiles of what was made outside
// of them.
func (a *audit) latency(kills []kill) (p50, p99 time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var took []time.Duration
	for _, d := range a.delays {
		late(kills, d.made, d.stored, func(k *kill) *time.Duration { return &k.stored })
		late(kills, d.made, d.took, func(k *kill) *time.Duration { return &k.recovery })
	}
	for _, d := range a.delays {
		if !slices.ContainsFunc(kills, func(k kill) bool {
			return d.made.Add(d.took).After(k.at) && d.made.Before(k.at.Add(k.recovery))
		}) {
			took = append(took, d.took)
		}
	}
	slices.Sort(took)
	if len(took) == 0 {
		return 0, 0
	}
	return took[len(took)/2], took[len(took)*99/100]
}

// late has the last kill before an event came take longer until then, if the event
// took more than a second.
func late(kills []kill, made time.Time, took time.Duration, recovery func(*kill) *time.Duration) {
	came := made.Add(took)
	for i := len(kills) - 1; i >= 0 && took > time.Second; i-- {
		if came.After(kills[i].at) {
			until := recovery(&kills[i])
			*until = max(*until, came.Sub(kills[i].at))
			return
		}
	}
}

// bucketIs waits until the bucket holds what the audit does.
func (c *client) bucketIs(bucket string, a *audit) {
	c.t.Helper()
	var wrong []string
	defer func() {
		if c.t.Failed() {
			c.t.Logf("the bucket: %d hosts differ: %.500q", len(wrong), wrong)
		}
	}()
	eventually(c.t, "the bucket is what the stream says", func() bool {
		held, err := c.bucket(bucket)
		a.mu.Lock()
		defer a.mu.Unlock()
		wrong = wrong[:0]
		for name, h := range a.hosts {
			if digest(held[name]) != digest(h.links) {
				wrong = append(wrong, name)
			}
		}
		return err == nil && len(wrong) == 0 && len(held) == len(a.hosts)
	})
}

// bucket returns the links of each host as the bucket holds them.
func (c *client) bucket(name string) (map[string]map[int32]schema.Link, error) {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	kv, err := c.js.KeyValue(ctx, name)
	if err != nil {
		return nil, err
	}
	watcher, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, err
	}
	defer watcher.Stop()
	held := map[string]map[int32]schema.Link{}
	for entry := range watcher.Updates() {
		if entry == nil {
			return held, nil
		}
		var e schema.Event
		if err := json.Unmarshal(entry.Value(), &e); err != nil {
			return nil, err
		}
		if held[e.Host] == nil {
			held[e.Host] = map[int32]schema.Link{}
		}
		held[e.Host][e.Link.Index] = e.Link
	}
	return nil, ctx.Err()
}

// A server that takes only two open batches at a time: all the others come to their
// turn, by trying again.
func TestOpenBatchesLimit(t *testing.T) {
	t.Parallel()
	const hosts, links = 100, 20
	server := natstest.New(t, "")
	server.Configure(fmt.Sprintf("jetstream { store_dir: %q, limits { batch { max_inflight_per_stream: 2, max_inflight_total: 2 } } }", filepath.Join(server.Dir, "store")))
	server.Start()
	c := connect(t, server)
	s := simulate(t, c.servers, hosts, links, "example.com")
	a := powerUp(c, s, hosts, links)
	c.bucketIs("iface_links", a)
	s.end()
}

// configured returns a server with a file of deploy/nats as its configuration.
func configured(t testing.TB, file string, env ...string) *natstest.Server {
	t.Helper()
	conf, err := os.ReadFile(filepath.Join("../../deploy/nats", file))
	must(t, err)
	s := natstest.New(t, string(conf))
	s.Env = append(env, "STORE_DIR="+filepath.Join(s.Dir, "store"), fmt.Sprintf("LISTEN=%s:%d", s.Host, s.Port))
	return s
}

// A hub and two leaves, as deploy/nats configures them: the hub is killed, the sites go
// on, and when it is back everything is there, in order.
func TestHubAndLeaves(t *testing.T) {
	t.Parallel()
	hosts := number(t, "IFACE_TEST_FLEET_HOSTS", 60) / 2
	const links, seconds = 20, 12
	rate := 2 * hosts
	leafPort := natstest.FreePort(t)
	hub := configured(t, "hub.conf", fmt.Sprintf("LEAF_LISTEN=127.0.0.1:%d", leafPort))
	hub.Start()
	var sites []*simulation
	var leaves []*client
	for _, site := range []string{"site1", "site2"} {
		leaf := configured(t, "leaf.conf", "SITE="+site, fmt.Sprintf("HUB_URL=nats-leaf://127.0.0.1:%d", leafPort))
		leaf.Start()
		leaves = append(leaves, connect(t, leaf))
		sites = append(sites, simulate(t, []*natstest.Server{leaf}, hosts, links, site+".example.com"))
	}
	var local []*audit
	for i, s := range sites {
		s.start()
		local = append(local, leaves[i].startAudit("IFACE"))
	}
	for _, l := range local {
		l.opened(t, hosts)
	}
	c := connect(t, hub)
	for _, file := range []string{"hub-IFACE.json", "hub-KV_iface_links.json"} {
		var cfg jetstream.StreamConfig
		text, err := os.ReadFile(filepath.Join("../../deploy/nats", file))
		must(t, err)
		must(t, json.Unmarshal(text, &cfg))
		c.eventually("the stream "+cfg.Name, func(ctx context.Context) bool {
			_, err := c.js.CreateStream(ctx, cfg)
			return err == nil
		})
	}
	a := c.startAudit("IFACE")
	a.opened(t, 2*hosts)

	made := make([]int, len(sites))
	var loading sync.WaitGroup
	for i, s := range sites {
		loading.Go(func() { s.command(&made[i], "load %d %d", rate, seconds) })
	}
	time.Sleep(seconds * time.Second / 4)
	hub.Kill()
	_, before := a.whole() // with what was on its way
	eventually(t, "nothing more comes from the hub", func() bool {
		time.Sleep(time.Second)
		last := before
		_, before = a.whole()
		return before == last
	})
	for i, l := range local {
		_, now := l.whole()
		eventually(t, fmt.Sprintf("leaf %d stores events while the hub is down", i+1), func() bool {
			_, n := l.whole()
			return n > now
		})
	}
	hub.Start()
	back := time.Now()
	loading.Wait()
	for i, l := range local {
		l.complete(t, links, made[i], sites[i])
		leaves[i].bucketIs("iface_links", l)
	}
	a.complete(t, links, made[0]+made[1], sites...)
	t.Logf("2 sites of %d hosts, %d notifications, the hub down for some of %d s: everything there and in order %v after it was back",
		hosts, made[0]+made[1], seconds, time.Since(back).Round(time.Millisecond))
	c.bucketIs("iface_links", a)
	for _, s := range sites {
		s.end()
	}
}

// A stream and a bucket for each of two regions, by configuration alone, on the same
// servers: each holds its hosts and no others, and iface.> is all of them.
func TestStreamsByPrefix(t *testing.T) {
	t.Parallel()
	const hosts, links, rate, seconds = 20, 10, 100, 3
	c := connect(t, natstest.Start(t, ""))
	var everything atomic.Int64
	sub, err := c.js.Conn().Subscribe("iface.>", func(*nats.Msg) { everything.Add(1) })
	must(t, err)
	defer sub.Unsubscribe()
	harness.Flush(t, c.js.Conn())
	total := 0
	for _, region := range []string{"eu", "us"} {
		s := simulate(t, c.servers, hosts, links, region+".example.com",
			"IFACE_SUBJECT_PREFIX=iface."+region, "IFACE_STREAM=IFACE_"+region, "IFACE_BUCKET=iface_links_"+region)
		s.start()
		a := c.startAudit("IFACE_" + region)
		a.opened(t, hosts)
		var made int
		s.command(&made, "load %d %d", rate, seconds)
		a.complete(t, links, made, s)
		c.bucketIs("iface_links_"+region, a)
		s.end()
		total += hosts*links + made
	}
	eventually(t, fmt.Sprintf("a subscriber of iface.> got %d events, or more: what was sent again", total),
		func() bool { return int(everything.Load()) >= total })
}

// A super-cluster: two clusters, joined by gateways. The hosts of both publish to the
// one stream, which is in the first, and one bucket.
func TestSuperCluster(t *testing.T) {
	t.Parallel()
	const hosts, links, rate, seconds = 20, 10, 100, 6
	ports := []int{natstest.FreePort(t), natstest.FreePort(t)}
	var servers []*natstest.Server
	for i, name := range []string{"east", "west"} {
		route := natstest.FreePort(t) // to itself: a cluster of one
		s := natstest.New(t, fmt.Sprintf(`server_name: %s
			cluster { name: %s, listen: "127.0.0.1:%d", routes: ["nats://127.0.0.1:%d"] }
			gateway { name: %s, listen: "127.0.0.1:%d", gateways: [
				{ name: east, urls: ["nats://127.0.0.1:%d"] }, { name: west, urls: ["nats://127.0.0.1:%d"] } ] }`,
			name, name, route, route, name, ports[i], ports[0], ports[1]))
		s.Start()
		servers = append(servers, s)
	}
	east := connect(t, servers[0])
	connect(t, servers[1])
	var sites []*simulation
	for i, s := range servers {
		site := simulate(t, []*natstest.Server{s}, hosts, links, []string{"east", "west"}[i]+".example.com")
		site.start()
		if i == 0 { // the stream is made where it is asked for
			east.startAudit("IFACE").opened(t, hosts)
		}
		sites = append(sites, site)
	}
	a := east.startAudit("IFACE")
	a.opened(t, 2*hosts)
	made := make([]int, len(sites))
	var loading sync.WaitGroup
	for i, s := range sites {
		loading.Go(func() { s.command(&made[i], "load %d %d", rate, seconds) })
	}
	loading.Wait()
	a.complete(t, links, made[0]+made[1], sites...)
	east.bucketIs("iface_links", a)
	for _, s := range sites {
		s.end()
	}
}
