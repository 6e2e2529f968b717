package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"ifacebridge/schema"
	"ifacebridge/test/natstest"
	"ifacebridge/test/schematest"
)

// Bucket returns the last event of each link that the bucket holds, by key.
func Bucket(t testing.TB, s *natstest.Server, name string) map[string]schema.Event {
	t.Helper()
	nc := Connect(t, s)
	defer nc.Close() // it is asked again and again, by those who wait for something
	return BucketOf(t, nc, name)
}

// BucketOf is Bucket over a connection of the caller's.
func BucketOf(t testing.TB, nc *nats.Conn, name string) map[string]schema.Event {
	t.Helper()
	js := JetStream(t, nc)
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	held := map[string]schema.Event{}
	kv, err := js.KeyValue(ctx, name)
	if err != nil {
		return held
	}
	keys, err := kv.Keys(ctx)
	if err != nil {
		return held
	}
	for _, key := range keys {
		entry, err := kv.Get(ctx, key)
		if err != nil {
			continue // gone meanwhile
		}
		schematest.Validate(t, entry.Value())
		var e schema.Event
		Must(t, json.Unmarshal(entry.Value(), &e))
		held[key] = e
	}
	return held
}

// Holds waits until the bucket holds exactly the links of the kernel.
func Holds(t testing.TB, s *natstest.Server) {
	t.Helper()
	var diffs []string
	defer func() {
		if t.Failed() {
			t.Log(first(diffs))
		}
	}()
	nc := Connect(t, s)
	Eventually(t, "the bucket holds the kernel's links", func() bool {
		links := map[int32]schema.Link{}
		for key, e := range BucketOf(t, nc, "iface_links") {
			if key != fmt.Sprintf("test.%d", e.Link.Index) {
				t.Fatalf("key %s holds link %d", key, e.Link.Index)
			}
			links[e.Link.Index] = e.Link
		}
		_, diffs = SameAsIP(t, links)
		return len(diffs) == 0
	})
}
