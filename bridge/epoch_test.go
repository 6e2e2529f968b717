package bridge

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/test/natstest"
)

// The name of an epoch that has not begun is for the connection that there is: in a machine that
// goes on from a saved memory there is another.
func TestEpochIsNamedOnItsConnection(t *testing.T) {
	s := natstest.Start(t, "")
	again := make(chan struct{}, 1)
	nc, err := nats.Connect(s.URL, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { again <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	p := &publisher{nc: nc, log: slog.New(slog.DiscardHandler), epoch: "first", namedOn: natsio.ConnectionName(nc)}
	if p.name(); p.epoch != "first" {
		t.Errorf("named %q anew, on the same connection", p.epoch)
	}
	s.Kill()
	s.Start()
	select {
	case <-again:
	case <-time.After(time.Minute):
		t.Fatal("no connection to the server that was begun again")
	}
	p.name()
	second := p.epoch
	if p.name(); second == "first" || p.epoch != second {
		t.Errorf("named %q and %q, on another connection", second, p.epoch)
	}
	p.namedOn = "" // it has ended
	if p.name(); p.epoch == second {
		t.Errorf("the next one is named %q, too", second)
	}
}
