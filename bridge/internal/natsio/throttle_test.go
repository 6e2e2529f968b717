package natsio

import (
	"testing"
	"time"
)

// An error that lasts is a line at once, after a minute, and then ever more seldom: four in
// a quarter of an hour, whatever is random in its text.
func TestThrottle(t *testing.T) {
	var throttle Throttle
	start := time.Now()
	lines, last := 0, time.Time{}
	for at := start; at.Before(start.Add(15 * time.Minute)); at = at.Add(time.Second) {
		repeated, news := throttle.News("refused", at)
		if !news {
			continue
		}
		if !last.IsZero() && (at.Sub(last) < firstRepeat || len(repeated) != 2) {
			t.Errorf("again after %v, repeated %v", at.Sub(last), repeated)
		}
		lines, last = lines+1, at
	}
	if lines != 4 {
		t.Errorf("%d lines", lines)
	}
	if _, news := throttle.News("refused", last.Add(time.Hour)); !news {
		t.Error("what comes again after an hour is no news")
	}
	for i := range 2 * maxLasting {
		throttle.News(string(rune('a'+i)), start)
	}
	if len(throttle.errors) > maxLasting {
		t.Errorf("it remembers %d", len(throttle.errors))
	}
}

func TestTextKey(t *testing.T) {
	for _, same := range [][2]string{
		{`Permissions Violation for Subscription to "_INBOX.0123456789abcdefghijkl-0123456789abcdef.*"`,
			`Permissions Violation for Subscription to "_INBOX.ABCDEFGHIJKLMNOPQRSTUV-fedcba9876543210.*"`},
		{"read tcp 10.0.0.1:53412->10.0.0.2:4222: reset", "read tcp 10.0.0.1:40000->10.0.0.2:4222: reset"},
		{`Subscription to "_INBOX.J1fWRCB0D9GQ5v6L2BVEmY.*"`, `subscription to "_INBOX.aaaaaaaaaaaaaaaaaaaaaa.*"`},
	} {
		if textKey(same[0]) != textKey(same[1]) {
			t.Errorf("%q and %q differ", same[0], same[1])
		}
	}
	if textKey("dial tcp 10.0.0.1:4222: refused") == textKey("dial tcp 10.0.0.2:4222: refused") {
		t.Error("two servers are one")
	}
}
