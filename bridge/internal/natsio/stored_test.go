package natsio

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/config"
	"ifacebridge/test/natstest"
)

// What is answered to something else, which a machine has asked that goes on from the same saved
// memory, is not taken for what is stored.
func TestStoredIsAMessage(t *testing.T) {
	s := natstest.Start(t, "")
	nc, _ := s.Connect(t)
	cfg := &config.Config{Prefix: "iface", Token: "web01", Stream: "IFACE", JSAPI: "none"} // no server answers there
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answers := make(chan string, 1)
	if _, err := nc.Subscribe(cfg.API()+".STREAM.MSG.GET.IFACE", func(m *nats.Msg) {
		_ = m.Respond([]byte(<-answers))
	}); err != nil {
		t.Fatal(err)
	}
	for _, answer := range []string{
		`{"stream":"IFACE","seq":9}`,
		`{"type":"io.nats.jetstream.api.v1.stream_info_response","config":{"name":"IFACE"}}`,
	} {
		answers <- answer
		if m, err := LastStored(ctx, nc, cfg); err == nil {
			t.Errorf("%s is taken for %+v", answer, m)
		}
	}
	answers <- `{"type":"io.nats.jetstream.api.v1.stream_msg_get_response",` +
		`"message":{"subject":"iface.web01.new","seq":9}}`
	if m, err := LastStored(ctx, nc, cfg); err != nil || m == nil || m.Seq != 9 {
		t.Errorf("got %+v, %v", m, err)
	}
}
