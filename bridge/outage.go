package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
)

// An outage is a row of failures to do something with NATS. It is said once,
// with its cause, and once when it is over.
type outage struct {
	log           *slog.Logger
	failing, over string // what to say

	since    time.Time
	lastText string
	backoff  time.Duration
}

const maxBackoff = 2 * time.Second

// wait logs why the last attempt failed, unless it was said, and waits before the
// next: until the connection is back, or a jittered while.
func (o *outage) wait(ctx context.Context, nc *nats.Conn, err error, unconfirmed int) error {
	if o.since.IsZero() {
		o.since = time.Now()
	}
	if text := err.Error(); text != o.lastText {
		o.lastText = text
		o.log.Warn(o.failing, "cause", text, "unconfirmed", unconfirmed)
	}
	if nc.IsClosed() {
		return fmt.Errorf("connection to NATS closed: %w", errors.Join(err, nc.LastError()))
	}
	o.backoff = min(max(2*o.backoff, 20*time.Millisecond), maxBackoff)
	pause := time.NewTimer(o.backoff/2 + rand.N(o.backoff/2))
	defer pause.Stop()
	var up chan nats.Status
	if !nc.IsConnected() {
		up = nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
		defer nc.RemoveStatusListener(up)
	}
	select {
	case <-up:
		o.backoff = 0
	case <-pause.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (o *outage) end() {
	if o.lastText != "" {
		o.log.Info(o.over, "after", time.Since(o.since).Round(time.Millisecond))
	}
	o.since, o.lastText, o.backoff = time.Time{}, "", 0
}
