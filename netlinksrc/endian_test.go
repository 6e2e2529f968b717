package netlinksrc

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ifacebridge/netlinksrc/internal/uapi"
)

// The captured messages are of machines that have the lowest byte first. What is here makes
// of them what a machine of the other order sends for the same link: numbers are turned, and
// text, addresses and what is in network byte order stay.

// nativeBody is a captured message in this machine's byte order.
func nativeBody(body []byte) []byte {
	if isLittleEndian {
		return body
	}
	return turned(body, binary.LittleEndian)
}

var isLittleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// turned is a message in the other byte order than from, which it is in.
func turned(body []byte, from binary.ByteOrder) []byte {
	body = bytes.Clone(body)
	turn := turner{from}
	turn.words(2)(body[2:4])
	turn.words(4)(body[4:unix.SizeofIfInfomsg])
	turn.link()(body[unix.SizeofIfInfomsg:])
	return body
}

// A turner turns payloads in place.
type turner struct{ from binary.ByteOrder }

type layout func(v []byte)

func same([]byte) {}

// words are numbers of that many bytes, one behind the other.
func (t turner) words(size int) layout {
	return func(v []byte) {
		for ; len(v) >= size; v = v[size:] {
			slices.Reverse(v[:size])
		}
	}
}

// number is a number, if that can be one by its length.
func (t turner) number(v []byte) {
	switch len(v) {
	case 2, 4, 8:
		slices.Reverse(v)
	}
}

// nest is one of attributes: numbers, but for those that are laid out otherwise.
func (t turner) nest(layouts map[uint16]layout) layout {
	return t.nestOf(func(typ uint16) layout {
		if l, ok := layouts[typ]; ok {
			return l
		}
		return t.number
	})
}

// nestOf is a nest of which each attribute's layout is asked for.
func (t turner) nestOf(layoutOf func(typ uint16) layout) layout {
	return func(v []byte) {
		for len(v) >= unix.SizeofNlAttr {
			n, typ := int(t.from.Uint16(v)), t.from.Uint16(v[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)
			t.words(2)(v[:unix.SizeofNlAttr])
			if n < unix.SizeofNlAttr || n > len(v) {
				return
			}
			layoutOf(typ)(v[unix.SizeofNlAttr:n])
			v = v[min(align(n), len(v)):]
		}
	}
}

// all is a nest of attributes that are laid out alike.
func (t turner) all(l layout) layout { return t.nestOf(func(uint16) layout { return l }) }

// behind is what has a layout from a place on.
func behind(at int, l layout) layout { return func(v []byte) { l(v[min(at, len(v)):]) } }

// both is one layout after the other, of parts that do not overlap.
func both(a, b layout) layout { return func(v []byte) { a(v); b(v) } }

func upTo(end int, l layout) layout { return func(v []byte) { l(v[:min(end, len(v))]) } }

// link is all that is said of a link.
func (t turner) link() layout {
	layouts := map[uint16]layout{
		unix.IFLA_AF_SPEC:      t.families(),
		unix.IFLA_LINKINFO:     t.linkInfo(),
		unix.IFLA_STATS:        t.words(4),
		unix.IFLA_STATS64:      t.words(8),
		unix.IFLA_PROP_LIST:    t.all(same),
		unix.IFLA_XDP:          t.nest(nil),
		unix.IFLA_VFINFO_LIST:  t.functions(),
		unix.IFLA_PROTINFO:     t.slaves()["bridge"],
		unix.IFLA_MAP:          same,
		unix.IFLA_WIRELESS:     same,
		unix.IFLA_PHYS_PORT_ID: same, unix.IFLA_PHYS_SWITCH_ID: same,
		unix.IFLA_PROTO_DOWN_REASON: t.nest(nil),
	}
	for _, text := range []uint16{
		unix.IFLA_IFNAME, unix.IFLA_QDISC, unix.IFLA_IFALIAS, unix.IFLA_ADDRESS, unix.IFLA_BROADCAST, unix.IFLA_PERM_ADDRESS,
		unix.IFLA_PHYS_PORT_NAME, unix.IFLA_PARENT_DEV_NAME, unix.IFLA_PARENT_DEV_BUS_NAME,
	} {
		layouts[text] = same
	}
	return t.nest(layouts)
}

func (t turner) families() layout {
	return t.nest(map[uint16]layout{
		unix.AF_INET: t.all(t.words(4)),
		unix.AF_INET6: t.nest(map[uint16]layout{
			unix.IFLA_INET6_CONF: t.words(4), unix.IFLA_INET6_CACHEINFO: t.words(4), unix.IFLA_INET6_STATS: t.words(8),
			unix.IFLA_INET6_ICMP6STATS: t.words(8), unix.IFLA_INET6_TOKEN: same,
		}),
		unix.AF_MCTP: t.nest(nil),
	})
}

func (t turner) functions() layout {
	numbers := t.words(4)
	return t.all(t.nestOf(func(typ uint16) layout {
		switch typ {
		case unix.IFLA_VF_MAC:
			return upTo(4, numbers)
		case unix.IFLA_VF_BROADCAST:
			return same
		case unix.IFLA_VF_VLAN_LIST:
			return t.all(upTo(12, numbers))
		case unix.IFLA_VF_IB_NODE_GUID, unix.IFLA_VF_IB_PORT_GUID:
			return both(upTo(4, numbers), behind(8, t.words(8)))
		case unix.IFLA_VF_STATS:
			return t.nest(nil)
		}
		return numbers
	}))
}

// linkInfo has the kind in front of what the kind lays out.
func (t turner) linkInfo() layout {
	return func(v []byte) {
		var kind, slaveKind string
		t.nestOf(func(typ uint16) layout {
			switch typ {
			case unix.IFLA_INFO_KIND:
				return func(v []byte) { kind = string(cString(v)) }
			case unix.IFLA_INFO_SLAVE_KIND:
				return func(v []byte) { slaveKind = string(cString(v)) }
			case unix.IFLA_INFO_DATA:
				return t.nest(t.kinds()[kind])
			case unix.IFLA_INFO_SLAVE_DATA:
				if l, ok := t.slaves()[slaveKind]; ok {
					return l
				}
			}
			return same
		})(v)
	}
}

func (t turner) slaves() map[string]layout {
	return map[string]layout{
		"bond":   t.nest(nil),
		"bridge": t.nest(map[uint16]layout{unix.IFLA_BRPORT_ROOT_ID: same, unix.IFLA_BRPORT_BRIDGE_ID: same}),
		"vrf":    t.nest(nil),
	}
}

// kinds are what is no number in the settings of a kind.
func (t turner) kinds() map[string]map[uint16]layout {
	gre := sameOf(uapi.IFLA_GRE_LOCAL, uapi.IFLA_GRE_REMOTE, uapi.IFLA_GRE_IKEY, uapi.IFLA_GRE_OKEY, uapi.IFLA_GRE_IFLAGS,
		uapi.IFLA_GRE_OFLAGS, uapi.IFLA_GRE_FLOWINFO, uapi.IFLA_GRE_ENCAP_SPORT, uapi.IFLA_GRE_ENCAP_DPORT)
	tunnel := sameOf(uapi.IFLA_IPTUN_LOCAL, uapi.IFLA_IPTUN_REMOTE, uapi.IFLA_IPTUN_6RD_RELAY_PREFIX,
		uapi.IFLA_IPTUN_FLOWINFO, uapi.IFLA_IPTUN_ENCAP_SPORT, uapi.IFLA_IPTUN_ENCAP_DPORT)
	vti := sameOf(uapi.IFLA_VTI_LOCAL, uapi.IFLA_VTI_REMOTE, uapi.IFLA_VTI_IKEY, uapi.IFLA_VTI_OKEY)
	return map[string]map[uint16]layout{
		"gre": gre, "gretap": gre, "erspan": gre, "ip6gre": gre, "ip6gretap": gre, "ip6erspan": gre,
		"ipip": tunnel, "sit": tunnel, "ip6tnl": tunnel, "vti": vti, "vti6": vti,
		"amt": sameOf(uapi.IFLA_AMT_GATEWAY_PORT, uapi.IFLA_AMT_RELAY_PORT, uapi.IFLA_AMT_LOCAL_IP,
			uapi.IFLA_AMT_REMOTE_IP, uapi.IFLA_AMT_DISCOVERY_IP),
		"bareudp": sameOf(unix.IFLA_BAREUDP_PORT, unix.IFLA_BAREUDP_ETHERTYPE),
		"bond": {
			unix.IFLA_BOND_ARP_IP_TARGET: t.all(same), unix.IFLA_BOND_NS_IP6_TARGET: t.all(same),
			unix.IFLA_BOND_AD_INFO: t.nest(nil),
		},
		"bridge": {
			unix.IFLA_BR_VLAN_PROTOCOL: same, unix.IFLA_BR_BRIDGE_ID: same, unix.IFLA_BR_ROOT_ID: same,
			unix.IFLA_BR_MULTI_BOOLOPT:       t.words(4),
			unix.IFLA_BR_MCAST_QUERIER_STATE: t.nest(sameOf(uapi.BRIDGE_QUERIER_IP_ADDRESS)),
		},
		"can": {
			unix.IFLA_CAN_BITTIMING: t.words(4), unix.IFLA_CAN_DATA_BITTIMING: t.words(4), unix.IFLA_CAN_CTRLMODE: t.words(4),
			unix.IFLA_CAN_BITTIMING_CONST: behind(16, t.words(4)), unix.IFLA_CAN_DATA_BITTIMING_CONST: behind(16, t.words(4)),
			unix.IFLA_CAN_BITRATE_CONST: t.words(4), unix.IFLA_CAN_DATA_BITRATE_CONST: t.words(4),
			unix.IFLA_CAN_BERR_COUNTER: t.words(2), unix.IFLA_CAN_TERMINATION_CONST: t.words(2),
			uapi.IFLA_CAN_TDC: t.nest(nil), uapi.IFLA_CAN_CTRLMODE_EXT: t.nest(nil),
		},
		"geneve":  sameOf(unix.IFLA_GENEVE_REMOTE, uapi.IFLA_GENEVE_LOCAL, unix.IFLA_GENEVE_PORT, unix.IFLA_GENEVE_LABEL),
		"macsec":  sameOf(unix.IFLA_MACSEC_SCI),
		"macvlan": {unix.IFLA_MACVLAN_MACADDR_DATA: t.all(same)},
		"rmnet":   {unix.IFLA_RMNET_FLAGS: t.words(4)},
		"vlan": {
			unix.IFLA_VLAN_PROTOCOL: same, unix.IFLA_VLAN_FLAGS: t.words(4),
			unix.IFLA_VLAN_INGRESS_QOS: t.all(t.words(4)), unix.IFLA_VLAN_EGRESS_QOS: t.all(t.words(4)),
		},
		"vxlan": sameOf(unix.IFLA_VXLAN_GROUP, unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_PORT, unix.IFLA_VXLAN_PORT_RANGE,
			unix.IFLA_VXLAN_LABEL, uapi.IFLA_VXLAN_RESERVED_BITS),
	}
}

func sameOf(types ...uint16) map[uint16]layout {
	layouts := map[uint16]layout{}
	for _, typ := range types {
		layouts[typ] = same
	}
	return layouts
}

// What is turned is another message, and turned back it is the one that it was.
func TestTurned(t *testing.T) {
	for _, file := range corpus(t) {
		body := corpusBytes(t, file)
		there := turned(body, binary.LittleEndian)
		if bytes.Equal(there, body) {
			t.Errorf("%s: nothing was turned", filepath.Base(file))
		}
		if back := turned(there, binary.BigEndian); !bytes.Equal(back, body) {
			t.Errorf("%s:\n got %x\nwant %x", filepath.Base(file), back, body)
		}
	}
}
