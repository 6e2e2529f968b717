// Package loop has what the goroutines of a bridge share that run until it ends: how one
// wakes another, and how it can be seen that each of them still runs.
package loop

import (
	"context"
	"sync/atomic"
	"time"
)

// Signal puts a token into a channel that has room for one, unless it is there already.
// It does not block.
func Signal(token chan<- struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

// After is [time.After], but a duration that is not positive never passes.
func After(d time.Duration) <-chan time.Time {
	if d <= 0 {
		return nil
	}
	return time.After(d)
}

const (
	minPause = 100 * time.Millisecond
	maxPause = 5 * time.Second
)

// Persist calls try until it succeeds, with growing pauses, and returns the error of one
// that does not pass, or the last one when ctx ends. Of one that does, failed is told, and
// whether it is the same again.
func Persist(
	ctx context.Context, try func() error, passes func(error) bool, failed func(err error, again bool),
) error {
	text := ""
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := try()
		if err == nil || ctx.Err() != nil || !passes(err) {
			return err
		}
		failed(err, err.Error() == text)
		text = err.Error()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// A Progress shows whether a loop runs: it rests, or has not been at work for long. Its
// zero value rests. It may be used from several goroutines.
type Progress struct {
	since atomic.Int64 // at work since, in nanoseconds of [Uptime]; 0: at rest
}

// begun is when the process has.
var begun = time.Now()

// Uptime is how long the process has run, by a clock that nobody sets.
func Uptime() time.Duration { return time.Since(begun) }

// stuckAfter is how long a loop may be at work without a rest. Everything that it
// waits for has a shorter time limit, but a disk.
const stuckAfter = time.Minute

// Work notes that the loop begins to work, or goes on with something else.
func (p *Progress) Work() { p.since.Store(max(1, int64(Uptime()))) }

// Rest notes that the loop waits for something to do.
func (p *Progress) Rest() { p.since.Store(0) }

// Stuck reports whether the loop has been at work for longer than it ever should be.
func (p *Progress) Stuck() bool {
	since := p.since.Load()
	return since != 0 && Uptime()-time.Duration(since) > stuckAfter
}
