package delivery

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/schema"
)

// ordinary is a link with about all that the kernel tells of an ethernet device.
const ordinary = `{"ifindex":1000003,"ifname":"abcdefghijklmno","link_index":5,"link":"veth1",` +
	`"flags":["NO-CARRIER","BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,"qdisc":"noqueue","master":"br0",` +
	`"master_index":7,"operstate":"LOWERLAYERDOWN","linkmode":"DEFAULT","group":"default","txqlen":1000,` +
	`"link_type":"ether","address":"0e:86:8c:67:52:a0","broadcast":"ff:ff:ff:ff:ff:ff","link_netnsid":0,` +
	`"promiscuity":0,"allmulti":0,"min_mtu":68,"max_mtu":65535,"linkinfo":{"info_kind":"veth"},` +
	`"inet6_addr_gen_mode":"eui64","num_tx_queues":4,"num_rx_queues":4,"gso_max_size":65536,"gso_max_segs":65535,` +
	`"tso_max_size":524280,"tso_max_segs":65535,"gro_max_size":65536,"gso_ipv4_max_size":65536,` +
	`"gro_ipv4_max_size":65536,"carrier":false,"carrier_changes":1,"carrier_up_count":0,"carrier_down_count":1}`

// encoded returns an event of an ordinary link, cut to fit in room bytes.
func encoded(t *testing.T, cfg config.Config, room int64) event.Outgoing {
	t.Helper()
	id := event.Identity{Host: cfg.Host, BootID: strings.Repeat("b", 36)}
	enc := event.NewEncoder(cfg, id, func() int64 { return room })
	enc.Begin(strings.Repeat("e", 32), 1e6)
	enc.Reset()
	e := schema.Event{
		Host: cfg.Host, BootID: id.BootID, Time: time.Now(), Kind: schema.New, Action: schema.Existing,
		Cause: schema.SnapshotCause, Overruns: 1000, Snapshot: schema.Snapshot{Pos: 1000, Of: 1000},
	}
	if err := e.Link.UnmarshalJSON([]byte(ordinary)); err != nil {
		t.Fatal(err)
	}
	enc.AddEvent(&e)
	return enc.Batch[0]
}

// The smallest message and value that a stream and a bucket must take are those of an
// ordinary link of which everything is left out that may be.
func TestSmallestMessage(t *testing.T) {
	for _, host := range []string{"a", strings.Repeat("h", 64)} {
		cfg := config.Config{Host: host, Token: host, Prefix: "iface", Stream: "IFACE"}
		d := &jetStream{cfg: cfg, host: "iface." + host + ".*"}
		smallest := encoded(t, cfg, 1)
		if got, want := smallest.Size()+d.overhead(), natsio.SmallestMessage(&cfg); got > want || got < want-100 {
			t.Errorf("host %.3s: the smallest message has %d bytes, and %d are demanded", host, got, want)
		}
		if got, want := len(smallest.Data), natsio.SmallestValue(&cfg); got > want || got < want-100 {
			t.Errorf("host %.3s: the smallest value has %d bytes, and %d are demanded", host, got, want)
		}
	}
}

// What is kept for the headers of the fence and of a batch is what they take.
func TestOverhead(t *testing.T) {
	d := &jetStream{cfg: config.Config{Stream: "IFACE"}, host: "iface.web01.*", lastSeq: 1<<64 - 1}
	got := len(d.extra(nil, 0, event.MaxBatch, strings.Repeat("i", 37))) +
		len(d.extra(nil, event.MaxBatch-1, event.MaxBatch, "")) // the commit is another message's
	if want := d.overhead(); got > want || got < want-100 {
		t.Errorf("the headers take %d bytes, and %d are kept for them", got, want)
	}
}

// A batch ends before an event that no message can hold, and such an event is named when it
// is the first.
func TestFitting(t *testing.T) {
	cfg := config.Config{Host: "a", Token: "a"}
	small, large := encoded(t, cfg, 1), encoded(t, cfg, 0)
	batch, err := fitting([]event.Outgoing{small, large, small}, int64(small.Size()))
	if err != nil || len(batch) != 1 {
		t.Errorf("got %d events, %v", len(batch), err)
	}
	_, err = fitting([]event.Outgoing{large, small}, int64(small.Size()))
	var tooLarge *TooLargeError
	if !errors.As(err, &tooLarge) || !natsio.IsTooLarge(err) || natsio.Classify(err).Reason != natsio.TooLarge {
		t.Errorf("got %v", err)
	}
}

// answering is a server's side of an answer, without a server.
func answering(t *testing.T, elsewhere bool, texts ...string) (*acknowledgment, *answers, error) {
	t.Helper()
	a := newAnswers(nil, func(*acknowledgment) {})
	a.elsewhere = elsewhere
	a.read = func(context.Context) (*nats.Msg, error) {
		if len(texts) == 0 {
			return nil, context.DeadlineExceeded
		}
		m := &nats.Msg{Subject: "reply", Data: []byte(texts[0])}
		texts = texts[1:]
		return m, nil
	}
	ack, err := a.await(context.Background(), "reply", origin{"IFACE", "leaf"})
	return ack, a, err
}

// What counts is the answer of the stream that was looked up.
func TestAcknowledgmentsFromElsewhere(t *testing.T) {
	const (
		ours    = `{"stream":"IFACE","domain":"leaf","seq":7}`
		theirs  = `{"stream":"IFACE","domain":"hub","seq":99}`
		other   = `{"stream":"OTHER","domain":"leaf","seq":5}`
		refusal = `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 0"},"stream":"IFACE","seq":0}`
	)
	for _, tt := range []struct {
		answers   []string
		elsewhere bool
		seq       uint64
		code      jetstream.ErrorCode
		noticed   bool
	}{
		{answers: []string{ours}, seq: 7},
		{answers: []string{theirs, ours}, seq: 7, noticed: true},
		{answers: []string{other, ours}, seq: 7, noticed: true},
		{answers: []string{refusal, ours}, code: 10071},
		{answers: []string{refusal, ours}, elsewhere: true, seq: 7, noticed: true},
		{answers: []string{theirs, refusal}, code: 10071, noticed: true},
		{answers: []string{refusal, theirs, ours}, elsewhere: true, seq: 7, noticed: true},
	} {
		ack, a, err := answering(t, tt.elsewhere, tt.answers...)
		var refused *jetstream.APIError
		switch {
		case tt.code != 0:
			if !errors.As(err, &refused) || refused.ErrorCode != tt.code {
				t.Errorf("%q: got %v", tt.answers, err)
			}
		case err != nil || ack.Sequence != tt.seq:
			t.Errorf("%q: got %+v, %v", tt.answers, ack, err)
		}
		if a.elsewhere != tt.noticed {
			t.Errorf("%q: elsewhere is %v", tt.answers, a.elsewhere)
		}
	}
}
