package main

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A command that reads all that is stored waits as long as it keeps coming, however much it
// is; and no longer than its patience when nothing comes any more.
func TestCatchingUpTakesAsLongAsSomethingComes(t *testing.T) {
	for _, tt := range []struct {
		name             string
		coming, caughtUp time.Duration // for so long, and after so long; 0: never
		want             bool
		after            time.Duration
	}{
		{"a large fleet", 25 * time.Second, 26 * time.Second, true, 26 * time.Second},
		{"nobody", 0, 0, false, idlePatience},
		{"a bridge that is mute", time.Second, 0, false, time.Second + idlePatience},
		{"a clock that is behind", time.Hour, 0, false, maxPatience + idlePatience},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				caughtUp, began := make(chan struct{}), time.Now()
				var lastStored atomic.Int64
				var coming sync.WaitGroup
				coming.Go(func() {
					for ctx.Err() == nil && time.Since(began) < tt.coming {
						time.Sleep(time.Second)
						lastStored.Store(time.Now().UnixNano())
					}
				})
				if tt.caughtUp > 0 {
					time.AfterFunc(tt.caughtUp, func() { close(caughtUp) })
				}
				got := awaitCaughtUp(ctx, caughtUp, began, &lastStored)
				if took := time.Since(began); got != tt.want || took > tt.after {
					t.Errorf("got %v after %v, want %v after %v", got, took, tt.want, tt.after)
				}
				cancel()
				coming.Wait()
			})
		})
	}
}
