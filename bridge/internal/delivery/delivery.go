// Package delivery is the way of events to NATS, and what it means that they have arrived.
// Over JetStream (jetstream.go) they are stored in a stream, each once and in order, and
// what stands there (look.go) is compared with the story of the epoch (story.go); over plain
// NATS (core.go) they are with the server. Many at once are written as messages that are made
// here (frames.go).
package delivery

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/metrics"
)

// A Delivery is the way in which events reach NATS. The one publisher calls it.
type Delivery interface {
	// Begin says that events of this epoch follow, behind what is told of it already,
	// if that is in NATS.
	Begin(epoch string, told event.Mark)

	// Told returns how far the epoch has come.
	Told() event.Mark

	// Keeps returns for how long NATS keeps events, as far as that is known; 0: for ever,
	// or not at all.
	Keeps() time.Duration

	// Room returns how many bytes an event may have, its own headers included; 0 is not
	// known yet. It may be called from any goroutine.
	Room() int64

	// Look returns this host's last message in NATS; nil where nobody can know.
	Look(ctx context.Context) (*Located, error)

	// Verify finds out that what was confirmed is still there, and that nobody else has
	// written as this host: else it returns a [BrokenStoryError] or a [ReplacedError].
	Verify(ctx context.Context) error

	// Store sends events in order and waits until NATS has confirmed them. It returns
	// how many of them, from the first, are confirmed; the others are to be sent again,
	// whether they arrived or not. Its errors are also those of Verify, and a
	// [TooLargeError], which is about the first that is not confirmed. It ends with the
	// context.
	Store(ctx context.Context, batch []event.Outgoing) (int, error)
}

// New returns the delivery that cfg names, over a connection of that configuration. What it
// counts is registered.
func New(cfg config.Config, nc *nats.Conn, log *slog.Logger, to metrics.Registry) (Delivery, error) {
	if cfg.Delivery == config.Core {
		return newCore(cfg, nc), nil
	}
	d, err := newJetStream(cfg, nc, log)
	if err != nil {
		return nil, err
	}
	d.register(to)
	return d, nil
}
