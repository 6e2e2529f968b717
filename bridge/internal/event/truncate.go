package event

import (
	"fmt"

	"ifacebridge/schema"
)

// HeaderRoom is what a message's headers and protocol line take, at most.
const HeaderRoom = 1024

// Fit makes those events of a batch smaller that are larger than the server takes: another
// server may take less than the one that was there when they were made.
func (c *Encoder) Fit(batch []Outgoing) {
	limit := int(c.limit())
	for i := range batch {
		batch[i].fit(limit)
	}
}

// fit leaves out what has to go to keep the event within limit bytes, headers
// included, and says so in it. 0 is no limit known yet.
func (o *Outgoing) fit(limit int) {
	if limit <= 0 || len(o.Data)+HeaderRoom <= limit {
		return
	}
	var e schema.Event
	if err := e.UnmarshalJSON(o.Data); err != nil {
		panic(fmt.Sprintf("our own event %s: %v", o.Data, err))
	}
	for _, set := range expendable {
		e.Truncated |= set & (schema.Present(&e.Link) | e.Changed)
		e.Link, e.Previous = e.Link.Without(set), e.Previous.Without(set)
		if o.Data, o.LinkAt = new(schema.Encoder).AppendJSON(nil, &e); len(o.Data)+HeaderRoom <= limit {
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
			"gso_max_size", "gso_max_segs", "tso_max_size", "tso_max_segs", "gro_max_size",
			"gso_ipv4_max_size", "gro_ipv4_max_size"},
	} {
		sets = append(sets, mustFields(names...))
	}
	return sets
}()
