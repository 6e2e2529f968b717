package bridge

import (
	"fmt"

	"ifacebridge/bridge/config"
	"ifacebridge/schema"
)

// identity is what every event of a run has in common.
type identity struct {
	host, bootID, epoch string
	ownNetns            uint64 // the inode of the bridge's own network namespace; 0: not known
}

// An outgoing is an event on its way: it has its place in the epoch, and stays
// the same bytes however often it is sent.
type outgoing struct {
	seq     uint64
	headers headers
	data    []byte
	labels  labels
	key     schema.LinkKey
	former  string // the namespace that its key was of until now, "": the same
	link    int    // where in data the link begins
	gone    bool   // the link is

	endsOpening bool // the epoch's snapshots are whole
}

// formerKey is schema.Event.FormerKey.
func (o *outgoing) formerKey() (schema.LinkKey, bool) {
	return schema.LinkKey{Netns: o.former, Index: o.key.Index}, o.former != ""
}

// A writer makes the JSON of events out of changes.
type writer struct {
	id     identity
	json   schema.Encoder
	event  schema.Event // the last one, but for its links
	named  schema.Link  // room for a link with names
	values []byte       // and for its values
}

// append appends the event of a change, which has this place in an epoch. It returns,
// besides, where in it the link begins. It ends the change: its form is that of the event.
func (w *writer) append(dst []byte, d *delta, epoch string, seq uint64) (with []byte, link int) {
	e := &w.event
	e.Host, e.BootID, e.OwnNetnsInode, e.Epoch, e.Seq = w.id.host, w.id.bootID, w.id.ownNetns, epoch, seq
	e.Time, e.Kind, e.Action, e.Cause = d.time, d.kind, d.action, d.cause
	e.Overruns, e.Coalesced, e.Snapshot = d.overruns, d.count, d.snapshot
	e.Netns, e.NetnsInode, e.NetnsPrevious, e.Counterpart = d.netns.name, d.netns.inode, d.netnsBefore, d.counterpart
	e.Link.Index = d.id.index // for its key
	keys, values := d.keys, d.values
	if d.link != nil {
		keys, values = schema.AllKeys, w.valuesOf(d.link)
	}
	if d.before != nil {
		w.nameLinks(d.before)
		d.form.Set(&w.named)
	}
	if e.Action == schema.Updated || e.Action == schema.Renamed {
		if e.Changed = 0; d.wasThere || d.before != nil {
			e.Changed = d.form.Diff(keys, values) | d.restated
		}
		if e.Kind == schema.New && d.wasThere { // what it comes to may be less than its parts
			e.Action = schema.Updated
			if e.Changed&nameField != 0 || e.NetnsPrevious != "" {
				e.Action = schema.Renamed
			}
		}
	}
	start := len(dst)
	dst, link = w.json.AppendChange(dst, e, d.form, keys, values)
	return dst, link - start
}

func (w *writer) valuesOf(l *linkState) []byte {
	w.nameLinks(l)
	w.values = w.named.AppendValues(w.values[:0], schema.AllKeys)
	return w.values
}

// nameLinks makes named the link with its names.
func (w *writer) nameLinks(l *linkState) {
	w.named = *l.Link
	l.names.put(&w.named)
}

var nameField = mustFields("ifname")

// An encoder gives events their place in an epoch and makes messages of them.
type encoder struct {
	writer  writer
	headers *headerMaker
	limit   func() int64 // bytes that a message may have, headers included; 0: not known

	epoch string
	seq   uint64 // of the last event

	batch []outgoing
	bytes []byte // their data and headers
	room  int    // what limit returned when the batch was begun
}

// headerRoom is what a message's headers and protocol line take, at most.
const headerRoom = 1024

func newEncoder(cfg config.Config, id identity, limit func() int64) *encoder {
	return &encoder{writer: writer{id: id}, headers: newHeaderMaker(cfg), limit: limit}
}

// begin makes the next event the one after seq of an epoch.
func (c *encoder) begin(epoch string, seq uint64) { c.epoch, c.seq = epoch, seq }

// reset begins a new batch. The memory of the last one is used again.
func (c *encoder) reset() {
	c.batch, c.bytes, c.room = c.batch[:0], c.bytes[:0], int(c.limit())
}

// addDelta appends the event of a change to the batch, as the next one of the epoch.
func (c *encoder) addDelta(d *delta) {
	c.seq++
	start, link := len(c.bytes), 0
	c.bytes, link = c.writer.append(c.bytes, d, c.epoch, c.seq)
	c.add(&c.writer.event, start, link)
}

// addEvent appends an event to the batch, as the next one of the epoch.
func (c *encoder) addEvent(e *schema.Event) {
	c.seq++
	e.Epoch, e.Seq = c.epoch, c.seq
	start := len(c.bytes)
	var link int
	c.bytes, link = c.writer.json.AppendJSON(c.bytes, e)
	c.add(e, start, link-start)
}

// add appends to the batch the event of which the JSON stands from start on.
func (c *encoder) add(e *schema.Event, start, link int) {
	o := outgoing{
		seq: e.Seq, labels: labels{e.Kind, e.Action, e.Cause}, data: c.bytes[start:len(c.bytes):len(c.bytes)], link: link,
		key: e.Key(), former: e.NetnsPrevious, gone: e.Kind == schema.Del,
		endsOpening: e.Snapshot.Of > 0 && e.Snapshot.Pos == e.Snapshot.Of && e.Snapshot.More == 0,
	}
	o.fit(c.room)
	c.bytes, o.headers = c.headers.append(c.bytes, e, c.writer.json.Time(e.Time))
	c.batch = append(c.batch, o)
}

// fit makes events smaller that are larger than the server takes: another server may
// take less than the one that was there when they were made.
func (c *encoder) fit(batch []outgoing) {
	limit := int(c.limit())
	for i := range batch {
		batch[i].fit(limit)
	}
}

// fit leaves out what has to go to keep the event within limit bytes, headers
// included, and says so in it. 0 is no limit known yet.
func (o *outgoing) fit(limit int) {
	if limit <= 0 || len(o.data)+headerRoom <= limit {
		return
	}
	var e schema.Event
	if err := e.UnmarshalJSON(o.data); err != nil {
		panic(fmt.Sprintf("our own event %s: %v", o.data, err))
	}
	for _, set := range expendable {
		e.Truncated |= set & (schema.Present(&e.Link) | e.Changed)
		e.Link, e.Previous = e.Link.Without(set), e.Previous.Without(set)
		if o.data, o.link = new(schema.Encoder).AppendJSON(nil, &e); len(o.data)+headerRoom <= limit {
			return
		}
	}
}

// expendable are the keys of a link that are left out, one group after another,
// when an event is larger than the server takes: the longest first that matter
// least to who acts on an event.
var expendable = func() []schema.FieldSet {
	var sets []schema.FieldSet
	for _, names := range [][]string{
		{"altnames", "altnames_bytes"}, {"linkinfo"}, {"ifalias", "ifalias_bytes"},
		{"phys_port_name", "phys_port_id", "phys_switch_id", "parentbus", "parentdev", "num_tx_queues", "num_rx_queues",
			"gso_max_size", "gso_max_segs", "tso_max_size", "tso_max_segs", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size"},
	} {
		sets = append(sets, mustFields(names...))
	}
	return sets
}()
