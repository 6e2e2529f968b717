package netlinksrc

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
)

// The settings of virtual links (IFLA_INFO_DATA) and of the ports of others
// (IFLA_INFO_SLAVE_DATA), a table a kind: which attributes, under which keys, written
// how. Names, spellings and order are those of `ip -d -j link show` (iproute2 7.1), and
// where ip has none, those of the kernel's Documentation/netlink/specs/rt-link.yaml. The
// tables stand in the infodata_*.go files, a family of kinds each.
//
// What ticks or counts by itself is left out: timers, hsr's sequence number, how many
// addresses a bridge has learned, how many errors a CAN controller has seen. So is what ip 7.1
// does not show, though its headers have it: geneve's port range and GRO hint, netkit's head-
// and tailroom.
//
// The driver packages of rtnetlink are not used for this: of what ip shows they
// lack a third (the bridge id, for one), and refuse what the kernel sends for
// others (macvlan's used queue length, vlan's flags).

// An infoKind is what is known of the settings of a kind.
type infoKind struct {
	attrs []infoAttr
	links []string // the keys whose value is another link, see [NameLinks]
	ticks uint64   // a bit for each attribute that changes without anything having happened
}

// infoKinds are the kinds that have settings.
var infoKinds = map[string]*infoKind{
	"amt":       {attrs: amtInfo, links: linkKey},
	"bareudp":   {attrs: bareUDPInfo},
	"bond":      {attrs: bondInfo, links: []string{"active_slave", "primary"}},
	"bridge":    {attrs: bridgeInfo, ticks: bridgeTicks},
	"can":       {attrs: canInfo, ticks: 1 << unix.IFLA_CAN_BERR_COUNTER},
	"dsa":       {attrs: dsaInfo, links: []string{"conduit"}},
	"erspan":    {attrs: greInfo, links: linkKey},
	"geneve":    {attrs: geneveInfo},
	"gre":       {attrs: greInfo, links: linkKey},
	"gretap":    {attrs: greInfo, links: linkKey},
	"gtp":       {attrs: gtpInfo},
	"hsr":       {attrs: hsrInfo, links: []string{"slave1", "slave2", "interlink"}, ticks: 1 << unix.IFLA_HSR_SEQ_NR},
	"ip6erspan": {attrs: gre6Info, links: linkKey},
	"ip6gre":    {attrs: gre6Info, links: linkKey},
	"ip6gretap": {attrs: gre6Info, links: linkKey},
	"ip6tnl":    {attrs: ip6TunnelInfo, links: linkKey},
	"ipip":      {attrs: ipTunnelInfo, links: linkKey},
	"ipoib":     {attrs: ipoibInfo},
	"ipvlan":    {attrs: ipvlanInfo},
	"ipvtap":    {attrs: ipvlanInfo},
	"macsec":    {attrs: macsecInfo},
	"macvlan":   {attrs: macvlanInfo},
	"macvtap":   {attrs: macvlanInfo},
	"netkit":    {attrs: netkitInfo},
	"ovpn":      {attrs: ovpnInfo},
	"rmnet":     {attrs: rmnetInfo},
	"sit":       {attrs: ipTunnelInfo, links: linkKey},
	"tun":       {attrs: tunInfo},
	"vlan":      {attrs: vlanInfo},
	"vrf":       {attrs: vrfInfo},
	"vti":       {attrs: vtiInfo(4), links: linkKey},
	"vti6":      {attrs: vtiInfo(16), links: linkKey},
	"vxlan":     {attrs: vxlanInfo, links: linkKey},
	"wwan":      {attrs: wwanInfo},
	"xfrm":      {attrs: xfrmInfo},
}

// slaveKinds are the kinds whose ports have settings.
var slaveKinds = map[string]*infoKind{
	"bond":   {attrs: bondSlaveInfo},
	"bridge": bridgePort,
	"vrf":    {attrs: vrfSlaveInfo},
}

var linkKey = []string{"link"}

// NameLinks returns data, the settings of a link of this kind as the decoder
// makes them, with the names of the links that it refers to. Indexes that name
// does not know are written as ip does, "if<index>".
func NameLinks(kind, data string, name func(index int32) (string, bool)) string {
	return nameLinks(infoKinds[kind], data, name)
}

// NameSlaveLinks is NameLinks for the settings of a port of a master of this kind.
func NameSlaveLinks(kind, data string, name func(index int32) (string, bool)) string {
	return nameLinks(slaveKinds[kind], data, name)
}

func nameLinks(kind *infoKind, data string, name func(index int32) (string, bool)) string {
	if kind == nil {
		return data
	}
	for _, key := range kind.links {
		before, rest, ok := strings.Cut(data, `"`+key+`":`)
		if !ok {
			continue
		}
		digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
		index, err := strconv.ParseInt(digits, 10, 32)
		if err != nil {
			continue
		}
		other, ok := name(int32(index))
		if !ok {
			other = "if" + digits
		}
		quoted, _ := jsontext.AppendQuote(nil, other)
		data = before + `"` + key + `":` + string(quoted) + rest[len(digits):]
	}
	return data
}

// appendInfoData appends the settings in raw as a JSON object. It reports false,
// besides, when an attribute was left out because it is not what the kernel's
// policy says.
func appendInfoData(dst []byte, table []infoAttr, raw []byte) ([]byte, bool) {
	var values [maxAttr][]byte
	ok := collect(raw, &values)
	o := object{dst: append(dst, '{'), values: &values}
	for _, a := range table {
		if v := values[a.typ]; v != nil && !a.put(&o, v) {
			ok = false
		}
	}
	return append(o.dst, '}'), ok
}

// collect puts each attribute of a nest at its type's place.
func collect(nest []byte, values *[maxAttr][]byte) bool {
	return infoDataNests.attributes(nest, func(typ uint16, value []byte) {
		if int(typ) < len(values) {
			values[typ] = value
		}
	})
}

// maxAttr is more than any kind's attributes go to, and what a set of them in 64 bits holds.
const maxAttr = 64

// infoAttr writes one attribute into the object, or nothing where ip shows
// nothing. It reports whether the attribute has a length that it can have.
type infoAttr struct {
	typ uint16
	put func(o *object, v []byte) bool
}

// object is a JSON object in the making.
type object struct {
	dst    []byte
	values *[maxAttr][]byte // for attributes that look at another
}

// has writes an attribute, when it is there.
func (o *object) has(typ uint16, put func(*object, []byte) bool) bool {
	v := o.values[typ]
	return v == nil || put(o, v)
}

func (o *object) key(name string) {
	if o.dst[len(o.dst)-1] != '{' {
		o.dst = append(o.dst, ',')
	}
	o.dst = append(append(append(o.dst, '"'), name...), `":`...)
}

func (o *object) number(name string, v uint64) {
	o.key(name)
	o.dst = strconv.AppendUint(o.dst, v, 10)
}

func (o *object) text(name, v string) {
	o.key(name)
	o.dst, _ = jsontext.AppendQuote(o.dst, v)
}

func (o *object) bool(name string, v bool) {
	o.key(name)
	o.dst = strconv.AppendBool(o.dst, v)
}

// An unsigned attribute: its JSON is made by show.
func unsigned(size int, show func(o *object, n uint64)) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		n, ok := uintOf(v, size)
		if ok {
			show(o, n)
		}
		return ok
	}
}

func uintOf(v []byte, size int) (uint64, bool) {
	if len(v) != size {
		return 0, false
	}
	switch size {
	case 1:
		return uint64(v[0]), true
	case 2:
		return uint64(binary.NativeEndian.Uint16(v)), true
	case 4:
		return uint64(binary.NativeEndian.Uint32(v)), true
	default:
		return binary.NativeEndian.Uint64(v), true
	}
}

func number(size int, name string) func(*object, []byte) bool {
	return unsigned(size, func(o *object, n uint64) { o.number(name, n) })
}

func nonZero(size int, name string) func(*object, []byte) bool {
	return unsigned(size, func(o *object, n uint64) {
		if n != 0 {
			o.number(name, n)
		}
	})
}

// link is a reference to another link, see [NameLinks].
func link(name string) func(*object, []byte) bool { return nonZero(4, name) }

func boolean(name string) func(*object, []byte) bool {
	return unsigned(1, func(o *object, n uint64) { o.bool(name, n != 0) })
}

// onlyTrue is a boolean that ip shows when it is set.
func onlyTrue(name string) func(*object, []byte) bool {
	return unsigned(1, func(o *object, n uint64) {
		if n != 0 {
			o.bool(name, true)
		}
	})
}

// present is an attribute without a payload (or with one that says nothing) that is there
// or not.
func present(name string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool { o.bool(name, true); return len(v) <= 1 }
}

// named is a number that ip has a name for; "" among the names is none.
func named(size int, name string, names []string) func(*object, []byte) bool {
	return unsigned(size, func(o *object, n uint64) {
		if n < uint64(len(names)) && names[n] != "" {
			o.text(name, names[n])
		} else {
			o.text(name, "UNKNOWN")
		}
	})
}

// namedOr is named, with a number under another key where there is no name.
func namedOr(size int, name, other string, names []string) func(*object, []byte) bool {
	return unsigned(size, func(o *object, n uint64) {
		if n < uint64(len(names)) && names[n] != "" {
			o.text(name, names[n])
		} else {
			o.number(other, n)
		}
	})
}

// A bit is one of a set's, with the name that ip has for it.
type bit struct {
	mask uint64
	name string
}

// bits is a set as a list of names; bits without one are written together in hex digits.
func bits(o *object, name string, n uint64, names []bit) {
	o.key(name)
	o.dst = append(o.dst, '[')
	first := true
	add := func(s string) {
		if !first {
			o.dst = append(o.dst, ',')
		}
		first = false
		o.dst = append(append(append(o.dst, '"'), s...), '"')
	}
	for _, b := range names {
		if n&b.mask != 0 {
			add(b.name)
			n &^= b.mask
		}
	}
	if n != 0 {
		add(strconv.FormatUint(n, 16))
	}
	o.dst = append(o.dst, ']')
}

// signed is a number that may be negative.
func signed(name string) func(*object, []byte) bool {
	return unsigned(4, func(o *object, n uint64) {
		o.key(name)
		o.dst = strconv.AppendInt(o.dst, int64(int32(n)), 10)
	})
}

// portNumber is a number of two bytes in network byte order.
func portNumber(name string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		if len(v) == 2 {
			o.number(name, uint64(binary.BigEndian.Uint16(v)))
		}
		return len(v) == 2
	}
}

// flowLabel is a number of four bytes in network byte order, in hex; zero is not shown.
func flowLabel(name string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		if len(v) == 4 {
			putHex(o, name, uint64(binary.BigEndian.Uint32(v)), true)
		}
		return len(v) == 4
	}
}

func hexText(size int, name string, hide bool) func(*object, []byte) bool {
	return unsigned(size, func(o *object, n uint64) { putHex(o, name, n, hide) })
}

// putHex writes n like C's "%#x": zero has no prefix.
func putHex(o *object, name string, n uint64, hideZero bool) {
	switch {
	case n != 0:
		o.text(name, "0x"+strconv.FormatUint(n, 16))
	case !hideZero:
		o.text(name, "0")
	}
}

func ethernet(name string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		if len(v) != 6 {
			return false
		}
		o.text(name, fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", v[0], v[1], v[2], v[3], v[4], v[5]))
		return true
	}
}

// hardwareAddress is a link-layer address of any length.
func hardwareAddress(name string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		a, ok := schema.MakeLLAddr(v, unix.ARPHRD_NETROM)
		if ok {
			o.text(name, a.String())
		}
		return ok
	}
}

// ethertype is a protocol (ETH_P_*) in network byte order.
func ethertype(name string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		if len(v) != 2 {
			return false
		}
		switch n := binary.BigEndian.Uint16(v); n {
		case unix.ETH_P_8021Q:
			o.text(name, "802.1Q")
		case unix.ETH_P_8021AD:
			o.text(name, "802.1ad")
		case unix.ETH_P_IP:
			o.text(name, "ip")
		case unix.ETH_P_IPV6:
			o.text(name, "ipv6")
		case unix.ETH_P_ARP:
			o.text(name, "arp")
		case unix.ETH_P_MPLS_UC:
			o.text(name, "mpls_uc")
		case unix.ETH_P_MPLS_MC:
			o.text(name, "mpls_mc")
		default:
			o.text(name, fmt.Sprintf("[%d]", n))
		}
		return true
	}
}

// ipText is an IP address, whichever it is.
func ipText(size int, name string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		ip, ok := netip.AddrFromSlice(v)
		if !ok || len(v) != size {
			return false
		}
		o.text(name, ip.String())
		return true
	}
}

// address is an IP address under one key, or another (or none) when it is multicast;
// the unspecified address is not shown.
func address(size int, unicast, multicast string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		ip, ok := netip.AddrFromSlice(v)
		if !ok || len(v) != size {
			return false
		}
		switch {
		case ip.IsUnspecified():
		case ip.IsMulticast():
			if multicast != "" {
				o.text(multicast, ip.String())
			}
		default:
			o.text(unicast, ip.String())
		}
		return true
	}
}

// putList writes a nest of attributes as a list of strings, one for each that
// text does not answer with "".
func putList(o *object, name string, nest []byte, text func(typ uint16, v []byte) string) bool {
	o.key(name)
	o.dst = append(o.dst, '[')
	first := true
	ok := attributes(nest, func(typ uint16, v []byte) {
		if s := text(typ, v); s != "" {
			if !first {
				o.dst = append(o.dst, ',')
			}
			first = false
			o.dst, _ = jsontext.AppendQuote(o.dst, s)
		}
	})
	o.dst = append(o.dst, ']')
	return ok
}
