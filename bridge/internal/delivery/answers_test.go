package delivery

import (
	"context"
	"strings"
	"testing"
	"time"

	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/test/natstest"
)

// Machines that go on from the same saved memory have the same inbox, and are told apart by the
// connection that each has made since: what is answered on another's is not heard.
func TestAnswersOfAClone(t *testing.T) {
	s := natstest.Start(t, "")
	nc, reconnected := s.Connect(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a := newAnswers(nc, func(*acknowledgment) {})
	var replies, names [2]string
	for i := range replies {
		if i > 0 {
			s.Kill()
			s.Start()
			reconnected()
		}
		var err error
		if replies[i], names[i], err = a.next(ctx); err != nil {
			t.Fatal(err)
		}
		on := natsio.ConnectionName(nc)
		if !strings.Contains(replies[i], "-"+on+".") || !strings.HasPrefix(names[i], on+"-") {
			t.Errorf("answers on %s to %s, on the connection %s", replies[i], names[i], on)
		}
	}
	for i, answer := range []string{`{"stream":"IFACE","seq":7}`, `{"stream":"IFACE","seq":8}`} {
		if err := nc.Publish(replies[i], []byte(answer)); err != nil {
			t.Fatal(err)
		}
	}
	ack, err := a.await(ctx, replies[1], origin{stream: "IFACE"})
	if err != nil || ack.Sequence != 8 {
		t.Errorf("got %+v, %v, want the answer 8", ack, err)
	}
	if n, _, err := a.sub.Pending(); n != 0 || err != nil {
		t.Errorf("%d answers are left, %v", n, err)
	}
	if n, err := a.sub.Delivered(); n != 1 || err != nil {
		t.Errorf("%d answers were heard, %v, want the one on this connection", n, err)
	}
}
