package natsio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// A Retry is how something that NATS is asked for is tried again until it succeeds.
// Until one has succeeded each cause of failures is logged once, also when causes take
// turns, and then that they are over.
// It is for one goroutine at a time; the zero value with its exported fields set is
// ready for use.
type Retry struct {
	Log *slog.Logger

	// Failing is logged, with the cause, when attempts fail; Over when one has
	// succeeded again.
	Failing, Over string

	// Last, unless it is nil, is where others read why the last attempt failed; it
	// holds nil when that did not fail.
	Last *atomic.Pointer[Fault]

	since   time.Time       // of the first failure; zero: none
	logged  map[string]bool // the causes since then
	backoff time.Duration
	moved   time.Time     // to another server
	jitter  time.Duration // of the time until then
}

const (
	maxBackoff = 2 * time.Second

	// maxLogged is how many causes are remembered: they are few, unless one holds something
	// that is different each time.
	maxLogged = 16

	// moveAfter is how long a server that answers, but cannot store, is given at
	// least before another one of its cluster is tried: longer than an election takes
	// (nats-server: 4 to 9 s), which moving does not help and a fleet that moves all at
	// once makes longer. Up to as much again is added at random.
	moveAfter = 10 * time.Second
)

// MoveOn connects to another server when this one has not been able to store anything
// for a while: it may be cut off from the others, and would go on answering pings.
// Began is when the attempt was that has failed with err.
func (r *Retry) MoveOn(nc *nats.Conn, began time.Time, err error) {
	if r.since.IsZero() {
		r.since, r.jitter = began, rand.N(moveAfter)
	}
	if !Classify(err).Transient {
		return // any server would say the same
	}
	patience := moveAfter + r.jitter
	if time.Since(r.since) < patience || time.Since(r.moved) < patience || !nc.IsConnected() || len(nc.Servers()) < 2 {
		return
	}
	r.moved = time.Now()
	r.Log.Warn("this NATS server stores nothing; trying another one of its cluster", "server", nc.ConnectedUrlRedacted())
	_ = nc.ForceReconnect() // fails only when the connection is closed, which Wait reports
}

// Wait logs why the last attempt failed, unless that was logged before, and blocks
// until it is time for the next: until the connection is back, or a jittered while. It
// returns an error when the connection is closed or ctx has ended.
func (r *Retry) Wait(ctx context.Context, nc *nats.Conn, err error, unconfirmed int) error {
	if r.since.IsZero() {
		r.since = time.Now()
	}
	if !nc.IsConnected() { // whatever else that led to: an answer that did not come, a buffer that is full
		err = ErrNotConnected
	}
	fault := Classify(err)
	if r.Last != nil {
		r.Last.Store(&fault)
	}
	if !r.logged[fault.Cause] {
		if len(r.logged) >= maxLogged || r.logged == nil {
			r.logged = map[string]bool{}
		}
		r.logged[fault.Cause] = true
		r.Log.Warn(r.Failing, append(fault.attrs(), "unconfirmed", unconfirmed)...)
	}
	if nc.IsClosed() {
		return fmt.Errorf("connection to NATS closed: %w", errors.Join(err, nc.LastError()))
	}
	r.backoff = min(max(2*r.backoff, 20*time.Millisecond), maxBackoff)
	pause := time.NewTimer(r.backoff/2 + rand.N(r.backoff/2))
	defer pause.Stop()
	var up chan nats.Status
	if !nc.IsConnected() {
		up = nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
		defer nc.RemoveStatusListener(up)
	}
	select {
	case <-up:
		r.backoff = 0
	case <-pause.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// End notes that an attempt has succeeded, and logs that if failures were logged.
func (r *Retry) End() {
	if len(r.logged) > 0 {
		r.Log.Info(r.Over, "after", time.Since(r.since).Round(time.Millisecond))
	}
	if r.Last != nil {
		r.Last.Store(nil)
	}
	r.since, r.logged, r.backoff = time.Time{}, nil, 0
}
