package delivery

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/test/natstest"
)

// Two machines that go on from the same saved memory receive their answers on the same subjects,
// and each hears those of both. None takes the other's for its own.
func TestAnswersOfAClone(t *testing.T) {
	s := natstest.Start(t, "")
	var clones [2]*answers
	for i := range clones {
		nc, err := nats.Connect(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		sub, err := nc.SubscribeSync("_INBOX.saved.*")
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		clones[i] = newAnswers(nc, func(*acknowledgment) {})
		clones[i].inbox, clones[i].sub, clones[i].read = "_INBOX.saved", sub, sub.NextMsgWithContext
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var replies [2]string
	for i, a := range clones {
		reply, _, err := a.next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		replies[i] = reply
	}
	nc := clones[0].nc
	for i, answer := range []string{`{"stream":"IFACE","seq":7}`, `{"stream":"IFACE","seq":8}`} {
		if err := nc.Publish(replies[i], []byte(answer)); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []uint64{7, 8} {
		ack, err := clones[i].await(ctx, replies[i], origin{stream: "IFACE"})
		if err != nil || ack.Sequence != want {
			t.Errorf("machine %d: got %+v, %v, want the answer %d", i, ack, err, want)
		}
	}
	// And the second's comes when the first is not waiting for it any more.
	brief, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	reply, _, err := clones[0].next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if ack, err := clones[0].await(brief, reply, origin{stream: "IFACE"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %+v, %v, and nothing was answered", ack, err)
	}
}
