package test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"ifacebridge/fleet"
	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// An operators' stream or bucket, and what becomes of a bridge that finds it.
type operators struct {
	name   string
	conf   string // of the server
	stream *jetstream.StreamConfig
	bucket *jetstream.KeyValueConfig
	env    []string

	says   []string                                   // the log, and doctor, which names the check
	check  string                                     // doctor's, which fails; "": none
	readyz string                                     // "": it is ready
	mend   func(t *testing.T, js jetstream.JetStream) // nil: run the command that doctor prints
	lets   bool                                       // what mends it lets the oldest events go
}

// A streamChange is what an operator makes other than the bridge would.
type streamChange = func(*jetstream.StreamConfig)

// operatorStream is a stream as the bridge would make it, but for a change.
func operatorStream(change streamChange) *jetstream.StreamConfig {
	c := &jetstream.StreamConfig{
		Name: "IFACE", Subjects: []string{"iface.*.*"}, AllowDirect: true, AllowAtomicPublish: true, Replicas: 1,
	}
	change(c)
	return c
}

// createStream creates a stream as the bridge would make it, but for a change.
func createStream(t testing.TB, js jetstream.JetStream, change streamChange) {
	t.Helper()
	_, err := js.CreateStream(t.Context(), *operatorStream(change))
	must(t, err)
}

func asTheBridgeWould(*jetstream.StreamConfig) {}

func (o *operators) prepare(t *testing.T, js jetstream.JetStream) {
	ctx := context.Background()
	if o.stream != nil {
		sealed := o.stream.Sealed
		o.stream.Sealed = false
		_, err := js.CreateStream(ctx, *o.stream)
		must(t, err)
		if o.stream.Sealed = sealed; sealed {
			_, err = js.UpdateStream(ctx, *o.stream)
			must(t, err)
		}
	}
	if o.bucket != nil {
		_, err := js.CreateKeyValue(ctx, *o.bucket)
		must(t, err)
	}
}

// run lets a bridge find what there is, and holds it to what it says, and to what is stored
// when that is mended.
func (o *operators) run(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, o.conf)
	js := jetStream(t, connect(t, s))
	o.prepare(t, js)
	link := upLink(t, k)
	env := append([]string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "IFACE_RESYNC=1s"}, o.env...)
	b := start(t, env)
	for _, text := range o.says {
		b.Says(text)
	}
	status, body := 0, ""
	eventually(t, "/readyz says "+o.readyz, func() bool {
		status, body = get(t, "/readyz")
		return o.readyz == "" && status == 200 || o.readyz != "" && status == 503 && strings.Contains(body, o.readyz)
	})
	says := o.says
	if o.check != "" {
		says = append(slices.Clone(says), "FAIL  "+o.check)
	}
	d := doctor(t, env, min(len(o.check), 1), says...)
	must(t, k.SetAlias(link, "while it was so"))
	switch {
	case o.mend != nil:
		o.mend(t, js)
	case o.check != "":
		runPrinted(t, s, d.Output())
	}
	must(t, k.SetAlias(link, "mended"))
	if !o.lets {
		settled(t, s)
	}
	holds(t, s)
	eventually(t, "ready", func() bool { return b.Metric("ifacebridge_ready") == 1 })
	if strings.Count(b.Output(), "ifacebridge starts") != 1 {
		t.Error("it was restarted")
	}
}

var printedCommand = regexp.MustCompile(`(?m)→ (?:.*: )?(nats .*)$`)

// runPrinted runs the nats command that doctor prints below the first thing that fails.
func runPrinted(t *testing.T, s *natstest.Server, output string) {
	t.Helper()
	netnstest.Tool(t, "nats")
	_, failed, _ := strings.Cut(output, "FAIL")
	m := printedCommand.FindStringSubmatch(failed)
	if m == nil {
		t.Fatalf("no command in %s", output)
	}
	env := []string{"NATS_URL=" + s.URL, "PATH=" + os.Getenv("PATH"), natsPatience}
	cli := startBinary(t, "/bin/sh", env, "-c", m[1])
	if status := cli.Wait(); status != 0 {
		t.Fatalf("%s: exit status %d", m[1], status)
	}
}

// anew deletes what the operator made, so that the bridge makes its own.
func anew(stream string) func(t *testing.T, js jetstream.JetStream) {
	return func(t *testing.T, js jetstream.JetStream) { must(t, js.DeleteStream(context.Background(), stream)) }
}

// Streams as operators make them: what is needed of each is met, or refused by its name,
// in the log, by /readyz and by doctor; when it is mended, everything is stored once and in
// order, without a restart.
func TestStreamsAsOperatorsMakeThem(t *testing.T) {
	t.Parallel()
	refused := func(name, setting string, mend func(*testing.T, jetstream.JetStream), change streamChange) operators {
		return operators{
			name: name, stream: operatorStream(change), says: []string{"stream IFACE ", setting}, check: "stream",
			readyz: "publishing fails: stream IFACE ", mend: mend,
		}
	}
	warned := func(name, text string, change streamChange) operators {
		return operators{name: name, stream: operatorStream(change), says: []string{text}}
	}
	full := func(name, readyz string, change streamChange) operators {
		stream := operatorStream(change)
		stream.Discard = jetstream.DiscardNew
		return operators{name: name, stream: stream, lets: true, check: "stream", readyz: readyz}
	}
	cases := []operators{
		refused("no acknowledgments", "(no_ack)", nil, func(c *jetstream.StreamConfig) { c.NoAck = true }),
		refused("a subject transform", "(subject_transform", nil, func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "iface.>", Destination: "other.>"}
		}),
		refused("kept by interest", "(retention interest)", nil,
			func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }),
		refused("a work queue", "(retention workqueue)", anew("IFACE"),
			func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }),
		refused("sealed", "(sealed)", anew("IFACE"), func(c *jetstream.StreamConfig) { c.Sealed = true }),
		refused("a mirror", "(mirror)", anew("IFACE"), func(c *jetstream.StreamConfig) {
			c.Mirror, c.Subjects, c.AllowAtomicPublish = &jetstream.StreamSource{Name: "OTHER"}, nil, false
		}),
		refused("counters", "(allow_msg_counter)", anew("IFACE"), func(c *jetstream.StreamConfig) {
			c.AllowMsgCounter, c.AllowAtomicPublish = true, false
		}),
		refused("messages too small", "(max_msg_size)", nil, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 500 }),
		refused("other subjects", "takes [iface.test.new], not iface.test.del", nil,
			func(c *jetstream.StreamConfig) { c.Subjects = []string{"iface.test.new"} }),
		full("full by messages", "maximum messages exceeded; nats stream edit IFACE --discard=old -f",
			func(c *jetstream.StreamConfig) { c.MaxMsgs = 1 }),
		full("full by bytes", "maximum bytes exceeded; nats stream edit IFACE --discard=old -f",
			func(c *jetstream.StreamConfig) { c.MaxBytes = 4000 }),
		full("full by messages of a subject", "nats stream edit IFACE --discard=old --no-discard-per-subject -f",
			func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject, c.DiscardNewPerSubject = 2, true }),
		warned("will be full", "(discard new)",
			func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = 1e6, jetstream.DiscardNew }),
		warned("few of a subject", "keeps only the last 1000 events of each kind of a host (max_msgs_per_subject)",
			func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1000 }),
		warned("no batches", "takes no atomic batches", func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }),
		warned("in memory", "(storage)", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }),
		{name: "nothing may be deleted", stream: operatorStream(func(c *jetstream.StreamConfig) {
			c.DenyDelete, c.DenyPurge = true, true
		})},
		{name: "a transform of other subjects", stream: operatorStream(func(c *jetstream.StreamConfig) {
			c.Subjects = append(c.Subjects, "x.>")
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "x.>", Destination: "y.>"}
		})},
		{name: "settings that do not apply", stream: operatorStream(func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }),
			env:    []string{"IFACE_MAX_AGE=24h", "IFACE_REPLICAS=3", "IFACE_MAX_BYTES=1MiB"},
			bucket: &jetstream.KeyValueConfig{Bucket: "iface_links", LimitMarkerTTL: time.Hour},
			says: []string{
				"stream IFACE was there, and IFACE_MAX_AGE=24h0m0s does not apply to it: it keeps events for 1h0m0s (max_age)",
				"stream IFACE was there, and IFACE_REPLICAS=3 does not apply to it: it has 1 (num_replicas)",
				"stream IFACE was there, and IFACE_MAX_BYTES=1048576 does not apply to it: it has -1 (max_bytes)",
			}},
		{name: "an overlap", stream: operatorStream(func(c *jetstream.StreamConfig) {
			c.Name, c.Subjects = "THEIRS", []string{"iface.>"}
		}), check: "stream", says: []string{"stream THEIRS has its subjects"},
			readyz: "stream THEIRS has its subjects", mend: anew("THEIRS")},
	}
	for _, o := range cases {
		t.Run(o.name, o.run)
	}
}

// What differs is logged once, not at each look.
func TestWhatDiffersIsSaidOnce(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	createStream(t, js, asTheBridgeWould)
	b := bridge(t, s, "IFACE_MAX_AGE=1h", "IFACE_RESYNC=100ms")
	b.Says("IFACE_MAX_AGE=1h0m0s does not apply to it")
	looks := func() float64 { return b.Metric("ifacebridge_bucket_puts_total") }
	eventually(t, "the bucket", func() bool { return looks() > 0 })
	time.Sleep(time.Second) // many looks
	if n := strings.Count(b.Output(), "stream IFACE was there, and IFACE_MAX_AGE"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
}

// withAccount is the configuration of a server with one account.
func withAccount(s *natstest.Server, account string) string {
	return fmt.Sprintf(`jetstream { store_dir: %q }
		accounts { A { users: [ { user: u, password: p } ], %s } }
		no_auth_user: u`, s.Dir+"/store", account)
}

// An account that demands a limit for each stream, or allows less than is asked for, gets
// the variable named.
func TestAccountDemandsMaxBytes(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.New(t, "")
	s.Configure(withAccount(s, "jetstream { max_bytes_required: true, max_file: 10MB, max_mem: 0 }"))
	s.Start()
	const sentence = "the account demands a limit for each stream (max_bytes), and IFACE_MAX_BYTES sets none"
	b := bridge(t, s)
	b.Says(sentence)
	b.Says("set IFACE_MAX_BYTES, for example to 256MiB")
	eventually(t, "/readyz says so", func() bool {
		status, body := get(t, "/readyz")
		return status == 503 && strings.Contains(body, sentence)
	})
	env := []string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}
	doctor(t, env, 1, "FAIL  JetStream", sentence)
	b.Kill()

	b = bridge(t, s, "IFACE_MAX_BYTES=1GiB")
	b.Says("the account may store 10485760 bytes (max_storage)")
	b.Kill()

	b = bridge(t, s, "IFACE_MAX_BYTES=1MiB")
	b.Ready()
	holds(t, s)
	js := jetStream(t, connect(t, s))
	for _, name := range []string{"IFACE", "KV_iface_links"} {
		stream, err := js.Stream(context.Background(), name)
		must(t, err)
		if got := stream.CachedInfo().Config.MaxBytes; got != 1<<20 {
			t.Errorf("%s has max_bytes %d", name, got)
		}
	}
}

// A server whose messages are too small for any event is refused by name; one that takes
// small ones gets them cut.
func TestSmallPayload(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "max_payload: 1024")
	b := bridge(t, s)
	b.Says("the server takes messages of up to 1024 bytes (max_payload), and the smallest event of this host may have")
	doctor(t, []string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}, 1, "(max_payload)")
	s.Kill()
	s.Configure("max_payload: 2048")
	s.Start()
	settled(t, s)
	holds(t, s)
}

// A subject mapping of the account takes events to where they are not found again: it is
// said where, and when it is gone, everything is stored.
func TestSubjectMapping(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.New(t, "")
	s.Configure(withAccount(s, `jetstream: enabled, mappings: { "iface.*.*": "iface.elsewhere.$1.$2" }`))
	s.Start()
	js := jetStream(t, connect(t, s))
	createStream(t, js, func(c *jetstream.StreamConfig) { c.Subjects = []string{"iface.>"} })
	b := bridge(t, s, "IFACE_RESYNC=1s")
	b.Says("stream IFACE has under iface.elsewhere.test.new what was published on iface.test.*")
	eventually(t, "/readyz says so", func() bool {
		status, body := get(t, "/readyz")
		return status == 503 && strings.Contains(body, "take that subject out of the account's mappings")
	})
	must(t, purgeStream(context.Background(), js, "IFACE"))
	s.Kill()
	s.Configure(withAccount(s, "jetstream: enabled"))
	s.Start()
	link := upLink(t, k)
	must(t, k.SetAlias(link, "mended"))
	settled(t, s)
	holds(t, s)
}

// purgeStream removes what a stream holds.
func purgeStream(ctx context.Context, js jetstream.JetStream, name string) error {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return err
	}
	return stream.Purge(ctx)
}

// A hub and a leaf, both with a stream on the same subjects, answer each publish: what
// counts is the answer of the stream that was looked up.
func TestHubAndLeafBothAnswer(t *testing.T) {
	k := netnstest.Parallel(t)
	hub := natstest.New(t, "")
	leafPort := natstest.FreePort(t)
	hub.Configure(fmt.Sprintf(`server_name: hub
		jetstream { store_dir: %q, domain: hub }
		leafnodes { listen: "127.0.0.1:%d" }`, hub.Dir+"/store", leafPort))
	hub.Start()
	leaf := natstest.New(t, "")
	leaf.Configure(fmt.Sprintf(`server_name: leaf
		jetstream { store_dir: %q, domain: leaf }
		leafnodes { remotes [ { url: "nats://127.0.0.1:%d" } ] }`, leaf.Dir+"/store", leafPort))
	leaf.Start()
	nc := connect(t, hub)
	createStream(t, jetStream(t, nc), asTheBridgeWould)
	// Of the hub's own history: its sequences are not the leaf's.
	for i := range 10 {
		must(t, nc.Publish(fmt.Sprintf("iface.other%d.new", i), []byte("{}")))
	}
	harness.Flush(t, nc)
	link := upLink(t, k)
	b := bridge(t, leaf, "IFACE_RESYNC=1s")
	b.Says("another stream stores what is published here, too; its acknowledgments are not ours")
	const changes = 300
	changesAcrossKill(t, k, link, leaf, changes)
	f := settled(t, leaf)
	holds(t, leaf)
	if f.Replay.Notifications < changes {
		t.Errorf("the events stand for %d notifications of %d", f.Replay.Notifications, changes)
	}
	if strings.Contains(b.Output(), "standing by") || strings.Contains(b.Output(), "beginning a new epoch") {
		t.Error("the hub's answers were taken for the leaf's")
	}
}

// A stream that takes small messages gets events that are cut, and say so, also when it
// takes less than before under a running bridge; when it takes more, they are whole.
func TestLargeEventsOfASmallStream(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	nc := connect(t, s)
	js := jetStream(t, nc)
	limit := func(bytes int32) {
		t.Helper()
		limited := operatorStream(func(c *jetstream.StreamConfig) { c.MaxMsgSize = bytes })
		_, err := js.UpdateStream(t.Context(), *limited)
		must(t, err)
	}
	createStream(t, js, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 3000 })
	link := upLink(t, k)
	r := record(t, s)
	b := bridge(t, s)
	b.Says("takes messages of up to 3000 bytes (max_msg_size)")
	for i := range 30 {
		must(t, k.AddAltName(link, fmt.Sprintf("%d%s", i, strings.Repeat("x", 100))))
	}
	until := func(alias string, truncated bool) {
		t.Helper()
		must(t, k.SetAlias(link, alias))
		e := r.Until(0, alias, func(e *schema.Event) bool {
			return e.Link.Alias == alias && e.Truncated.Has("altnames") == truncated
		})
		if (e.Link.Alt == "") != truncated {
			t.Errorf("%s: the names are %q", alias, e.Link.Alt)
		}
	}
	until("small", true)
	limit(2200) // it finds out by a refusal
	until("smaller", true)
	limit(-1)
	s.Kill() // it finds out on the next connection
	s.Start()
	eventually(t, "a new look", func() bool { return strings.Contains(b.Output(), "connected to NATS again") })
	eventually(t, "the names are there", func() bool {
		must(t, k.SetAlias(link, fmt.Sprint("large", time.Now().UnixNano())))
		events := stored(t, nc, "IFACE")
		return events[len(events)-1].Link.Alt != ""
	})
	settled(t, s)
	if n := b.Metric("ifacebridge_events_given_up_total"); n != 0 {
		t.Errorf("%v events were given up", n)
	}
}

// manyLinks makes so many links besides.
func manyLinks(t *testing.T, k *netnstest.Kernel, n int) {
	t.Helper()
	for i := range n {
		_, err := k.Add(fmt.Sprintf("link%03d", i), 0, netnstest.Kind{Name: "ifb"})
		must(t, err)
	}
}

// A bucket that forgets keys keeps those of links that are there.
func TestBucketWithTTL(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	nc := connect(t, s)
	js := jetStream(t, nc)
	const ttl = 6 * time.Second
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "iface_links", TTL: ttl})
	must(t, err)
	link := upLink(t, k)
	b := bridge(t, s)
	b.Says("forgets keys after 6s (max_age, its TTL)")
	holds(t, s)
	time.Sleep(ttl) // so that what was put at first is forgotten
	looks, whole := 0, 0
	for end := time.Now().Add(ttl); looks == 0 || time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if looks++; len(bucketOf(t, nc, "iface_links")) == 3 {
			whole++
		}
	}
	if whole <= looks/2 { // a bridge that stands still for long enough loses them for a moment
		t.Errorf("the bucket holds all links at %d of %d looks", whole, looks)
	}
	holds(t, s)
	must(t, k.Delete(link))
	holds(t, s)
}

// A bucket whose keys cannot be purged has those of links that have gone deleted.
func TestBucketWithoutPurges(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "KV_iface_links", Subjects: []string{"$KV.iface_links.>"},
		MaxMsgsPerSubject: 1, AllowDirect: true, DenyPurge: true,
	})
	must(t, err)
	link := upLink(t, k)
	bridge(t, s)
	holds(t, s)
	must(t, k.Delete(link))
	holds(t, s)
}

// A bucket that takes small values has them cut; a link of which the value is too large all
// the same is not there, which is logged, and links asks the bridge for it.
func TestBucketOfSmallValues(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "iface_links", MaxValueSize: 1300})
	must(t, err)
	link := upLink(t, k)
	b := bridge(t, s)
	b.Says("takes messages of up to 1300 bytes (max_msg_size)")
	holds(t, s)
	for i := range 20 {
		must(t, k.AddAltName(link, fmt.Sprintf("%d%s", i, strings.Repeat("x", 100))))
	}
	eventually(t, "the value is cut", func() bool {
		e := bucket(t, s, "iface_links")[fmt.Sprint("test.", link)]
		return e.Truncated.Has("altnames")
	})
	eventually(t, "the bucket has followed", func() bool { return b.Metric("ifacebridge_bucket_behind_keys") == 0 })
	settled(t, s)
}

// With the limit of a bucket raised, as we advise, what it had cut is whole, and what it lacked is there, at the next
// comparison: nothing else has to come.
func TestBucketLimitIsRaised(t *testing.T) {
	k := netnstest.Parallel(t)
	name := "large-" + strings.Repeat("x", 240) // in each of its events, and not to be left out
	named(t, name)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "iface_links", MaxValueSize: 940})
	must(t, err)
	link := upLink(t, k)
	for i := range 20 {
		must(t, k.AddAltName(link, fmt.Sprintf("%d%s", i, strings.Repeat("x", 100))))
	}
	b := bridge(t, s, "IFACE_NETNS=self,large-*", "IFACE_RESYNC=1s")
	b.Says("a link's state is larger than the bucket takes, and is not in it")
	cut := func() bool {
		e, there := bucket(t, s, "iface_links")[fmt.Sprint("test.", link)]
		return there && e.Truncated.Has("altnames")
	}
	eventually(t, "the value is cut", cut)
	stream, err := js.Stream(t.Context(), "KV_iface_links")
	must(t, err)
	cfg := stream.CachedInfo().Config
	cfg.MaxMsgSize = -1
	_, err = js.UpdateStream(t.Context(), cfg)
	must(t, err)
	eventually(t, "the value is whole", func() bool { return !cut() })
	eventually(t, "nothing is lacking", func() bool { return b.Metric("ifacebridge_bucket_behind_keys") == 0 })
	settled(t, s)
}

// A stream that is set to take batches, as we advise, gets them from the next comparison on.
func TestStreamLearnsToTakeBatches(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	cfg := jetstream.StreamConfig{Name: "IFACE", Subjects: []string{"iface.*.*"}, AllowDirect: true}
	stream, err := js.CreateStream(t.Context(), cfg)
	must(t, err)
	link := upLink(t, k)
	b := bridge(t, s, "IFACE_RESYNC=1s")
	b.Says("nats stream edit IFACE --allow-batch -f")
	holds(t, s)
	cfg.AllowAtomicPublish = true
	_, err = js.UpdateStream(t.Context(), cfg)
	must(t, err)
	eventually(t, "events come in batches", func() bool {
		for i := range 20 {
			must(t, k.SetAlias(link, fmt.Sprint(i)))
		}
		last, err := stream.GetLastMsgForSubject(t.Context(), "iface.test.*")
		return err == nil && last.Header.Get("Nats-Batch-Id") != ""
	})
	settled(t, s)
}

// An account that the user may not ask about is not looked at, and holds up nothing: the stream
// is made all the same.
func TestAccountMayNotBeAsked(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, `authorization { users = [
		{ user: bridge, password: bridge, permissions: { publish: { deny: "$JS.API.INFO" } } } ] }`)
	b := bridge(t, s, "NATS_USER=bridge", "NATS_PASSWORD=bridge")
	b.Says("created the stream")
	b.Ready()
}

// A bucket that is full lacks links: that is logged and known to doctor, and links, which
// asks the bridge, prints all of them. With room the bucket has them.
func TestFullBucket(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "iface_links", MaxBytes: 20000})
	must(t, err)
	manyLinks(t, k, 100)
	b := bridge(t, s)
	b.Says("cannot put link states into the bucket; events are not affected")
	b.Says("nats kv edit iface_links --max-bucket-size=-1")
	full := time.Now()
	for tick := time.Tick(20 * time.Millisecond); time.Since(full) < time.Second; <-tick { // also while it tries again
		if _, metrics := get(t, "/metrics"); strings.Contains(metrics, "\nifacebridge_bucket_behind_keys 0\n") {
			t.Fatal("nothing is said to be lacking")
		}
	}
	eventually(t, "ready, since it may be over soon", func() bool { status, _ := get(t, "/readyz"); return status == 200 })
	eventually(t, "the presence says so, by which links goes", func() bool {
		p, _ := hostsOf(t, js, "test")
		return p != nil && p.BucketBehind > 0
	})
	env := []string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}
	for _, args := range [][]string{{"links"}, {"links", "test"}} {
		eventually(t, "links prints all links", func() bool {
			links := start(t, env, args...)
			status := links.Wait()
			n := strings.Count(links.Output(), "test  ")
			if status == 0 && n != 101 {
				t.Fatalf("links prints %d links of 101, with exit status 0", n)
			}
			return status == 0
		})
	}
	said := doctor(t, env, 1, "FAIL  bucket").Output()
	if lasting := duration(t, "IFACE_TEST_STALL", 0); lasting > 2*time.Minute {
		const behind = "the bucket has not followed for 2m"
		eventually(t, "/readyz says that the bucket is behind", func() bool {
			status, ready := get(t, "/readyz")
			return status == 503 && strings.HasPrefix(ready, behind) && strings.Contains(ready, "--max-bucket-size=-1")
		})
		t.Logf("/readyz says so after %v, 2m are meant", time.Since(full).Round(time.Second))
	}
	runPrinted(t, s, said)
	holds(t, s)
	b.Says("the bucket follows again")
	eventually(t, "ready", func() bool { status, _ := get(t, "/readyz"); return status == 200 })
}

// An event that fits nowhere, whatever is left out of it, is given up alone: that is logged and
// counted, and its number is missing in the stream. What follows is stored, in order; the
// bucket, and who asks the bridge, have what it told; doctor names the limit; and nothing is
// held up, so that the bridge is ready. With the limit gone such events are stored.
func TestEventIsGivenUp(t *testing.T) {
	k := netnstest.Parallel(t)
	own, _, err := k.AddVeth("veth0", "veth1")
	must(t, err)
	name := "given-" + strings.Repeat("x", 240) // in each of its events, and not to be left out
	far := named(t, name)
	eth0, err := far.Index("eth0")
	must(t, err)
	s := natstest.Start(t, "")
	nc := connect(t, s)
	js := jetStream(t, nc)
	_, err = js.CreateStream(t.Context(), *operatorStream(func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1600 }))
	must(t, err)
	env := []string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "IFACE_NETNS=self,given-*"}
	began := time.Now()
	b := start(t, env)
	b.Says("an event is larger than NATS takes, and is given up; its number is missing in the stream")
	given := func() int { return int(b.Metric("ifacebridge_events_given_up_total")) }
	eventually(t, "all of the namespace is given up", func() bool { return given() == 3 })
	for _, text := range []string{
		"larger than the 1", // 1600 without what the headers take
		`advice="raise max_payload on the server, and max_msg_size of the stream"`,
	} {
		b.Says(text)
	}
	c := startConsumer(t, s, fleet.FromStream)

	const rounds = 10
	for i := range rounds { // the name is what is never left out
		must(t, far.SetAlias(eth0, fmt.Sprint("far ", i)))
		must(t, k.Rename(own, fmt.Sprint("own", i)))
	}
	// Between two namespaces there is no order: what the last of all has in front of it is known.
	eventually(t, "all changes in the namespace are given up", func() bool { return given() == 3+rounds })
	must(t, k.Rename(own, fmt.Sprint("own", rounds)))
	var events []schema.Event
	eventually(t, "the last event is stored", func() bool {
		events = stored(t, nc, "IFACE")
		return events[len(events)-1].Link.Name == fmt.Sprint("own", rounds)
	})
	renamed, seq, lost := 0, uint64(0), uint64(0) // the last that is missing
	for i := range events {
		e := &events[i]
		if e.Netns != "" || e.Seq <= seq || e.Epoch != events[0].Epoch {
			t.Fatalf("after seq %d: %s", seq, e.AppendJSON(nil))
		}
		if e.Seq > seq+1 {
			lost = e.Seq - 1
		}
		if seq = e.Seq; e.Link.Name == fmt.Sprint("own", renamed) {
			renamed++
		}
	}
	if renamed != rounds+1 {
		t.Errorf("%d of %d events are stored in order", renamed, rounds+1)
	}
	if missing := int(seq) - len(events); missing != given() || missing != 3+rounds {
		t.Errorf("of %d events %d are stored, and %d were given up", seq, len(events), given())
	}
	if n := strings.Count(b.Output(), "an event is larger than NATS takes"); n > 1+int(time.Since(began)/time.Minute) {
		t.Errorf("it is logged %d times in %v", n, time.Since(began))
	}

	eventually(t, "ready", func() bool { status, _ := get(t, "/readyz"); return status == 200 })
	if strings.Contains(b.Output(), "cannot publish") {
		t.Error("publishing was held up")
	}
	doctor(t, env, 0, "nats stream edit IFACE --max-msg-size=-1 -f",
		"takes messages of up to 1600 bytes (max_msg_size): of larger events some fields are left out (truncated)")
	eventually(t, "the bucket holds what was given up", func() bool {
		held := 0
		for _, e := range bucket(t, s, "iface_links") {
			if e.Netns == name && (e.Link.Index != eth0 || e.Seq == lost) {
				held++
			}
		}
		return held == 3
	})
	eventually(t, "a consumer of the stream has asked for it", func() bool {
		view := c.fleet.View()
		return len(view) == 1 && view[0].Whole && len(view[0].Links) == 6
	})

	_, err = js.UpdateStream(t.Context(), *operatorStream(func(*jetstream.StreamConfig) {}))
	must(t, err)
	s.Kill() // it finds out on the next connection
	s.Start()
	b.Says("connected to NATS again")
	eventually(t, "such an event is stored", func() bool {
		must(t, far.SetAlias(eth0, fmt.Sprint("mended ", time.Now().UnixNano())))
		events = stored(t, nc, "IFACE")
		last := events[len(events)-1]
		return last.Netns == name && strings.HasPrefix(last.Link.Alias, "mended ")
	})
}

// A snapshot is over when its last event was given up: who then asks for the next gets it,
// although no other event has come.
func TestSnapshotEndsWithAnEventThatIsGivenUp(t *testing.T) {
	k := netnstest.Parallel(t)
	_, _, err := k.AddVeth("veth0", "veth1")
	must(t, err)
	named(t, "last-"+strings.Repeat("x", 240)) // as above; told behind the bridge's own namespace
	s := natstest.Start(t, "")
	nc := connect(t, s)
	createStream(t, jetStream(t, nc), func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1600 })
	b := start(t, []string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "IFACE_NETNS=self,last-*"})
	eventually(t, "all of the namespace is given up", func() bool {
		return b.Metric("ifacebridge_events_given_up_total") == 3
	})
	eventually(t, "a snapshot on request", func() bool { // from when the bridge has subscribed
		reply, err := nc.Request("ifacebridge.test.snapshot", nil, harness.Patience)
		return err == nil && reply.Header.Get(micro.ErrorCodeHeader) == ""
	})
}
