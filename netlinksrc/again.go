package netlinksrc

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"ifacebridge/schema"
)

// What the kernel says of a link is mostly what it said the last time, but for a value or
// two. So a Decoder keeps the last message of some links, and decodes of the next one
// what is not the same: a tenth of what the whole costs. Which message it decodes how
// shows in nothing else.

// remembered is of how many links the last message is kept, 1.5 KiB each or so.
const remembered = 64

// maxRemembered is the largest message that is kept.
const maxRemembered = 4096

// A known message is one that was decoded without a fault.
type known struct {
	typ  uint16
	body []byte
	link schema.Link
}

// again decodes a message which is the last one of its link but for the values of some
// attributes. It reports false when it is not, or they do not stand for themselves.
func (d *Decoder) again(typ uint16, body []byte, m *Message) bool {
	k := d.known[placeOf(body)]
	const upToIndex = 8 // of struct ifinfomsg
	if k == nil || k.typ != typ || len(k.body) != len(body) || !bytes.Equal(k.body[:upToIndex], body[:upToIndex]) {
		return false
	}
	from, to := difference(k.body, body)
	m.Link = k.link
	for at := unix.SizeofIfInfomsg; at < to; {
		n := int(binary.NativeEndian.Uint16(k.body[at:]))
		if at+n > from && !d.attributeAgain(&m.Link, k.body[at:at+n], body[at:at+n]) {
			return false
		}
		at += align(n)
	}
	copy(k.body[from:to], body[from:to])
	m.Link.Flags = flags(binary.NativeEndian.Uint32(body[8:]))
	m.Link.PointToPoint = isPointToPoint(&m.Link)
	k.link = m.Link
	m.Kind = kindOf(typ)
	return true
}

// attributeAgain decodes an attribute that was another the last time, if it is one that
// stands for itself.
func (d *Decoder) attributeAgain(l *schema.Link, was, is []byte) bool {
	if !bytes.Equal(was[:unix.SizeofNlAttr], is[:unix.SizeofNlAttr]) {
		return false
	}
	v := is[unix.SizeofNlAttr:]
	if bytes.Equal(was[unix.SizeofNlAttr:], v) {
		return true
	}
	switch typ := binary.NativeEndian.Uint16(is[2:]); typ {
	case unix.IFLA_MTU, unix.IFLA_QDISC, unix.IFLA_OPERSTATE, unix.IFLA_LINKMODE, unix.IFLA_GROUP, unix.IFLA_TXQLEN,
		unix.IFLA_LINK, unix.IFLA_MASTER, unix.IFLA_CARRIER, unix.IFLA_CARRIER_CHANGES, unix.IFLA_CARRIER_UP_COUNT,
		unix.IFLA_CARRIER_DOWN_COUNT, unix.IFLA_IFALIAS, unix.IFLA_PROMISCUITY, unix.IFLA_ALLMULTI:
		return d.attribute(l, typ, v)
	case unix.IFLA_LINKINFO: // a failover, or a timer
		return d.linkInfoAgain(l, v)
	case unix.IFLA_STATS, unix.IFLA_STATS64: // no news
		return true
	}
	return false
}

// linkInfoAgain decodes IFLA_LINKINFO. It reports false, and counts nothing, when something
// in it is bad.
func (d *Decoder) linkInfoAgain(l *schema.Link, nest []byte) bool {
	bad := d.BadAttributes
	l.Info = schema.LinkInfo{}
	d.linkInfo(&l.Info, nest)
	good := d.BadAttributes == bad
	d.BadAttributes = bad
	return good
}

// remember keeps a message that was decoded without a fault.
func (d *Decoder) remember(typ uint16, body []byte, m *Message) {
	if m.Partial || len(body) > maxRemembered || !isUnique(body) {
		return
	}
	place := placeOf(body)
	if d.known[place] == nil {
		d.known[place] = new(known)
	}
	k := d.known[place]
	k.typ, k.link, k.body = typ, m.Link, append(k.body[:0], body...)
}

func placeOf(body []byte) uint32 { return binary.NativeEndian.Uint32(body[4:]) % remembered } // by index

// isUnique reports whether no attribute comes twice: the last would count.
func isUnique(body []byte) bool {
	var seen [2]uint64
	unique := true
	attributes(body[unix.SizeofIfInfomsg:], func(typ uint16, _ []byte) {
		word, bit := typ/64%2, uint64(1)<<(typ%64)
		unique = unique && typ < 128 && seen[word]&bit == 0
		seen[word] |= bit
	})
	return unique
}

// difference returns where two messages of one size differ: from the block of the first
// difference to that of the last.
func difference(a, b []byte) (from, to int) {
	const block = 64
	to = len(a)
	for to-from >= block && bytes.Equal(a[from:from+block], b[from:from+block]) {
		from += block
	}
	for to-from >= block && bytes.Equal(a[to-block:to], b[to-block:to]) {
		to -= block
	}
	return from, to
}
