package natsio

import (
	"maps"
	"regexp"
	"strings"
	"time"
)

// A Throttle says which errors are worth a line of the log: each at once, while it lasts
// again after a minute, then after two, four and so on. The zero value is ready for use, by
// one goroutine at a time.
type Throttle struct {
	errors map[string]*lasting
}

// lasting is an error that lasts.
type lasting struct {
	logged, seen time.Time
	wait         time.Duration // from logged until the next line
	repeated     int           // since logged
}

const (
	firstRepeat = time.Minute
	lastRepeat  = 16 * time.Minute
	maxLasting  = 100 // different ones: each refused subject is one
)

// News reports whether an error, by its key, is to be logged now, and what to add about
// those that were not since the last line.
func (t *Throttle) News(key string, now time.Time) (repeated []any, news bool) {
	maps.DeleteFunc(t.errors, func(_ string, e *lasting) bool { return now.Sub(e.seen) >= e.wait })
	e := t.errors[key]
	switch {
	case e == nil && len(t.errors) == maxLasting:
		return nil, false
	case e == nil:
		if t.errors == nil {
			t.errors = map[string]*lasting{}
		}
		t.errors[key] = &lasting{logged: now, seen: now, wait: firstRepeat}
		return nil, true
	}
	e.seen = now
	e.repeated++
	if now.Sub(e.logged) < e.wait {
		return nil, false
	}
	repeated = []any{"repeated", e.repeated}
	e.logged, e.wait, e.repeated = now, min(2*e.wait, lastRepeat), 0
	return repeated, true
}

// key is the same for faults that are the same to a person: a refused user is one, however
// the servers call it.
func (f *Fault) key() string {
	if f.Reason == Credentials {
		return string(f.Reason)
	}
	return textKey(f.Cause)
}

// random is what differs each time in the text of an error: our side of a TCP connection,
// and the unique part of an inbox, with that of a connection where it has one.
var random = regexp.MustCompile(`\S+->|\b[0-9A-Za-z]{22}(-[0-9a-f]{16})?\b`)

// textKey is the same for texts that differ in what is random, or in case.
func textKey(text string) string { return strings.ToLower(random.ReplaceAllString(text, "")) }
