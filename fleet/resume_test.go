package fleet

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A consumer that keeps the place of the last change which it has dealt with, and is killed
// then, loses nothing: what is given before the event at a place does not have that place.
func TestNoPlaceIsGivenBeforeItsEvent(t *testing.T) {
	f, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var places []uint64
	var changes []Change
	f.changed = func(c Change) { changes, places = append(changes, c), append(places, c.StreamSeq) }
	f.read = true
	f.host("h", "h").asked = true // so that nobody is asked here
	for seq, text := range []string{"e1 1 snap a 1/1", "e1 3 new b"} {
		f.take(t.Context(), input{token: "h", event: *in(t, text), streamSeq: uint64(seq) + 1})
	}
	if got := said(changes); got != "applied a, joined, gap 1, applied b" {
		t.Fatalf("got %s", got)
	}
	if places[2] != 0 || places[3] != 2 {
		t.Errorf("the gap is at %d, and the event behind it at %d", places[2], places[3])
	}
}

// What has expired is reported once, however often the beginning is tried.
func TestExpiredIsGivenOnce(t *testing.T) {
	f, err := New(nil, Options{After: 5})
	if err != nil {
		t.Fatal(err)
	}
	stream := &jetstream.StreamInfo{Created: time.Unix(1, 0)}
	stream.State.FirstSeq, stream.State.LastSeq = 9, 12
	for range 2 {
		if cfg := f.whereToBegin(t.Context(), stream); cfg.OptStartSeq < 6 || cfg.OptStartSeq > 9 {
			t.Errorf("it begins at %d", cfg.OptStartSeq)
		}
	}
	if n := len(f.input); n != 1 {
		t.Fatalf("it is given %d times", n)
	}
	if missed := *(<-f.input).expired; missed != 3 {
		t.Errorf("%d have expired", missed)
	}
}
