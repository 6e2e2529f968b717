package event

import (
	"fmt"

	"ifacebridge/schema"
)

// HeaderRoom is what a message's headers and protocol line take, at most.
const HeaderRoom = 1024

// Size is how many bytes the event and its headers take in a message.
func (o *Outgoing) Size() int { return len("NATS/1.0\r\n\r\n") + len(o.Headers.Block) + len(o.Data) }

// Fit makes those events of a batch smaller that are larger than the server or the stream
// takes: another server may take less than the one that was there when they were made.
func (c *Encoder) Fit(batch []Outgoing) {
	limit := int(c.limit())
	for i := range batch {
		batch[i].fit(limit)
	}
}

// fit leaves out what has to go to keep the event within limit bytes, headers
// included, and says so in it. 0 is no limit known yet. What is left when all is out that
// may be can still be larger.
func (o *Outgoing) fit(limit int) {
	room := limit - (o.Size() - len(o.Data))
	if limit <= 0 || len(o.Data) <= room {
		return
	}
	o.Data, o.LinkAt = Truncate(o.Data, room)
}

// Truncate returns an event, as JSON, with fields left out so that it has at most so many
// bytes, if leaving out helps, and where the link begins in it.
func Truncate(data []byte, limit int) (shorter []byte, link int) {
	var e schema.Event
	if err := e.UnmarshalJSON(data); err != nil {
		panic(fmt.Sprintf("our own event %s: %v", data, err))
	}
	for _, set := range expendable {
		e.Truncated |= set & (schema.Present(&e.Link) | e.Changed)
		e.Link, e.Previous = e.Link.Without(set), e.Previous.Without(set)
		if shorter, link = new(schema.Encoder).AppendJSON(nil, &e); len(shorter) <= limit {
			return shorter, link
		}
	}
	return shorter, link
}

// LeftOut are the keys of e's link that were left out, since the event was larger than the
// server takes.
func LeftOut(e *schema.Event) schema.FieldSet { return e.Truncated &^ schema.Present(&e.Link) }

// expendable are the keys of a link that are left out, one group after another,
// when an event is larger than the server takes: the longest first that matter
// least to who acts on an event. What is always there, and the name, stay.
var expendable = func() []schema.FieldSet {
	var sets []schema.FieldSet
	rest := schema.AllKeys &^ mustFields("ifindex", "ifname", "ifname_bytes", "flags", "link_type")
	for _, names := range [][]string{
		{"altnames", "altnames_bytes"}, {"vfinfo_list", "xdp"}, {"linkinfo"}, {"ifalias", "ifalias_bytes"},
		{"phys_port_name", "phys_port_id", "phys_switch_id", "parentbus", "parentdev", "num_tx_queues", "num_rx_queues",
			"gso_max_size", "gso_max_segs", "tso_max_size", "tso_max_segs", "gro_max_size",
			"gso_ipv4_max_size", "gro_ipv4_max_size"},
	} {
		set := mustFields(names...)
		sets, rest = append(sets, set), rest&^set
	}
	essential := mustFields("link_index", "link", "mtu", "master_index", "master", "operstate", "address", "carrier")
	return append(sets, rest&^essential, essential)
}()
