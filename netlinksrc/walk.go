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
	for len(b) >= unix.SizeofNlAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofNlAttr || n > len(b) {
			return false
		}
		const typeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		yield(binary.NativeEndian.Uint16(b[2:])&typeMask, b[unix.SizeofNlAttr:n])
		b = b[min(align(n), len(b)):]
	}
	return len(b) == 0
}
