package bridge

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/loop"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/bridge/internal/state"
	"ifacebridge/schema"
)

// A publisher that waits for the kernel's links is not stuck, however long that takes.
func TestPublisherWaitsForTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(config.QueueLimit{}, 0)
		p := &publisher{backlog: memory{Backlog: queue.NewBacklog(event.Identity{}, q)}}
		ended := make(chan error)
		go func() {
			p.progress.Work()
			_, _, err := p.opening(t.Context())
			ended <- err
		}()
		synctest.Wait()
		if !reflect.DeepEqual(&p.progress, &loop.Progress{}) {
			t.Error("it is not at rest")
		}
		q.Close()
		if err := <-ended; !errors.Is(err, queue.ErrNoSnapshot) {
			t.Errorf("ended with %v", err)
		}
	})
}

// What waits for long makes /readyz 503, and what waits for less does not: an event that NATS
// has not confirmed for 30 s since it was read from the kernel, a bucket that nothing was put
// into for 2 minutes. NATS is away, which has a line of its own.
func TestReadyzIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		cfg, err := config.Parse([]string{"NATS_URL=nats://127.0.0.1:1", "IFACE_HOST=web01", "IFACE_COALESCE=3s"})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := natsio.Connect(cfg, "test", log)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		id := event.Identity{Host: "web01"}
		counted := metrics.Registry{Registry: prometheus.NewRegistry()}
		backlog := memory{Backlog: queue.NewBacklog(id, queue.New(cfg.Queue, cfg.Coalesce))}
		p, err := newPublisher(cfg, id, backlog, conn.Conn, func() int { return 1 }, log, counted)
		if err != nil {
			t.Fatal(err)
		}
		h := &health{publishing: p, conn: conn}
		p.isWhole.Store(true)
		says := func(after time.Duration, want ...string) {
			t.Helper()
			list := h.notReady()
			if len(list) != 1+len(want) || !strings.HasPrefix(list[0], "NATS is not connected: ") {
				t.Fatalf("after %v: %q", after, list)
			}
			for i, text := range want {
				if !strings.HasPrefix(list[1+i], text) {
					t.Errorf("after %v: %q, want %q", after, list[1+i], text)
				}
			}
		}

		// Read two seconds ago, of which it was held for all to be folded: it waits since now.
		done, ended := make(chan struct{}), make(chan struct{}, 2)
		p.encoder.Begin("e", 0)
		p.encoder.Reset()
		p.encoder.AddEvent(&schema.Event{Time: time.Now().Add(-2 * time.Second), Link: schema.Link{Index: 1, Name: "lo"}})
		go func() { _ = p.publish(ctx); ended <- struct{}{} }()
		began := time.Now()
		at := func(after time.Duration, want ...string) {
			t.Helper()
			time.Sleep(after - time.Since(began))
			says(after, want...)
		}
		at(0)
		at(30 * time.Second)
		const waits = "the oldest event that NATS has not confirmed is "
		at(31*time.Second, waits+"31s old; 1 wait")

		bucket := p.follower.(*state.Bucket)
		bucket.Verify()
		go func() { bucket.Run(ctx, done); ended <- struct{}{} }()
		at(32*time.Second, waits+"32s old")
		failing := 31 * time.Second
		at(failing+2*time.Minute, waits)
		at(failing+2*time.Minute+time.Second, waits+"2m32s old; 1 wait",
			"the bucket has not followed for 2m1s, and lacks 0 links: ")

		stop()
		<-ended
		<-ended
		if list := h.behind(); len(list) != 1 { // nobody has the event any more; the bucket stays what it was
			t.Errorf("in the end: %q", list)
		}
	})
}
