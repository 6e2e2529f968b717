package netlinksrc

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/jsimonetti/rtnetlink/v2"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/schematest"
)

// Whatever bytes come, the decoder does not panic, makes a link that is valid
// under the schema, and agrees with rtnetlink's decoder in every field that both
// have, on every message that the other accepts.
func FuzzDecode(f *testing.F) {
	messages(captured(f), func(_ header, body []byte) { f.Add(bytes.Clone(body)) })
	for _, file := range corpus(f) { // a message of each kind
		f.Add(corpusBody(f, file))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d := NewDecoder()
		var m, again Message
		d.Decode(unix.RTM_NEWLINK, body, &m)
		d.Decode(unix.RTM_NEWLINK, body, &again)
		if m != again {
			t.Fatal("decoding twice gives two results")
		}
		if m.Kind == Other {
			return
		}
		e := schema.Event{Host: "h", BootID: "b", Epoch: "e", Seq: 1, Kind: schema.New, Action: schema.Created, Cause: schema.Notification, Link: m.Link}
		b := e.AppendJSON(nil)
		if !m.Partial {
			schematest.Validate(t, b)
		}
		var back schema.Event
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		if m.Port { // to rtnetlink it is a message like any other
			return
		}
		// rtnetlink leaves out, without an error, all that comes behind an attribute
		// that it does not understand. Whether it came to the end shows in one more
		// attribute there.
		const end = 4711
		sentinel := binary.NativeEndian.AppendUint32([]byte{8, 0, unix.IFLA_NUM_VF, 0}, end)
		var oracle rtnetlink.LinkMessage
		err := oracle.UnmarshalBinary(append(append(bytes.Clone(body), make([]byte, align(len(body))-len(body))...), sentinel...))
		if err == nil && d.BadAttributes == 0 && oracle.Attributes.NumVF != nil && *oracle.Attributes.NumVF == end {
			compare(t, &m.Link, &oracle)
		}
	})
}

// compare holds a link to rtnetlink's view of the same message.
func compare(t *testing.T, l *schema.Link, o *rtnetlink.LinkMessage) {
	a := o.Attributes
	if a == nil {
		return
	}
	check := func(field string, same bool) {
		t.Helper()
		if !same {
			t.Errorf("%s differs:\nours   %s\ntheirs %+v", field, l.AppendJSON(nil), *a)
		}
	}
	check("index", uint32(l.Index) == o.Index)
	check("flags", l.Flags == flags(o.Flags))
	check("type", uint16(l.Type) == o.Type)
	check("address", bytes.Equal(l.Address.Bytes(), a.Address))
	check("broadcast", bytes.Equal(l.Broadcast.Bytes(), a.Broadcast))
	check("mtu", l.MTU.Or(0) == a.MTU)
	check("link", uint32(l.LowerIndex) == a.Type)
	check("operstate", uint8(l.OperState.Or(0)) == uint8(a.OperationalState))
	check("carrier", l.Carrier == mapped(a.Carrier, func(v uint8) bool { return v != 0 }))
	check("carrier_changes", l.CarrierChanges == some(a.CarrierChanges))
	check("carrier_up_count", l.CarrierUpCount == some(a.CarrierUpCount))
	check("carrier_down_count", l.CarrierDownCount == some(a.CarrierDownCount))
	check("linkmode", l.LinkMode == mapped(a.LinkMode, func(v uint8) schema.LinkMode { return schema.LinkMode(v) }))
	check("group", l.Group == some(a.NetDevGroup))
	check("txqlen", l.TxQLen == some(a.TxQueueLen))
	check("master", a.Master == nil && l.MasterIndex == 0 || a.Master != nil && uint32(l.MasterIndex) == *a.Master)
	checkText(check, "ifname", l.Name, a.Name)
	checkText(check, "qdisc", l.Qdisc, a.QueueDisc)
	if a.Alias != nil {
		checkText(check, "ifalias", l.Alias, *a.Alias)
	}
	if a.Info != nil {
		checkText(check, "info_kind", l.Info.Kind, a.Info.Kind)
	}
}

// checkText compares a string unless it has bytes behind a NUL, where rtnetlink
// goes on and the kernel, which reads C strings, does not.
func checkText(check func(string, bool), field, ours, theirs string) {
	if !bytes.Contains([]byte(theirs), []byte{0}) {
		check(field, ours == theirs)
	}
}

func some(p *uint32) schema.Opt[uint32] { return mapped(p, func(v uint32) uint32 { return v }) }

func mapped[T, U comparable](p *T, to func(T) U) schema.Opt[U] {
	if p == nil {
		return schema.Opt[U]{}
	}
	return schema.Some(to(*p))
}

// A decoder that remembers what it has decoded decodes as one that has seen nothing.
func FuzzDecodeAgain(f *testing.F) {
	messages(captured(f), func(_ header, body []byte) {
		f.Add(bytes.Clone(body), uint16(60), uint16(4), []byte{1, 2, 3, 4}, false)
		f.Add(bytes.Clone(body), uint16(8), uint16(0), []byte{0x43, 0x10}, true)
	})
	for _, file := range corpus(f) {
		f.Add(corpusBody(f, file), uint16(100), uint16(40), []byte{3}, false)
	}
	f.Fuzz(func(t *testing.T, body []byte, at, step uint16, patch []byte, del bool) {
		d := NewDecoder()
		types := []uint16{unix.RTM_NEWLINK, unix.RTM_NEWLINK}
		if del {
			types[1] = unix.RTM_DELLINK
		}
		for round := range 6 {
			var got, want Message
			typ := types[round%2]
			fresh := NewDecoder()
			badMessages, badAttributes := d.BadMessages, d.BadAttributes
			d.Decode(typ, body, &got)
			fresh.Decode(typ, body, &want)
			if got != want || d.BadMessages-badMessages != fresh.BadMessages || d.BadAttributes-badAttributes != fresh.BadAttributes {
				t.Fatalf("round %d: got\n%+v\nwant\n%+v", round, got, want)
			}
			body = bytes.Clone(body)
			if from := int(at) + round/2*int(step); from < len(body) {
				copy(body[from:], patch)
			}
		}
	})
}
