package linktest

import (
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/schema"
)

// Taken takes what a queue has at that time, and returns the events that come of it, each
// in a line: see [DescribeEvent].
func Taken(q *queue.Queue, now time.Time) []string {
	into := make([]event.Delta, queue.MaxTake)
	var got []string
	for {
		n, _ := q.Take(into, now)
		if n == 0 {
			return got
		}
		for i := range into[:n] {
			e := EventOf(&into[i])
			got = append(got, DescribeEvent(&e))
		}
	}
}

// EventOf returns the event of a change that was taken out of a queue.
func EventOf(d *event.Delta) (e schema.Event) {
	w := event.Writer{ID: event.Identity{Host: "web01", BootID: "boot"}}
	data, _ := w.Append(nil, d, "epoch", 1)
	if err := e.UnmarshalJSON(data); err != nil {
		panic(err) // of our own event
	}
	return e
}
