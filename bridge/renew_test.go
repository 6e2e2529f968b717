package bridge

import (
	"testing"
	"testing/synctest"
	"time"
)

// The snapshot is told again before it is older than half of what the stream keeps, by hosts
// that have started together spread over a fifth of that; never where events are kept for
// ever.
func TestRenewalsSpread(t *testing.T) {
	const hosts, kept = 10000, 168 * time.Hour
	var slots [20]int
	began := time.Now()
	for range hosts {
		var r renewal
		r.begun()
		after := r.due(kept, began, began.Round(0)).Sub(began)
		if after < kept/4 || after >= kept*45/100+time.Minute {
			t.Fatalf("due after %v of %v", after, kept)
		}
		slots[int(20*(after-kept/4)/(kept/5+time.Hour))]++
		if !r.due(0, began, began.Round(0)).IsZero() {
			t.Fatal("due although nothing is forgotten")
		}
	}
	for i, n := range slots {
		if n > 2*hosts/len(slots) {
			t.Errorf("%d of %d hosts in a twentieth of the time, number %d", n, hosts, i)
		}
	}
}

// A machine that sleeps for most of the week tells the snapshot again in time: what the stream
// keeps goes by the server's clock.
func TestRenewalCountsSleep(t *testing.T) {
	const kept = 168 * time.Hour
	var r renewal
	r.begun()
	awake := time.Now().Add(time.Hour)
	if due := r.due(kept, awake, awake.Round(0)); !due.After(awake) {
		t.Errorf("due after an hour: %v", due)
	}
	slept := awake.Round(0).Add(kept / 2)
	if due := r.due(kept, awake, slept); !due.Equal(awake) {
		t.Errorf("due at %v, after half of what is kept was slept through at %v", due, awake)
	}
}

// Between two snapshots on request there is time for events, however long one takes to tell.
func TestRequestsLeaveTimeForEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r renewal
		r.begun()
		if wait := time.Until(r.quiet); wait != askedPause {
			t.Errorf("%v from the beginning of an epoch", wait)
		}
		time.Sleep(time.Minute)
		r.over()
		if wait := time.Until(r.quiet); wait != askedPause {
			t.Errorf("%v after one that took a minute", wait)
		}
	})
}
