package netlinksrc

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// align rounds up to the 4 bytes on which netlink messages and attributes start.
func align(n int) int { return (n + 3) &^ 3 }

// header is struct nlmsghdr (include/uapi/linux/netlink.h).
type header struct {
	len   int
	typ   uint16
	flags uint16
	seq   uint32
}

// messages calls yield with each netlink message in a datagram. It reports
// false when the rest of the datagram is no message: cut off, or nonsense.
func messages(datagram []byte, yield func(h header, body []byte)) bool {
	for len(datagram) > 0 {
		if len(datagram) < unix.NLMSG_HDRLEN {
			return false
		}
		h := header{
			len:   int(binary.NativeEndian.Uint32(datagram[0:])),
			typ:   binary.NativeEndian.Uint16(datagram[4:]),
			flags: binary.NativeEndian.Uint16(datagram[6:]),
			seq:   binary.NativeEndian.Uint32(datagram[8:]),
		}
		if h.len < unix.NLMSG_HDRLEN || h.len > len(datagram) {
			return false
		}
		yield(h, datagram[unix.NLMSG_HDRLEN:h.len])
		datagram = datagram[min(align(h.len), len(datagram)):]
	}
	return true
}

// attributes calls yield with the type and payload of each attribute in b. It
// reports false when the rest of b is no attribute.
func attributes(b []byte, yield func(typ uint16, value []byte)) bool {
	return nests(nil).attributes(b, yield)
}

// nests are attributes that may be larger than the 16 bits of their length can say, and those
// within each of them. Of their length the kernel writes the lowest bits (nla_nest_end): whoever
// goes by it continues somewhere in the middle of the nest.
type nests map[uint16]nests

// linkNests are those of a link: of 300 virtual functions, or of a macvlan with 5,500 addresses.
var linkNests = nests{
	unix.IFLA_VFINFO_LIST: nil,
	unix.IFLA_LINKINFO:    linkInfoNests,
}

var (
	linkInfoNests = nests{unix.IFLA_INFO_DATA: infoDataNests}
	infoDataNests = nests{unix.IFLA_MACVLAN_MACADDR_DATA: nil} // no other kind's are as large
)

// attributes is [attributes] for what may have these nests in it.
func (large nests) attributes(b []byte, yield func(typ uint16, value []byte)) bool {
	for len(b) >= unix.SizeofNlAttr {
		const typeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		n, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&typeMask
		if len(b) > 1<<16 {
			n = large.size(b, n, typ)
		}
		if n < unix.SizeofNlAttr || n > len(b) {
			return false
		}
		yield(typ, b[unix.SizeofNlAttr:n])
		b = b[min(align(n), len(b)):]
	}
	return len(b) == 0
}

// size returns how large the first attribute in b is, of which n is said: the most with which
// all that is in it, and all behind it, are attributes.
func (large nests) size(b []byte, n int, typ uint16) int {
	within, isLarge := large[typ]
	if !isLarge {
		return n
	}
	ignore := func(uint16, []byte) {}
	for most := n + (len(b)-n)&^(1<<16-1); most > n; most -= 1 << 16 {
		nest, behind := b[unix.SizeofNlAttr:most], b[min(align(most), len(b)):]
		if within.attributes(nest, ignore) && large.attributes(behind, ignore) {
			return most
		}
	}
	return n
}
