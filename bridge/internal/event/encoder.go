package event

import (
	"ifacebridge/bridge/config"
	"ifacebridge/schema"
)

// An Encoder gives events their place in an epoch and makes a batch of them, each with
// its JSON and headers, and within the size that the server takes.
type Encoder struct {
	writer  Writer
	headers *headerMaker
	limit   func() int64 // bytes that a message may have, headers included; 0: not known

	Epoch string // of the events that are added
	Seq   uint64 // of the last event

	// Batch is what was added since Reset, and valid until the next.
	Batch []Outgoing
	bytes []byte // their data and headers
	room  int    // what limit returned when the batch was begun
}

// NewEncoder returns an encoder of the events of a run. Limit returns how many bytes a
// message may have, headers included, on the connection that there is; 0 is not known.
func NewEncoder(cfg config.Config, id Identity, limit func() int64) *Encoder {
	return &Encoder{writer: Writer{ID: id}, headers: newHeaderMaker(cfg), limit: limit}
}

// Begin makes the next event the one after seq of an epoch.
func (c *Encoder) Begin(epoch string, seq uint64) { c.Epoch, c.Seq = epoch, seq }

// Reset begins a new batch. The memory of the last one is used again.
func (c *Encoder) Reset() {
	c.Batch, c.bytes, c.room = c.Batch[:0], c.bytes[:0], int(c.limit())
}

// Room returns how many events the batch still takes.
func (c *Encoder) Room() int {
	if len(c.bytes) >= MaxBatchBytes {
		return 0
	}
	return MaxBatch - len(c.Batch)
}

// AddDelta appends the event of a change to the batch, as the next one of the epoch.
func (c *Encoder) AddDelta(d *Delta) {
	c.Seq++
	start, link := len(c.bytes), 0
	c.bytes, link = c.writer.Append(c.bytes, d, c.Epoch, c.Seq)
	c.add(&c.writer.event, start, link)
}

// AddEvent appends an event to the batch, as the next one of the epoch, which e says
// afterwards.
func (c *Encoder) AddEvent(e *schema.Event) {
	c.Seq++
	e.Epoch, e.Seq = c.Epoch, c.Seq
	start := len(c.bytes)
	var link int
	c.bytes, link = c.writer.json.AppendJSON(c.bytes, e)
	c.add(e, start, link-start)
}

// add appends to the batch the event of which the JSON stands from start on.
func (c *Encoder) add(e *schema.Event, start, link int) {
	o := Outgoing{
		Seq: e.Seq, At: e.Time, Labels: Labels{e.Kind, e.Action, e.Cause},
		Data: c.bytes[start:len(c.bytes):len(c.bytes)], LinkAt: link,
		Key: e.Key(), former: e.NetnsPrevious, Gone: e.Kind == schema.Del,
		InSnapshot:  e.Snapshot.Pos < e.Snapshot.Of || e.Snapshot.More > 0,
		EndsOpening: e.Snapshot.Of > 0 && e.Snapshot.Pos == e.Snapshot.Of && e.Snapshot.More == 0,
	}
	c.bytes, o.Headers = c.headers.appendFor(c.bytes, e, c.writer.json.Time(e.Time))
	o.fit(c.room)
	c.Batch = append(c.Batch, o)
}
