package fleet

import (
	"context"
	"testing"
	"time"
)

// A bridge that has answered before its host was marked in the bucket of hosts, and whose answer
// is looked at later, is not back: nobody would tell again that it has gone.
func TestAnswerFromBeforeTheMarker(t *testing.T) {
	for _, marker := range []standing{silent, retired} {
		f, err := New(nil, Options{})
		if err != nil {
			t.Fatal(err)
		}
		h := f.host("dead", "")
		h.whole, h.epoch, h.seq = true, "e", 1
		answers := []presence{{token: "dead", host: "dead", epoch: "e", seq: 1}}
		asked := time.Now()
		f.takeHostEntry(context.Background(), &hostEntry{token: "dead", standing: marker, at: time.Now()})
		before := h.standing
		if changes := f.present(context.Background(), answers, asked); len(changes) != 0 || h.standing != before {
			t.Errorf("an answer from before marker %d gives %+v, and standing %d", marker, changes, h.standing)
		}
		f.present(context.Background(), answers, time.Now())
		if h.standing != unknown || h.quiet || h.isRetired() {
			t.Errorf("a bridge that answers after marker %d is not there", marker)
		}
	}
}
