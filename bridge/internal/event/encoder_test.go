package event_test

import (
	"strings"
	"testing"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/linktest"
	"ifacebridge/schema"
)

// An event that was encoded for a server that takes more is encoded again, with
// its place, and says what it left out.
func TestEncoderFits(t *testing.T) {
	limit := int64(0)
	enc := event.NewEncoder(
		config.Config{Prefix: "iface", Token: "h"},
		event.Identity{},
		func() int64 { return limit },
	)
	enc.Begin("one", 6)
	enc.Reset()
	l := linktest.Link(1, "a")
	l.Alias, l.Alt = "kept", schema.MakeAltNames(strings.Repeat("x", 4000))
	enc.AddEvent(&schema.Event{Kind: schema.New, Action: schema.Created, Link: l})
	limit = 4096
	enc.Fit(enc.Batch)
	var e schema.Event
	if err := e.UnmarshalJSON(enc.Batch[0].Data); err != nil {
		t.Fatal(err)
	}
	if len(enc.Batch[0].Data) > 4096 || e.ID() != "one-7" || !e.Truncated.Has("altnames") || e.Link.Alias != "kept" ||
		e.Link.Alt != "" {
		t.Errorf("got %s", enc.Batch[0].Data)
	}
	if got := string(enc.Batch[0].Data[enc.Batch[0].LinkAt:]); !strings.HasPrefix(got, `{"ifindex":1,`) {
		t.Errorf("the link begins with %.20s", got)
	}
}
