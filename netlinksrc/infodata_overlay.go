package netlinksrc

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"ifacebridge/netlinksrc/internal/uapi"
)

// Networks over UDP. Where ip writes null for a flag that is set (vxlan's gbp and gpe,
// since iproute2 6.9), it is true here: null is what is absent.

var vxlanInfo = []infoAttr{
	{unix.IFLA_VXLAN_COLLECT_METADATA, boolean("external")},
	{unix.IFLA_VXLAN_VNIFILTER, boolean("vnifilter")},
	{unix.IFLA_VXLAN_ID, number(4, "id")},
	{unix.IFLA_VXLAN_GROUP, address(4, "remote", "group")},
	{unix.IFLA_VXLAN_GROUP6, address(16, "remote6", "group6")},
	{unix.IFLA_VXLAN_LOCAL, address(4, "local", "local")},
	{unix.IFLA_VXLAN_LOCAL6, address(16, "local6", "local6")},
	{unix.IFLA_VXLAN_LINK, link("link")},
	{unix.IFLA_VXLAN_PORT_RANGE, func(o *object, v []byte) bool {
		if len(v) != 4 {
			return false
		}
		o.key("port_range")
		o.dst = fmt.Appendf(o.dst, `{"low":%d,"high":%d}`, binary.BigEndian.Uint16(v), binary.BigEndian.Uint16(v[2:]))
		return true
	}},
	{unix.IFLA_VXLAN_PORT, portNumber("port")},
	{unix.IFLA_VXLAN_LEARNING, boolean("learning")},
	{unix.IFLA_VXLAN_PROXY, boolean("proxy")},
	{unix.IFLA_VXLAN_RSC, boolean("rsc")},
	{unix.IFLA_VXLAN_L2MISS, boolean("l2miss")},
	{unix.IFLA_VXLAN_L3MISS, boolean("l3miss")},
	{unix.IFLA_VXLAN_TOS, hexText(1, "tos", true)},
	{unix.IFLA_VXLAN_TTL, unlessInherited("ttl", unix.IFLA_VXLAN_TTL_INHERIT)},
	{unix.IFLA_VXLAN_DF, named(1, "df", []string{uapi.VXLAN_DF_UNSET: "unset", uapi.VXLAN_DF_SET: "set", uapi.VXLAN_DF_INHERIT: "inherit"})},
	{unix.IFLA_VXLAN_LABEL, flowLabel("label")},
	{unix.IFLA_VXLAN_AGEING, number(4, "ageing")},
	{unix.IFLA_VXLAN_LIMIT, nonZero(4, "limit")},
	{unix.IFLA_VXLAN_UDP_CSUM, boolean("udp_csum")},
	{unix.IFLA_VXLAN_UDP_ZERO_CSUM6_TX, boolean("udp_zero_csum6_tx")},
	{unix.IFLA_VXLAN_UDP_ZERO_CSUM6_RX, boolean("udp_zero_csum6_rx")},
	{unix.IFLA_VXLAN_REMCSUM_TX, boolean("remcsum_tx")},
	{unix.IFLA_VXLAN_REMCSUM_RX, boolean("remcsum_rx")},
	{unix.IFLA_VXLAN_LOCALBYPASS, boolean("localbypass")},
	{uapi.IFLA_VXLAN_MC_ROUTE, boolean("mcroute")},
	{uapi.IFLA_VXLAN_RESERVED_BITS, func(o *object, v []byte) bool {
		if len(v) == 8 {
			putHex(o, "reserved_bits", binary.BigEndian.Uint64(v), false)
		}
		return len(v) == 8
	}},
	{unix.IFLA_VXLAN_GBP, present("gbp")},
	{unix.IFLA_VXLAN_GPE, present("gpe")},
}

// unlessInherited is a number that does not count while the flag inherit is set.
func unlessInherited(name string, inherit uint16) func(*object, []byte) bool {
	return unsigned(1, func(o *object, n uint64) {
		if inherited, _ := uintOf(o.values[inherit], 1); inherited == 0 {
			o.number(name, n)
		}
	})
}

var geneveInfo = []infoAttr{
	{unix.IFLA_GENEVE_COLLECT_METADATA, present("external")},
	{unix.IFLA_GENEVE_ID, number(4, "id")},
	{unix.IFLA_GENEVE_REMOTE, address(4, "remote", "remote")},
	{unix.IFLA_GENEVE_REMOTE6, address(16, "remote6", "")},
	{uapi.IFLA_GENEVE_LOCAL, address(4, "local", "local")},
	{uapi.IFLA_GENEVE_LOCAL6, address(16, "local6", "local6")},
	{unix.IFLA_GENEVE_TTL, unlessInherited("ttl", unix.IFLA_GENEVE_TTL_INHERIT)},
	{unix.IFLA_GENEVE_TOS, hexText(1, "tos", true)},
	{unix.IFLA_GENEVE_DF, named(1, "df", []string{uapi.GENEVE_DF_UNSET: "unset", uapi.GENEVE_DF_SET: "set", uapi.GENEVE_DF_INHERIT: "inherit"})},
	{unix.IFLA_GENEVE_LABEL, flowLabel("label")},
	{unix.IFLA_GENEVE_PORT, portNumber("port")},
	{unix.IFLA_GENEVE_UDP_CSUM, boolean("udp_csum")},
	{unix.IFLA_GENEVE_UDP_ZERO_CSUM6_TX, boolean("udp_zero_csum6_tx")},
	{unix.IFLA_GENEVE_UDP_ZERO_CSUM6_RX, boolean("udp_zero_csum6_rx")},
	{unix.IFLA_GENEVE_INNER_PROTO_INHERIT, present("inner_proto_inherit")},
}

var bareUDPInfo = []infoAttr{
	{unix.IFLA_BAREUDP_PORT, portNumber("dstport")},
	{unix.IFLA_BAREUDP_ETHERTYPE, ethertype("ethertype")},
	{unix.IFLA_BAREUDP_SRCPORT_MIN, number(2, "srcportmin")},
	// A flag that ip shows as false too; the kernel always sends the port.
	{unix.IFLA_BAREUDP_PORT, func(o *object, v []byte) bool {
		o.bool("multiproto", o.values[unix.IFLA_BAREUDP_MULTIPROTO_MODE] != nil)
		return len(v) == 2
	}},
}

var amtInfo = []infoAttr{
	{uapi.IFLA_AMT_MODE, named(4, "mode", []string{uapi.AMT_MODE_GATEWAY: "gateway", uapi.AMT_MODE_RELAY: "relay"})},
	{uapi.IFLA_AMT_GATEWAY_PORT, portNumber("gateway_port")},
	{uapi.IFLA_AMT_RELAY_PORT, portNumber("relay_port")},
	{uapi.IFLA_AMT_LOCAL_IP, ipText(4, "local")},
	{uapi.IFLA_AMT_REMOTE_IP, ipText(4, "remote")},
	{uapi.IFLA_AMT_DISCOVERY_IP, ipText(4, "discovery")},
	{uapi.IFLA_AMT_LINK, link("link")},
	{uapi.IFLA_AMT_MAX_TUNNELS, number(4, "max_tunnels")},
}

var gtpInfo = []infoAttr{
	{unix.IFLA_GTP_ROLE, named(4, "role", []string{uapi.GTP_ROLE_GGSN: "ggsn", uapi.GTP_ROLE_SGSN: "sgsn"})},
	{unix.IFLA_GTP_PDP_HASHSIZE, number(4, "hsize")},
	{unix.IFLA_GTP_RESTART_COUNT, number(1, "restart_count")},
}

var ovpnInfo = []infoAttr{
	{uapi.IFLA_OVPN_MODE, named(1, "mode", []string{uapi.OVPN_MODE_P2P: "p2p", uapi.OVPN_MODE_MP: "mp"})},
}
