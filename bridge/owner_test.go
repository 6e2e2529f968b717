package bridge

import (
	"context"
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/internal/delivery"
)

// That nobody answers is believed at once at the start, and by who was replaced and has not heard
// from the other. An owner that has answered is waited for: it may be connecting again, too.
func TestOwnerIsGone(t *testing.T) {
	nobody, silent := nats.ErrNoResponders, context.DeadlineExceeded
	started := func(*rival) {}
	heard := func(o *rival) {
		o.answered()
		o.standBy("it answers")
	}
	replaced := func(o *rival) { o.replacedBy(new(delivery.ReplacedError)) }
	for _, tt := range []struct {
		name  string
		after func(*rival)
		why   error
		want  int // misses in a row
	}{
		{"started, nobody is there", started, nobody, 1},
		{"started, no answer", started, silent, askMisses},
		{"heard, nobody is there", heard, nobody, askMisses},
		{"heard, no answer", heard, silent, askMisses},
		{"replaced, nobody is there", replaced, nobody, 1},
		{"replaced, no answer", replaced, silent, askMisses},
		{"replaced and heard, nobody is there", func(o *rival) { replaced(o); heard(o) }, nobody, askMisses},
		{"replaced twice, no answer", func(o *rival) { replaced(o); o.ownNow(); replaced(o) }, silent, 2 * askMisses},
		{"gone, and then nobody is there", func(o *rival) { heard(o); o.ownNow() }, nobody, 1},
	} {
		o := &rival{log: slog.New(slog.DiscardHandler)}
		tt.after(o)
		misses := 1
		for !o.isGone(misses, tt.why) && misses < 100 {
			misses++
		}
		if misses != tt.want {
			t.Errorf("%s: taken for gone after %d, want %d", tt.name, misses, tt.want)
		}
	}
}
