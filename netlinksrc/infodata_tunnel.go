package netlinksrc

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"ifacebridge/netlinksrc/internal/uapi"
)

// Tunnels in IPv4 and IPv6.

var greInfo = append([]infoAttr{
	{uapi.IFLA_GRE_COLLECT_METADATA, present("external")},
	{uapi.IFLA_GRE_REMOTE, endpoint(4, "remote")},
	{uapi.IFLA_GRE_LOCAL, endpoint(4, "local")},
	{uapi.IFLA_GRE_LINK, link("link")},
	{uapi.IFLA_GRE_TTL, number(1, "ttl")},
	{uapi.IFLA_GRE_TOS, hexText(1, "tos", true)},
	{uapi.IFLA_GRE_PMTUDISC, boolean("pmtudisc")},
	{uapi.IFLA_GRE_IGNORE_DF, onlyTrue("ignore_df")},
	{uapi.IFLA_GRE_FWMARK, hexText(4, "fwmark", true)},
}, greCommon...)

var gre6Info = append([]infoAttr{
	{uapi.IFLA_GRE_COLLECT_METADATA, present("external")},
	{uapi.IFLA_GRE_REMOTE, endpoint(16, "remote")},
	{uapi.IFLA_GRE_LOCAL, endpoint(16, "local")},
	{uapi.IFLA_GRE_LINK, link("link")},
	{uapi.IFLA_GRE_TTL, number(1, "ttl")},
	{uapi.IFLA_GRE_FLAGS, ip6TunnelFlags},
	{uapi.IFLA_GRE_ENCAP_LIMIT, unlessFlag(uapi.IFLA_GRE_FLAGS, uapi.IP6_TNL_F_IGN_ENCAP_LIMIT, number(1, "encap_limit"))},
	{uapi.IFLA_GRE_FLOWINFO, unlessFlag(uapi.IFLA_GRE_FLAGS, uapi.IP6_TNL_F_USE_ORIG_TCLASS, trafficClass)},
	{uapi.IFLA_GRE_FLOWINFO, unlessFlag(uapi.IFLA_GRE_FLAGS, uapi.IP6_TNL_F_USE_ORIG_FLOWLABEL, tunnelFlowLabel)},
	{uapi.IFLA_GRE_FWMARK, unlessFlag(uapi.IFLA_GRE_FLAGS, uapi.IP6_TNL_F_USE_ORIG_FWMARK, hexText(4, "fwmark", true))},
}, greCommon...)

// greCommon is what GRE over IPv4 and over IPv6 have in common.
var greCommon = []infoAttr{
	{uapi.IFLA_GRE_IKEY, greKey("ikey", uapi.IFLA_GRE_IFLAGS)},
	{uapi.IFLA_GRE_OKEY, greKey("okey", uapi.IFLA_GRE_OFLAGS)},
	{uapi.IFLA_GRE_IFLAGS, greFlags("iseq", "icsum")},
	{uapi.IFLA_GRE_OFLAGS, greFlags("oseq", "ocsum")},
	{uapi.IFLA_GRE_ERSPAN_INDEX, number(4, "erspan_index")},
	{uapi.IFLA_GRE_ERSPAN_VER, number(1, "erspan_ver")},
	{uapi.IFLA_GRE_ERSPAN_DIR, unsigned(1, func(o *object, n uint64) {
		direction := "egress"
		if n == 0 {
			direction = "ingress"
		}
		o.text("erspan_dir", direction)
	})},
	{uapi.IFLA_GRE_ERSPAN_HWID, hexText(2, "erspan_hwid", false)},
	{uapi.IFLA_GRE_ENCAP_TYPE, encapsulation(uapi.IFLA_GRE_ENCAP_FLAGS, uapi.IFLA_GRE_ENCAP_SPORT, uapi.IFLA_GRE_ENCAP_DPORT)},
}

// Flags of a GRE header (RFC 2784, RFC 2890), in network byte order.
const (
	greChecksum = 0x8000
	greHasKey   = 0x2000
	greSequence = 0x1000
)

func greFlags(sequence, checksum string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		if len(v) != 2 {
			return false
		}
		flags := binary.BigEndian.Uint16(v)
		if flags&greSequence != 0 {
			o.bool(sequence, true)
		}
		if flags&greChecksum != 0 {
			o.bool(checksum, true)
		}
		return true
	}
}

// greKey is a key that counts when the flags say that there is one.
func greKey(name string, flags uint16) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		if f := o.values[flags]; len(f) != 2 || binary.BigEndian.Uint16(f)&greHasKey == 0 {
			return len(v) == 4
		}
		return ipText(4, name)(o, v)
	}
}

// ipTunnelInfo is that of ipip and sit.
var ipTunnelInfo = []infoAttr{
	{uapi.IFLA_IPTUN_COLLECT_METADATA, present("external")},
	{uapi.IFLA_IPTUN_PROTO, tunnelProtocol(map[uint64]string{0: "any", unix.IPPROTO_IPIP: "ipip", unix.IPPROTO_IPV6: "ip6ip", unix.IPPROTO_MPLS: "mplsip"})},
	{uapi.IFLA_IPTUN_REMOTE, endpoint(4, "remote")},
	{uapi.IFLA_IPTUN_LOCAL, endpoint(4, "local")},
	{uapi.IFLA_IPTUN_LINK, link("link")},
	{uapi.IFLA_IPTUN_TTL, number(1, "ttl")},
	{uapi.IFLA_IPTUN_TOS, hexText(1, "tos", true)},
	{uapi.IFLA_IPTUN_PMTUDISC, boolean("pmtudisc")},
	{uapi.IFLA_IPTUN_FLAGS, unsigned(2, func(o *object, n uint64) {
		if n&uapi.SIT_ISATAP != 0 {
			o.bool("isatap", true)
		}
	})},
	{uapi.IFLA_IPTUN_6RD_PREFIX, sixRapidDeployment},
	{uapi.IFLA_IPTUN_FWMARK, hexText(4, "fwmark", true)},
	{uapi.IFLA_IPTUN_ENCAP_TYPE, encapsulation(uapi.IFLA_IPTUN_ENCAP_FLAGS, uapi.IFLA_IPTUN_ENCAP_SPORT, uapi.IFLA_IPTUN_ENCAP_DPORT)},
}

// sixRapidDeployment is sit's 6rd prefix (RFC 5969), which counts when it has a length.
func sixRapidDeployment(o *object, v []byte) bool {
	length, ok := uintOf(o.values[uapi.IFLA_IPTUN_6RD_PREFIXLEN], 2)
	if !ok || length == 0 {
		return len(v) == 16
	}
	ok = ipText(16, "prefix")(o, v)
	o.number("prefixlen", length)
	relay := o.values[uapi.IFLA_IPTUN_6RD_RELAY_PREFIX]
	relayLength, hasLength := uintOf(o.values[uapi.IFLA_IPTUN_6RD_RELAY_PREFIXLEN], 2)
	if n, is := uintOf(relay, 4); is && n != 0 && hasLength {
		ipText(4, "relay_prefix")(o, relay)
		o.number("relay_prefixlen", relayLength)
	}
	return ok
}

var ip6TunnelInfo = []infoAttr{
	{uapi.IFLA_IPTUN_COLLECT_METADATA, present("external")},
	{uapi.IFLA_IPTUN_PROTO, tunnelProtocol(map[uint64]string{0: "any", unix.IPPROTO_IPIP: "ipip6", unix.IPPROTO_IPV6: "ip6ip6"})},
	{uapi.IFLA_IPTUN_REMOTE, endpoint(16, "remote")},
	{uapi.IFLA_IPTUN_LOCAL, endpoint(16, "local")},
	{uapi.IFLA_IPTUN_LINK, link("link")},
	{uapi.IFLA_IPTUN_TTL, number(1, "ttl")},
	{uapi.IFLA_IPTUN_FLAGS, ip6TunnelFlags},
	{uapi.IFLA_IPTUN_ENCAP_LIMIT, unlessFlag(uapi.IFLA_IPTUN_FLAGS, uapi.IP6_TNL_F_IGN_ENCAP_LIMIT, number(1, "encap_limit"))},
	{uapi.IFLA_IPTUN_FLOWINFO, unlessFlag(uapi.IFLA_IPTUN_FLAGS, uapi.IP6_TNL_F_USE_ORIG_TCLASS, trafficClass)},
	{uapi.IFLA_IPTUN_FLOWINFO, unlessFlag(uapi.IFLA_IPTUN_FLAGS, uapi.IP6_TNL_F_USE_ORIG_FLOWLABEL, tunnelFlowLabel)},
	{uapi.IFLA_IPTUN_FWMARK, unlessFlag(uapi.IFLA_IPTUN_FLAGS, uapi.IP6_TNL_F_USE_ORIG_FWMARK, hexText(4, "fwmark", true))},
	{uapi.IFLA_IPTUN_ENCAP_TYPE, encapsulation(uapi.IFLA_IPTUN_ENCAP_FLAGS, uapi.IFLA_IPTUN_ENCAP_SPORT, uapi.IFLA_IPTUN_ENCAP_DPORT)},
}

// ip6TunnelFlags are the flags of a tunnel in IPv6, a key each that is set.
var ip6TunnelFlags = unsigned(4, func(o *object, n uint64) {
	for _, b := range ip6TunnelFlagNames {
		if n&b.mask != 0 {
			o.bool(b.name, true)
		}
	}
})

var ip6TunnelFlagNames = []bit{
	{uapi.IP6_TNL_F_IGN_ENCAP_LIMIT, "ip6_tnl_f_ign_encap_limit"},
	{uapi.IP6_TNL_F_USE_ORIG_TCLASS, "ip6_tnl_f_use_orig_tclass"},
	{uapi.IP6_TNL_F_USE_ORIG_FLOWLABEL, "ip6_tnl_f_use_orig_flowlabel"},
	{uapi.IP6_TNL_F_RCV_DSCP_COPY, "ip6_tnl_f_rcv_dscp_copy"},
	{uapi.IP6_TNL_F_MIP6_DEV, "ip6_tnl_f_mip6_dev"},
	{uapi.IP6_TNL_F_ALLOW_LOCAL_REMOTE, "ip6_tnl_f_allow_local_remote"},
	{uapi.IP6_TNL_F_USE_ORIG_FWMARK, "ip6_tnl_f_use_orig_fwmark"},
}

// unlessFlag is an attribute that does not count while a flag is set.
func unlessFlag(flags uint16, mask uint64, put func(*object, []byte) bool) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		if n, _ := uintOf(o.values[flags], 4); n&mask != 0 {
			return true
		}
		return put(o, v)
	}
}

// trafficClass and tunnelFlowLabel are the two parts of the flow information of an IPv6 header.
func trafficClass(o *object, v []byte) bool {
	if len(v) == 4 {
		o.text("tclass", fmt.Sprintf("0x%02x", binary.BigEndian.Uint32(v)>>20&0xff))
	}
	return len(v) == 4
}

func tunnelFlowLabel(o *object, v []byte) bool {
	if len(v) == 4 {
		o.text("flowlabel", fmt.Sprintf("0x%05x", binary.BigEndian.Uint32(v)&0xfffff))
	}
	return len(v) == 4
}

// tunnelProtocol is what is in a tunnel; ip shows nothing for one that it has no name for.
func tunnelProtocol(names map[uint64]string) func(*object, []byte) bool {
	return unsigned(1, func(o *object, n uint64) {
		if name, ok := names[n]; ok {
			o.text("proto", name)
		}
	})
}

// vtiInfo is that of vti and vti6, with addresses of that many bytes.
func vtiInfo(size int) []infoAttr {
	return []infoAttr{
		{uapi.IFLA_VTI_REMOTE, endpoint(size, "remote")},
		{uapi.IFLA_VTI_LOCAL, endpoint(size, "local")},
		{uapi.IFLA_VTI_LINK, link("link")},
		{uapi.IFLA_VTI_IKEY, address(4, "ikey", "ikey")},
		{uapi.IFLA_VTI_OKEY, address(4, "okey", "okey")},
		{uapi.IFLA_VTI_FWMARK, hexText(4, "fwmark", true)},
	}
}

var xfrmInfo = []infoAttr{
	{unix.IFLA_XFRM_COLLECT_METADATA, present("external")},
	{unix.IFLA_XFRM_IF_ID, func(o *object, v []byte) bool {
		if o.values[unix.IFLA_XFRM_COLLECT_METADATA] != nil {
			return len(v) == 4
		}
		return hexText(4, "if_id", false)(o, v)
	}},
}

// endpoint is the address of a tunnel's end; the unspecified one is "any".
func endpoint(size int, name string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		ip, ok := netip.AddrFromSlice(v)
		if !ok || len(v) != size {
			return false
		}
		text := "any"
		if !ip.IsUnspecified() {
			text = ip.String()
		}
		o.text(name, text)
		return true
	}
}

// encapsulation is what a tunnel's packets are put into: UDP, with or without a header of
// its own. The ports are in network byte order.
func encapsulation(flags, source, destination uint16) func(*object, []byte) bool {
	return unsigned(2, func(o *object, n uint64) {
		name, known := map[uint64]string{uapi.TUNNEL_ENCAP_FOU: "fou", uapi.TUNNEL_ENCAP_GUE: "gue"}[n]
		if n == uapi.TUNNEL_ENCAP_NONE {
			return
		}
		o.key("encap")
		inner := object{dst: append(o.dst, '{'), values: o.values}
		if known {
			inner.text("type", name)
		}
		inner.has(source, portNumber("sport"))
		inner.has(destination, portNumber("dport"))
		inner.has(flags, unsigned(2, func(o *object, n uint64) {
			o.bool("csum", n&uapi.TUNNEL_ENCAP_FLAG_CSUM != 0)
			o.bool("csum6", n&uapi.TUNNEL_ENCAP_FLAG_CSUM6 != 0)
			o.bool("remcsum", n&uapi.TUNNEL_ENCAP_FLAG_REMCSUM != 0)
		}))
		o.dst = append(inner.dst, '}')
	})
}
