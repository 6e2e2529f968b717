package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"golang.org/x/sys/unix"

	"ifacebridge/fleet"
	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// The query service, in both deliveries: the links as they are, the place in the
// events that this is true at, in pages that fit the server's payload limit, and
// what it says of itself.
func TestQuery(t *testing.T) {
	t.Parallel()
	for _, delivery := range []string{"jetstream", "core"} {
		t.Run(delivery, func(t *testing.T) {
			k := netnstest.Parallel(t)
			s := natstest.Start(t, "max_payload: 8192")
			for i := range 30 {
				_, _, err := k.AddVeth(fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i))
				must(t, err)
			}
			nc := connect(t, s)
			r := record(t, s)
			b := bridge(t, s, "IFACE_DELIVERY="+delivery, "IFACE_HOST=web01.example.com")
			r.Snapshot()
			ask := func(request string) *nats.Msg {
				t.Helper()
				var reply *nats.Msg
				eventually(t, "an answer", func() bool {
					var err error
					reply, err = nc.Request("ifacebridge.web01_example_com.links", []byte(request), time.Second)
					return err == nil && reply.Header.Get(micro.ErrorCodeHeader) != "503"
				})
				return reply
			}
			var pages []schema.Links
			for request := ""; ; {
				reply := ask(request)
				if len(reply.Data) > 8192 {
					t.Errorf("a page has %d bytes", len(reply.Data))
				}
				var page schema.Links
				must(t, json.Unmarshal(reply.Data, &page))
				if page.Schema != "iface.v1" || page.Host != "web01.example.com" {
					t.Errorf("page %d is of %s, schema %s", len(pages), page.Host, page.Schema)
				}
				pages = append(pages, page)
				if page.Next == "" {
					break
				}
				if len(pages) == 1 { // the state goes on; the answer does not
					index, err := k.Index("a0")
					must(t, err)
					must(t, k.SetUint32(index, unix.IFLA_MTU, 1400))
					r.Until(0, "the change", func(e *schema.Event) bool { return e.Link.MTU.Or(0) == 1400 })
				}
				request = fmt.Sprintf(`{"next":%q}`, page.Next)
			}
			if len(pages) < 3 {
				t.Errorf("got %d pages", len(pages))
			}
			links := map[int32]schema.Link{}
			for i, page := range pages {
				if page.Seq != pages[0].Seq || page.Epoch != pages[0].Epoch {
					t.Errorf("page %d is true at %s-%d, page 0 at %s-%d", i, page.Epoch, page.Seq, pages[0].Epoch, pages[0].Seq)
				}
				for _, l := range page.Links {
					links[l.Link.Index] = l.Link
				}
			}
			if len(links) != 61 {
				t.Errorf("got %d links", len(links))
			}
			for _, e := range r.Since(0) { // what comes behind the answer leads to the kernel's state
				if e.Seq > pages[0].Seq {
					links[e.Link.Index] = e.Link
				}
			}
			if _, diffs := sameAsIP(t, links); len(diffs) > 0 {
				t.Error(diffs)
			}

			for request, code := range map[string]string{`{"next":"gone"}`: "410", `nonsense`: "400"} {
				reply := ask(request)
				if got := reply.Header.Get(micro.ErrorCodeHeader); got != code {
					t.Errorf("%s: error %q %q, want %s", request, got, reply.Header.Get(micro.ErrorHeader), code)
				}
			}

			// What `nats micro ls`, info and stats show.
			var info micro.Info
			reply, err := nc.Request("$SRV.INFO.ifacebridge", nil, harness.Patience)
			must(t, err)
			must(t, json.Unmarshal(reply.Data, &info))
			for key, want := range map[string]string{"host": "web01.example.com", "token": "web01_example_com", "delivery": delivery, "epoch": pages[0].Epoch, "schema": "iface.v1"} {
				if info.Metadata[key] != want {
					t.Errorf("metadata %s is %q, want %q", key, info.Metadata[key], want)
				}
			}
			if len(info.Endpoints) != 2 || info.Endpoints[0].Subject != "ifacebridge.web01_example_com.links" ||
				info.Endpoints[1].Subject != "ifacebridge.web01_example_com.owner" {
				t.Errorf("endpoints: %+v", info.Endpoints)
			}
			var stats micro.Stats
			reply, err = nc.Request("$SRV.STATS.ifacebridge", nil, harness.Patience)
			must(t, err)
			must(t, json.Unmarshal(reply.Data, &stats))
			if data := string(stats.Endpoints[0].Data); !strings.Contains(data, `"overruns":0`) || !strings.Contains(data, `"links":61`) {
				t.Errorf("stats: %s", data)
			}
			b.Signal(unix.SIGTERM)
			b.Wait()
			eventually(t, "nobody answers", func() bool { // the server has to read that the connection ended
				_, err := nc.Request("ifacebridge.web01_example_com.links", nil, time.Second)
				return errors.Is(err, nats.ErrNoResponders)
			})
		})
	}
}

// A consumer in plain NATS that missed the last event before a silence finds out,
// by the bridge's presence; and says when the bridge is quiet, and back.
func TestFleetPresence(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	b := bridge(t, s, "IFACE_DELIVERY=core")
	nc := connect(t, s)
	f, err := fleet.New(nc, fleet.Options{Join: fleet.FromQuery, Presence: 200 * time.Millisecond})
	must(t, err)
	changes := make(chan fleet.Change, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, func(c fleet.Change) { changes <- c }) }()
	defer func() { cancel(); must(t, <-done) }()
	until := func(kind fleet.Kind) fleet.Change {
		t.Helper()
		for deadline := time.After(harness.Patience); ; {
			select {
			case c := <-changes:
				if c.Kind == kind {
					return c
				}
			case <-deadline:
				t.Fatalf("not within %v: %v; the view is %+v", harness.Patience, kind, f.View())
			}
		}
	}
	until(fleet.Joined)
	catchesUp(t, f)
	// The consumer's connection is lost, silently, for one change.
	must(t, nc.ForceReconnect())
	a, err := k.Add("ghost", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	eventually(t, "the link is known", func() bool {
		v := f.View()
		return len(v) == 1 && v[0].Whole && len(v[0].Links) == 2 && v[0].Links[1].Link.Index == a
	})
	b.Kill()
	if c := until(fleet.Quiet); c.Host != "test" {
		t.Errorf("%s is quiet", c.Host)
	}
	eventually(t, "the view says so", func() bool { return f.View()[0].Quiet }) // on a busy machine it may have been quiet before
	must(t, k.Delete(a))
	bridge(t, s, "IFACE_DELIVERY=core")
	until(fleet.Back)
	eventually(t, "the link is gone", func() bool { v := f.View(); return v[0].Whole && !v[0].Quiet && len(v[0].Links) == 1 })
}

// hostsBucket makes the bucket of hosts, which marks those that fall silent.
func hostsBucket(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "iface_hosts", LimitMarkerTTL: time.Hour})
	must(t, err)
}

// catchesUp waits until a fleet has caught up.
func catchesUp(t testing.TB, f *fleet.Fleet) {
	t.Helper()
	select {
	case <-f.CaughtUp():
	case <-time.After(harness.Patience):
		t.Fatalf("not caught up within %v; the view is %+v", harness.Patience, f.View())
	}
}

// The roll that is called while the connection is lost is called again soon, although the
// bucket of hosts, which is read by then, has nobody else to ask.
func TestFleetIsJoinedWhileNATSIsAway(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	hostsBucket(t, jetStream(t, connect(t, s)))
	s.Kill()
	c := startConsumer(t, s, fleet.FromQuery)
	s.Start()
	catchesUp(t, c.fleet)
}

// A connection that nats.go has given up is closed for good: who follows a fleet, or reads its
// past, with it is told so, however the fleet was joined.
func TestFleetEndsWithItsConnection(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	bridge(t, s)
	holds(t, s)
	ends := func(what string, done <-chan error) {
		t.Helper()
		select {
		case err := <-done:
			if !errors.Is(err, nats.ErrConnectionClosed) {
				t.Errorf("%s ended with %v", what, err)
			}
		case <-time.After(harness.Patience):
			t.Fatalf("%s has not ended within %v", what, harness.Patience)
		}
	}
	past := func(nc *nats.Conn, each func(*schema.Event)) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := fleet.Past(t.Context(), nc, fleet.Options{Ago: time.Hour}, 1<<20, each)
			done <- err
		}()
		return done
	}
	publishMany(t, jetStream(t, connect(t, s)))
	nc := connect(t, s)
	ends("the past that is being read", past(nc, func(*schema.Event) { nc.Close() }))
	ends("the past", past(nc, func(*schema.Event) {}))

	followers := map[fleet.Join]<-chan error{}
	for join := range fleet.Join(3) {
		nc := harness.ConnectTo(t, s.URL, nats.MaxReconnects(1))
		done := make(chan error, 1)
		followers[join] = done
		f, err := fleet.New(nc, fleet.Options{Join: join, Presence: time.Second})
		must(t, err)
		go func() { done <- f.Run(t.Context(), func(fleet.Change) {}) }()
		catchesUp(t, f)
	}
	s.Kill()
	for join, done := range followers {
		ends("a fleet from the "+join.String(), done)
	}
	f, err := fleet.New(nc, fleet.Options{})
	must(t, err)
	ends("a fleet", func() <-chan error {
		done := make(chan error, 1)
		go func() { done <- f.Run(t.Context(), func(fleet.Change) {}) }()
		return done
	}())
}

// Who stops following a fleet does not wait until nats.go has made a consumer again, while
// JetStream does not answer.
func TestFleetEndsWhileJetStreamIsMute(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	bridge(t, s)
	holds(t, s)
	api := connect(t, s)
	var mute atomic.Bool
	asked := make(chan string, 1000)
	_, err := api.Subscribe("MUTE.API.>", func(m *nats.Msg) {
		if mute.Load() {
			asked <- m.Subject
			return
		}
		m.Subject = "$JS." + strings.TrimPrefix(m.Subject, "MUTE.")
		if err := api.PublishMsg(m); err != nil {
			t.Error(err)
		}
	})
	must(t, err)
	harness.Flush(t, api)
	takes := func() time.Duration {
		mute.Store(false)
		for len(asked) > 0 {
			<-asked
		}
		nc := connect(t, s)
		f, err := fleet.New(nc, fleet.Options{JetStreamAPI: "MUTE.API"})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx, func(fleet.Change) {}) }()
		catchesUp(t, f)
		mute.Store(true)
		must(t, nc.ForceReconnect())
		for subject := ""; !strings.HasPrefix(subject, "MUTE.API.CONSUMER.CREATE.IFACE."); {
			subject = <-asked
		}
		began := time.Now()
		cancel()
		must(t, <-done)
		return time.Since(began)
	}
	const short = 9 * time.Second // nats.go waits 10 s for an answer
	took := takes()
	for try := 0; took > short && try < 2; try++ { // the machine may have stood still
		took = takes()
	}
	if took > short {
		t.Errorf("it took %v", took)
	}
}

// A bridge that does not answer is waited for only until the bucket of hosts has its host for
// silent.
func TestFleetDoesNotWaitForSilentHosts(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	hostsBucket(t, js)
	// When it has expired before the fleet reads the bucket, which a busy machine may be too slow
	// for, nobody is waited for: then once more, with longer.
	for ttl := 3; ; ttl *= 4 {
		data, err := json.Marshal(schema.Presence{
			Schema: schema.Name, Host: "dead", BootID: "b", Epoch: "e", Seq: 7, Prefix: schema.DefaultPrefix, TTL: ttl,
		})
		must(t, err)
		m := nats.NewMsg("$KV.iface_hosts.dead")
		m.Data = data
		m.Header.Set("Nats-TTL", fmt.Sprint(ttl))
		_, err = js.PublishMsg(t.Context(), m)
		must(t, err)
		c := startConsumer(t, s, fleet.FromQuery)
		catchesUp(t, c.fleet)
		v := c.fleet.View()
		if len(v) == 1 && v[0].Quiet {
			return
		}
		if len(v) > 0 || ttl > 30 {
			t.Fatalf("the view is %+v", v)
		}
	}
}

// A consumer of the bucket, when the bucket is deleted and made anew while a link
// goes that nobody says anything about: it is not shown any more.
func TestFleetBucketMadeAnew(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a, err := k.Add("ghost", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	b := bridge(t, s)
	holds(t, s)
	nc := connect(t, s)
	f, err := fleet.New(nc, fleet.Options{Join: fleet.FromBucket, Presence: 200 * time.Millisecond})
	must(t, err)
	gone := make(chan int32, 10)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- f.Run(ctx, func(c fleet.Change) {
			if c.Kind == fleet.Gone {
				gone <- c.Event.Link.Index
			}
		})
	}()
	defer func() { cancel(); must(t, <-done) }()
	catchesUp(t, f)
	b.Signal(unix.SIGTERM)
	b.Wait()
	js := jetStream(t, nc)
	must(t, js.DeleteKeyValue(context.Background(), "iface_links"))
	must(t, k.Delete(a))
	bridge(t, s)
	select {
	case index := <-gone:
		if index != a {
			t.Errorf("link %d is gone, want %d", index, a)
		}
	case <-time.After(harness.Patience):
		t.Fatalf("nothing is gone; the view is %+v", f.View())
	}
	eventually(t, "the view is whole", func() bool {
		v := f.View()
		return len(v) == 1 && len(v[0].Links) == 1 && v[0].Whole
	})
}

// A fleet that subscribes anew every now and then misses nothing of what is published meanwhile.
func TestSubscribingAnew(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	r := read(t, s.URL, fleet.Options{Join: fleet.FromQuery, Presence: 100 * time.Millisecond})
	nc := connect(t, s)
	e := schema.Event{Host: "h", Epoch: "e", Kind: schema.New}
	publish := func() {
		e.Seq++
		must(t, nc.Publish("iface.h.new", e.AppendJSON(nil)))
	}
	eventually(t, "it has subscribed", func() bool { publish(); return r.host("h") != nil })
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
		publish()
	}
	eventually(t, "all is read", func() bool { return r.host("h").Seq == e.Seq })
	if h := r.host("h"); h.Gaps > 0 {
		t.Errorf("%d gaps in %d events", h.Gaps, h.Seq)
	}
}
