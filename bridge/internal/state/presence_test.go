package state

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
)

// silentJetStream answers nothing.
type silentJetStream struct {
	jetstream.JetStream
	asked chan context.Context // of each question
}

func (s *silentJetStream) Stream(ctx context.Context, _ string) (jetstream.Stream, error) {
	s.asked <- ctx
	<-ctx.Done()
	return nil, ctx.Err()
}

// A bridge that stops does not wait for a bucket of hosts that has failed already.
func TestPresenceHoldsUpNoStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := NewPresence(config.Config{Presence: time.Second}, event.Identity{}, New(), &nats.Conn{},
			func() int { return 0 }, func() int { return 0 }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		js := &silentJetStream{asked: make(chan context.Context)}
		p.js = js
		done, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			p.Run(t.Context(), "epoch", done)
		}()
		first := <-js.asked
		second := <-js.asked
		close(done)
		<-ended
		if err := first.Err(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the first attempt ended with %v", err)
		}
		if err := second.Err(); !errors.Is(err, context.Canceled) {
			t.Errorf("the second attempt, under way at the stop, ended with %v", err)
		}
	})
}
