package test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
	"ifacebridge/test/schematest"
)

// The bucket follows the stream. What vanished while the bridge was down gets its
// del, with cause resync, before the snapshot; and a bucket that was purged,
// deleted, or holds something else, heals while the bridge runs and when it starts.
func TestBucket(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a, peer, err := k.AddVeth("veth0", "veth1")
	must(t, err)
	gone, err := k.Add("gone", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	reused, err := k.Add("reused", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	must(t, k.Up(a, peer))
	b := bridge(t, s, "IFACE_RESYNC=300ms")
	holds(t, s)
	for i := range 300 {
		must(t, k.SetAlias(a, fmt.Sprint(i)))
	}
	holds(t, s)

	b.Kill()
	must(t, k.Delete(gone))
	must(t, k.Delete(reused))
	_, err = k.Add("another", reused, netnstest.Kind{Name: "bridge"})
	must(t, err)
	before := len(stored(t, connect(t, s), "IFACE"))
	bridge(t, s, "IFACE_RESYNC=300ms")
	holds(t, s)
	events := stored(t, connect(t, s), "IFACE")[before:]
	var story []string
	for _, e := range events[:2] {
		story = append(story, fmt.Sprintf("%d %v %v %v %s", e.Seq, e.Kind, e.Action, e.Cause, e.Link.Name))
	}
	slices.Sort(story)
	if got, want := strings.Join(story, "; "), "1 del deleted resync gone; 2 del deleted resync reused"; got != want {
		t.Errorf("the epoch begins with %s, want %s", got, want)
	}
	if e := events[2]; e.Snapshot.Pos != 1 || int(e.Snapshot.Of) != len(events)-2 {
		t.Errorf("then comes %s", e.AppendJSON(nil))
	}

	// Purged, deleted, and filled with something else, under a running bridge.
	js := jetStream(t, connect(t, s))
	ctx := context.Background()
	stream, err := js.Stream(ctx, "KV_iface_links")
	must(t, err)
	must(t, stream.Purge(ctx))
	holds(t, s)
	must(t, js.DeleteKeyValue(ctx, "iface_links"))
	holds(t, s)
	kv, err := js.KeyValue(ctx, "iface_links")
	must(t, err)
	wrong := events[len(events)-1]
	wrong.Link.Index, wrong.Link.Alias = a, "not what it is"
	_, err = kv.Put(ctx, fmt.Sprintf("test.%d", a), wrong.AppendJSON(nil))
	must(t, err)
	ghost := events[0]
	ghost.Link.Index = 4711
	_, err = kv.Put(ctx, "test.4711", ghost.AppendJSON(nil))
	must(t, err)
	holds(t, s)
}

// After a reboot every link is another, whatever its index: all that was
// published before gets its del.
func TestReboot(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	index, err := k.Add("survivor", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	b := bridge(t, s)
	holds(t, s)
	b.Signal(unix.SIGTERM)
	b.Wait()
	// The other boot: what the bridge left, under another boot id.
	js := jetStream(t, connect(t, s))
	kv, err := js.KeyValue(context.Background(), "iface_links")
	must(t, err)
	for key, e := range bucket(t, s, "iface_links") {
		e.BootID = "another-boot"
		_, err := kv.Put(context.Background(), key, e.AppendJSON(nil))
		must(t, err)
	}
	r := record(t, s)
	bridge(t, s)
	r.Snapshot()
	dels := map[int32]bool{}
	for _, e := range r.Since(0) {
		if e.Kind == schema.Del {
			dels[e.Link.Index] = e.Cause == schema.Resync && e.Snapshot.Of == 0
		}
	}
	if want := map[int32]bool{1: true, index: true}; !maps.Equal(dels, want) {
		t.Errorf("got dels of %v, want %v", dels, want)
	}
	holds(t, s)
}

// A bucket that holds more than one answer of the server does is read to its end: each
// link that is not there any more gets its del, keys that were deleted none. So it is when the
// answers together take longer than one may.
func TestBucketOfManyLinks(t *testing.T) {
	t.Run("near", func(t *testing.T) { bucketOfManyLinks(t, 0) })
	t.Run("far", func(t *testing.T) { bucketOfManyLinks(t, 250*time.Millisecond) })
}

func bucketOfManyLinks(t *testing.T, delay time.Duration) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js, err := jetstream.New(connect(t, s), jetstream.WithPublishAsyncMaxPending(1000),
		jetstream.WithDefaultTimeout(30*time.Second))
	must(t, err)
	ctx := context.Background()
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "iface_links"})
	must(t, err)
	const links, deleted = 2600, 20
	for i := range links {
		e := schema.Event{Host: "test", BootID: "before", Epoch: "before", Seq: uint64(i + 1), Time: time.Now(), Kind: schema.New, Action: schema.Created, Cause: schema.Notification,
			Link: schema.Link{Index: int32(i + 1000), Name: fmt.Sprint("gone", i)}}
		data := e.AppendJSON(nil)
		if i == 0 { // the bucket is read below while these are there
			schematest.Validate(t, data)
		}
		_, err := js.PublishAsync(fmt.Sprint("$KV.iface_links.test.", e.Link.Index), data)
		must(t, err)
		if i%500 == 499 { // else it is refused when the server is slow
			<-js.PublishAsyncComplete()
		}
	}
	<-js.PublishAsyncComplete()
	for i := range deleted {
		must(t, kv.Purge(ctx, fmt.Sprint("test.", 1000+i)))
	}
	r := record(t, s)
	began := time.Now()
	bridge(t, s, "NATS_URL="+harness.NetworkLink{Delay: delay}.Through(t, s))
	r.Snapshot()
	stream, err := js.Stream(ctx, "IFACE")
	must(t, err)
	t.Logf("%d links of before, the new snapshot stored after %v", links-deleted, stream.CachedInfo().State.LastTime.Sub(began).Round(time.Millisecond))
	dels := map[int32]int{}
	for _, e := range r.Since(0) {
		if e.Kind == schema.Del {
			dels[e.Link.Index]++
		}
	}
	if len(dels) != links-deleted || dels[1000+deleted] != 1 || dels[1000+links-1] != 1 {
		t.Errorf("%d links got their del, of %d", len(dels), links-deleted)
	}
	nc := connect(t, s)
	eventually(t, "the bucket holds what is there", func() bool { return len(bucketOf(t, nc, "iface_links")) == 1 })
}

// A bucket that may not be read directly is said to be so, with what to do.
func TestBucketWithoutDirectGets(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	cfg := jetstream.StreamConfig{Name: "KV_iface_links", Subjects: []string{"$KV.iface_links.>"}, MaxMsgsPerSubject: 1, AllowRollup: true}
	_, err := js.CreateStream(context.Background(), cfg)
	must(t, err)
	bridge(t, s).Says("nats stream edit KV_iface_links --allow-direct")
}

// A second bridge under the same name stands by while the first lives, says so, and goes
// on when that is gone; also when it hangs. The one that hung finds itself replaced and
// stands by.
func TestOneOwnerOthersStandBy(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a := upLink(t, k)
	first := bridge(t, s, "IFACE_RESYNC=500ms")
	first.Ready()
	allConfirmed(t, first)
	holds(t, s)
	second := bridge(t, s, "IFACE_RESYNC=500ms", "IFACE_HTTP_ADDR=127.0.0.1:9470")
	second.Says("standing by: another bridge publishes as this host")
	second.Says("serving /healthz")
	eventually(t, "/readyz of the one that stands by says so", func() bool {
		status, body := getAt(t, "127.0.0.1:9470", "/readyz")
		return status == 503 && strings.Contains(body, "standing by: another bridge publishes as this host")
	})
	must(t, k.SetAlias(a, "the first's"))
	holds(t, s)

	first.Signal(unix.SIGSTOP)
	stopped := time.Now()
	second.Says("publishing as this host again: the other bridge is gone")
	t.Logf("taken over %v after the first was stopped", time.Since(stopped).Round(time.Millisecond))
	must(t, k.SetAlias(a, "the second's"))
	holds(t, s)
	first.Signal(unix.SIGCONT)
	first.Says("standing by: another bridge publishes as this host")

	second.Kill()
	first.Says("publishing as this host again: the other bridge is gone")
	must(t, k.SetAlias(a, "the first's again"))
	holds(t, s)
	first.Signal(unix.SIGTERM)
	if status := first.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	epochs := map[string]bool{}
	events := stored(t, connect(t, s), "IFACE")
	for i := range events {
		epochs[events[i].Epoch] = true
	}
	replayAll(t, events)
	// One for each owner in turn; an owner that stalls for seconds is taken for gone, too.
	if n := len(epochs); n < 3 || n > 9 {
		t.Errorf("%d epochs of three owners", n)
	}
}

// getAt is get from another address than the default.
func getAt(t testing.TB, address, path string) (status int, body string) {
	t.Helper()
	resp, err := netnstest.Where(t).HTTP().Get("http://" + address + path)
	must(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(data)
}

// A stream that an operator made is used as it is, one that does not take our
// subjects is said so, and one without batches is written message by message.
func TestBringYourOwnStream(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	ctx := context.Background()
	cfg := jetstream.StreamConfig{Name: "OURS", Subjects: []string{"other.>"}, Storage: jetstream.MemoryStorage, MaxMsgs: 1000000}
	_, err := js.CreateStream(ctx, cfg)
	must(t, err)
	b := bridge(t, s, "IFACE_STREAM=OURS", "IFACE_RESYNC=500ms")
	b.Says("stream OURS takes [other.>], not iface.test.new")
	b.Says("add that subject to it, or name another stream in IFACE_STREAM")
	cfg.Subjects = append(cfg.Subjects, "iface.*.new", "iface.*.del")
	stream, err := js.UpdateStream(ctx, cfg)
	must(t, err)
	want := stream.CachedInfo().Config
	b.Says("publishing again")
	a := upLink(t, k)
	for i := range 100 {
		must(t, k.SetAlias(a, fmt.Sprint(i)))
	}
	holds(t, s)
	replayAll(t, stored(t, connect(t, s), "OURS"))
	stream, err = js.Stream(ctx, "OURS")
	must(t, err)
	if got := stream.CachedInfo().Config; fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("the stream was altered:\n got %+v\nwant %+v", got, want)
	}
}
