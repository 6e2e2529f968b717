package bridge

import (
	"log/slog"
	"testing"

	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/bridge/internal/state"
	"ifacebridge/test/natstest"
)

// The name of an epoch that has not begun is for the connection that there is: in a machine that
// goes on from a saved memory there is another.
func TestEpochIsNamedOnItsConnection(t *testing.T) {
	s := natstest.Start(t, "")
	nc, reconnected := s.Connect(t)
	p := &publisher{nc: nc, log: slog.New(slog.DiscardHandler), epoch: "first", namedOn: natsio.ConnectionName(nc)}
	if p.name(); p.epoch != "first" {
		t.Errorf("named %q anew, on the same connection", p.epoch)
	}
	s.Kill()
	s.Start()
	reconnected()
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

// A bridge that was replaced knows nothing that it could answer, nor is it ready.
func TestReplacedBridgeIsNotWhole(t *testing.T) {
	p := &publisher{state: state.New(), follower: noFollower{}}
	p.isWhole.Store(true)
	if p.forget(); p.isWhole.Load() {
		t.Error("it has told its whole state, and has none")
	}
}
