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
	moved    time.Time     // to another server
	jitter   time.Duration // of the time until then
}

const (
	maxBackoff = 2 * time.Second

	// moveAfter is how long a server that answers, but cannot store, is given at
	// least before another one of its cluster is tried: longer than an election takes
	// (nats-server: 4 to 9 s), which moving does not help and a fleet that moves all at
	// once makes longer. Up to as much again is added at random.
	moveAfter = 10 * time.Second
)

// moveOn tries another server when this one has not been able to store anything
// for a while: it may be cut off from the others, and would go on answering pings.
func (o *outage) moveOn(nc *nats.Conn, began time.Time, err error) {
	if o.since.IsZero() {
		o.since, o.jitter = began, rand.N(moveAfter)
	}
	if !passes(err) {
		return // any server would say the same
	}
	if time.Since(o.since) < moveAfter+o.jitter || time.Since(o.moved) < moveAfter+o.jitter || !nc.IsConnected() || len(nc.Servers()) < 2 {
		return
	}
	o.moved = time.Now()
	o.log.Warn("this NATS server stores nothing; trying another one of its cluster", "server", nc.ConnectedUrlRedacted())
	_ = nc.ForceReconnect() // fails only when the connection is closed, which is said elsewhere
}

// passes reports whether a failure is one that ends without anybody's doing, such
// as that of a cluster that elects a leader.
func passes(err error) bool {
	switch failureReason(err) {
	case "timeout", "no_stream", "no_jetstream", "unavailable", "disconnected":
		return true
	}
	return false
}

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
