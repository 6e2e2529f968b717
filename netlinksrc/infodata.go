package netlinksrc

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"
)

// The settings of virtual links (IFLA_INFO_DATA), a table a kind: which
// attributes, under which keys, written how. Names, spellings and order are
// those of `ip -d -j link show` (iproute2 6.1, ip/iplink_*.c; netkit 6.8).
// Timers are left out: they tick without anything having changed.
//
// The driver packages of rtnetlink are not used for this: of what ip shows they
// lack a third (the bridge id, for one), and refuse what the kernel sends for
// others (macvlan's used queue length, vlan's flags).

// infoKinds maps a kind to its table. Kinds that are not here have no info_data.
var infoKinds = map[string][]infoAttr{
	"bond":    bondInfo,
	"bridge":  bridgeInfo,
	"macvlan": macvlanInfo,
	"macvtap": macvlanInfo,
	"netkit":  netkitInfo,
	"vlan":    vlanInfo,
	"vxlan":   vxlanInfo,
}

// linkKeys are the keys of info_data whose value is another link. They hold its
// index until [NameLinks] puts the name there.
var linkKeys = map[string][]string{
	"bond":  {"active_slave", "primary"},
	"vxlan": {"link"},
}

// NameLinks returns data, the settings of a link of this kind as the decoder
// makes them, with the names of the links that it refers to. Indexes that name
// does not know are written as ip does, "if<index>".
func NameLinks(kind, data string, name func(index int32) (string, bool)) string {
	for _, key := range linkKeys[kind] {
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
	var values [64][]byte
	ok := attributes(raw, func(typ uint16, value []byte) {
		if int(typ) < len(values) {
			values[typ] = value
		}
	})
	o := object{dst: append(dst, '{'), values: &values}
	for _, a := range table {
		if v := values[a.typ]; v != nil && !a.put(&o, v) {
			ok = false
		}
	}
	return append(o.dst, '}'), ok
}

// infoAttr writes one attribute into the object, or nothing where ip shows
// nothing. It reports whether the attribute has a length that it can have.
type infoAttr struct {
	typ uint16
	put func(o *object, v []byte) bool
}

// object is a JSON object in the making.
type object struct {
	dst    []byte
	values *[64][]byte // for attributes that look at another
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

// link is a reference to another link, see NameLinks.
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

// present is an attribute without a payload that is there or not.
func present(name string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool { o.bool(name, true); return len(v) == 0 }
}

func named(size int, name string, names ...string) func(*object, []byte) bool {
	return unsigned(size, func(o *object, n uint64) {
		if n < uint64(len(names)) {
			o.text(name, names[n])
		} else {
			o.text(name, "UNKNOWN")
		}
	})
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

// ethertype is a VLAN protocol in network byte order.
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
		default:
			o.text(name, fmt.Sprintf("[%d]", n))
		}
		return true
	}
}

// address is an IP address under one key, or another when it is multicast; the
// unspecified address is not shown.
func address(size int, unicast, multicast string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		ip, ok := netip.AddrFromSlice(v)
		if !ok || len(v) != size {
			return false
		}
		switch {
		case ip.IsUnspecified():
		case ip.IsMulticast():
			o.text(multicast, ip.String())
		default:
			o.text(unicast, ip.String())
		}
		return true
	}
}

var bridgeInfo = []infoAttr{
	{unix.IFLA_BR_FORWARD_DELAY, number(4, "forward_delay")},
	{unix.IFLA_BR_HELLO_TIME, number(4, "hello_time")},
	{unix.IFLA_BR_MAX_AGE, number(4, "max_age")},
	{unix.IFLA_BR_AGEING_TIME, number(4, "ageing_time")},
	{unix.IFLA_BR_STP_STATE, number(4, "stp_state")},
	{unix.IFLA_BR_PRIORITY, number(2, "priority")},
	{unix.IFLA_BR_VLAN_FILTERING, number(1, "vlan_filtering")},
	{unix.IFLA_BR_VLAN_PROTOCOL, ethertype("vlan_protocol")},
	{unix.IFLA_BR_BRIDGE_ID, bridgeID("bridge_id")},
	{unix.IFLA_BR_ROOT_ID, bridgeID("root_id")},
	{unix.IFLA_BR_ROOT_PORT, number(2, "root_port")},
	{unix.IFLA_BR_ROOT_PATH_COST, number(4, "root_path_cost")},
	{unix.IFLA_BR_TOPOLOGY_CHANGE, number(1, "topology_change")},
	{unix.IFLA_BR_TOPOLOGY_CHANGE_DETECTED, number(1, "topology_change_detected")},
	{unix.IFLA_BR_VLAN_DEFAULT_PVID, number(2, "vlan_default_pvid")},
	{unix.IFLA_BR_VLAN_STATS_ENABLED, number(1, "vlan_stats_enabled")},
	{unix.IFLA_BR_VLAN_STATS_PER_PORT, number(1, "vlan_stats_per_port")},
	{unix.IFLA_BR_GROUP_FWD_MASK, hexText(2, "group_fwd_mask", false)},
	{unix.IFLA_BR_GROUP_ADDR, ethernet("group_addr")},
	{unix.IFLA_BR_MCAST_SNOOPING, number(1, "mcast_snooping")},
	{unix.IFLA_BR_MULTI_BOOLOPT, bridgeOptions},
	{unix.IFLA_BR_MCAST_ROUTER, number(1, "mcast_router")},
	{unix.IFLA_BR_MCAST_QUERY_USE_IFADDR, number(1, "mcast_query_use_ifaddr")},
	{unix.IFLA_BR_MCAST_QUERIER, number(1, "mcast_querier")},
	{unix.IFLA_BR_MCAST_HASH_ELASTICITY, number(4, "mcast_hash_elasticity")},
	{unix.IFLA_BR_MCAST_HASH_MAX, number(4, "mcast_hash_max")},
	{unix.IFLA_BR_MCAST_LAST_MEMBER_CNT, number(4, "mcast_last_member_cnt")},
	{unix.IFLA_BR_MCAST_STARTUP_QUERY_CNT, number(4, "mcast_startup_query_cnt")},
	{unix.IFLA_BR_MCAST_LAST_MEMBER_INTVL, number(8, "mcast_last_member_intvl")},
	{unix.IFLA_BR_MCAST_MEMBERSHIP_INTVL, number(8, "mcast_membership_intvl")},
	{unix.IFLA_BR_MCAST_QUERIER_INTVL, number(8, "mcast_querier_intvl")},
	{unix.IFLA_BR_MCAST_QUERY_INTVL, number(8, "mcast_query_intvl")},
	{unix.IFLA_BR_MCAST_QUERY_RESPONSE_INTVL, number(8, "mcast_query_response_intvl")},
	{unix.IFLA_BR_MCAST_STARTUP_QUERY_INTVL, number(8, "mcast_startup_query_intvl")},
	{unix.IFLA_BR_MCAST_STATS_ENABLED, number(1, "mcast_stats_enabled")},
	{unix.IFLA_BR_MCAST_IGMP_VERSION, number(1, "mcast_igmp_version")},
	{unix.IFLA_BR_MCAST_MLD_VERSION, number(1, "mcast_mld_version")},
	{unix.IFLA_BR_NF_CALL_IPTABLES, number(1, "nf_call_iptables")},
	{unix.IFLA_BR_NF_CALL_IP6TABLES, number(1, "nf_call_ip6tables")},
	{unix.IFLA_BR_NF_CALL_ARPTABLES, number(1, "nf_call_arptables")},
}

// bridgeID is struct ifla_bridge_id: two bytes of priority, then an Ethernet
// address that ip writes without leading zeros. (ip 6.1 shows the bridge's own
// id under root_id; we show the root's.)
func bridgeID(name string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		if len(v) != 8 {
			return false
		}
		o.text(name, fmt.Sprintf("%02x%02x.%x:%x:%x:%x:%x:%x", v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]))
		return true
	}
}

// bridgeOptions is struct br_boolopt_multi: values, and which of them are known.
func bridgeOptions(o *object, v []byte) bool {
	if len(v) != 8 {
		return false
	}
	values, mask := binary.NativeEndian.Uint32(v), binary.NativeEndian.Uint32(v[4:])
	for bit, name := range []string{"no_linklocal_learn", "mcast_vlan_snooping"} {
		if mask&(1<<bit) != 0 {
			o.number(name, uint64(values>>bit&1))
		}
	}
	return true
}

const macvlanSource = 16 // MACVLAN_MODE_SOURCE

var macvlanInfo = []infoAttr{
	{unix.IFLA_MACVLAN_MODE, unsigned(4, func(o *object, n uint64) { o.text("mode", macvlanMode(n)) })},
	{unix.IFLA_MACVLAN_FLAGS, unsigned(2, func(o *object, n uint64) {
		for bit, name := range []string{"nopromisc", "nodst"} {
			if n&(1<<bit) != 0 {
				o.bool(name, true)
			}
		}
	})},
	{unix.IFLA_MACVLAN_BC_QUEUE_LEN, number(4, "bcqueuelen")},
	{unix.IFLA_MACVLAN_BC_QUEUE_LEN_USED, number(4, "usedbcqueuelen")},
	{unix.IFLA_MACVLAN_MACADDR_COUNT, unsigned(4, func(o *object, n uint64) {
		if mode, _ := uintOf(o.values[unix.IFLA_MACVLAN_MODE], 4); mode == macvlanSource {
			o.number("macaddr_count", n)
		}
	})},
	{unix.IFLA_MACVLAN_MACADDR_DATA, func(o *object, v []byte) bool {
		mode, _ := uintOf(o.values[unix.IFLA_MACVLAN_MODE], 4)
		return mode != macvlanSource || putList(o, "macaddr_data", v, func(typ uint16, v []byte) string {
			if typ != unix.IFLA_MACVLAN_MACADDR || len(v) != 6 {
				return ""
			}
			return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", v[0], v[1], v[2], v[3], v[4], v[5])
		})
	}},
}

func macvlanMode(n uint64) string {
	switch n {
	case 1:
		return "private"
	case 2:
		return "vepa"
	case 4:
		return "bridge"
	case 8:
		return "passthru"
	case macvlanSource:
		return "source"
	}
	return "unknown"
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

var vxlanInfo = []infoAttr{
	{unix.IFLA_VXLAN_COLLECT_METADATA, onlyTrue("external")},
	{unix.IFLA_VXLAN_VNIFILTER, onlyTrue("vnifilter")},
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
	{unix.IFLA_VXLAN_PORT, func(o *object, v []byte) bool {
		if len(v) != 2 {
			return false
		}
		o.number("port", uint64(binary.BigEndian.Uint16(v)))
		return true
	}},
	{unix.IFLA_VXLAN_LEARNING, boolean("learning")},
	{unix.IFLA_VXLAN_PROXY, onlyTrue("proxy")},
	{unix.IFLA_VXLAN_RSC, onlyTrue("rsc")},
	{unix.IFLA_VXLAN_L2MISS, onlyTrue("l2miss")},
	{unix.IFLA_VXLAN_L3MISS, onlyTrue("l3miss")},
	{unix.IFLA_VXLAN_TOS, hexText(1, "tos", true)},
	{unix.IFLA_VXLAN_TTL, unsigned(1, func(o *object, n uint64) {
		if inherit, _ := uintOf(o.values[unix.IFLA_VXLAN_TTL_INHERIT], 1); inherit == 0 {
			o.number("ttl", n)
		}
	})},
	{unix.IFLA_VXLAN_DF, named(1, "df", "unset", "set", "inherit")},
	{unix.IFLA_VXLAN_LABEL, func(o *object, v []byte) bool {
		if len(v) != 4 {
			return false
		}
		putHex(o, "label", uint64(binary.BigEndian.Uint32(v)), true)
		return true
	}},
	{unix.IFLA_VXLAN_AGEING, number(4, "ageing")},
	{unix.IFLA_VXLAN_LIMIT, nonZero(4, "limit")},
	{unix.IFLA_VXLAN_UDP_CSUM, boolean("udp_csum")},
	{unix.IFLA_VXLAN_UDP_ZERO_CSUM6_TX, boolean("udp_zero_csum6_tx")},
	{unix.IFLA_VXLAN_UDP_ZERO_CSUM6_RX, boolean("udp_zero_csum6_rx")},
	{unix.IFLA_VXLAN_REMCSUM_TX, onlyTrue("remcsum_tx")},
	{unix.IFLA_VXLAN_REMCSUM_RX, onlyTrue("remcsum_rx")},
	{unix.IFLA_VXLAN_GBP, present("gbp")},
	{unix.IFLA_VXLAN_GPE, present("gpe")},
}

var vlanInfo = []infoAttr{
	{unix.IFLA_VLAN_PROTOCOL, ethertype("protocol")},
	{unix.IFLA_VLAN_ID, number(2, "id")},
	{unix.IFLA_VLAN_FLAGS, vlanFlags},
	{unix.IFLA_VLAN_INGRESS_QOS, vlanQoS("ingress_qos")},
	{unix.IFLA_VLAN_EGRESS_QOS, vlanQoS("egress_qos")},
}

// vlanFlags is struct ifla_vlan_flags: flags, then a mask.
func vlanFlags(o *object, v []byte) bool {
	if len(v) != 8 {
		return false
	}
	flags := binary.NativeEndian.Uint32(v)
	var names []string
	for _, f := range []struct {
		bit  uint32
		name string
	}{{1, "REORDER_HDR"}, {2, "GVRP"}, {8, "MVRP"}, {4, "LOOSE_BINDING"}, {16, "BRIDGE_BINDING"}} {
		if flags&f.bit != 0 {
			names = append(names, `"`+f.name+`"`)
			flags &^= f.bit
		}
	}
	if flags != 0 {
		names = append(names, fmt.Sprintf(`"%x"`, flags))
	}
	o.key("flags")
	o.dst = append(append(append(o.dst, '['), strings.Join(names, ",")...), ']')
	return true
}

// vlanQoS is a nest of struct ifla_vlan_qos_mapping.
func vlanQoS(name string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		var maps []string
		ok := attributes(v, func(_ uint16, v []byte) {
			if len(v) == 8 {
				maps = append(maps, fmt.Sprintf(`{"from":%d,"to":%d}`, binary.NativeEndian.Uint32(v), binary.NativeEndian.Uint32(v[4:])))
			}
		})
		o.key(name)
		o.dst = append(append(append(o.dst, '['), strings.Join(maps, ",")...), ']')
		return ok
	}
}

var bondInfo = []infoAttr{
	{unix.IFLA_BOND_MODE, named(1, "mode", "balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")},
	{unix.IFLA_BOND_ACTIVE_SLAVE, link("active_slave")},
	{unix.IFLA_BOND_MIIMON, number(4, "miimon")},
	{unix.IFLA_BOND_UPDELAY, number(4, "updelay")},
	{unix.IFLA_BOND_DOWNDELAY, number(4, "downdelay")},
	{unix.IFLA_BOND_PEER_NOTIF_DELAY, number(4, "peer_notify_delay")},
	{unix.IFLA_BOND_USE_CARRIER, number(1, "use_carrier")},
	{unix.IFLA_BOND_ARP_INTERVAL, number(4, "arp_interval")},
	{unix.IFLA_BOND_MISSED_MAX, number(1, "arp_missed_max")},
	{unix.IFLA_BOND_ARP_IP_TARGET, bondTargets("arp_ip_target")},
	{unix.IFLA_BOND_NS_IP6_TARGET, bondTargets("ns_ip6_target")},
	{unix.IFLA_BOND_ARP_VALIDATE, func(o *object, v []byte) bool {
		if n, ok := uintOf(v, 4); !ok || n == 0 { // ip prints null, which is absent here
			return ok
		}
		return named(4, "arp_validate", "none", "active", "backup", "all", "filter", "filter_active", "filter_backup")(o, v)
	}},
	{unix.IFLA_BOND_ARP_ALL_TARGETS, named(4, "arp_all_targets", "any", "all")},
	{unix.IFLA_BOND_PRIMARY, link("primary")},
	{unix.IFLA_BOND_PRIMARY_RESELECT, named(1, "primary_reselect", "always", "better", "failure")},
	{unix.IFLA_BOND_FAIL_OVER_MAC, named(1, "fail_over_mac", "none", "active", "follow")},
	{unix.IFLA_BOND_XMIT_HASH_POLICY, named(1, "xmit_hash_policy", "layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac")},
	{unix.IFLA_BOND_RESEND_IGMP, number(4, "resend_igmp")},
	{unix.IFLA_BOND_NUM_PEER_NOTIF, number(1, "num_peer_notif")},
	{unix.IFLA_BOND_ALL_SLAVES_ACTIVE, number(1, "all_slaves_active")},
	{unix.IFLA_BOND_MIN_LINKS, number(4, "min_links")},
	{unix.IFLA_BOND_LP_INTERVAL, number(4, "lp_interval")},
	{unix.IFLA_BOND_PACKETS_PER_SLAVE, number(4, "packets_per_slave")},
	{unix.IFLA_BOND_AD_LACP_ACTIVE, named(1, "ad_lacp_active", "off", "on")},
	{unix.IFLA_BOND_AD_LACP_RATE, named(1, "ad_lacp_rate", "slow", "fast")},
	{unix.IFLA_BOND_AD_SELECT, named(1, "ad_select", "stable", "bandwidth", "count")},
	{unix.IFLA_BOND_AD_INFO, func(o *object, v []byte) bool {
		o.key("ad_info")
		var ok bool
		o.dst, ok = appendInfoData(o.dst, bondAdInfo, v)
		return ok
	}},
	{unix.IFLA_BOND_AD_ACTOR_SYS_PRIO, number(2, "ad_actor_sys_prio")},
	{unix.IFLA_BOND_AD_USER_PORT_KEY, number(2, "ad_user_port_key")},
	{unix.IFLA_BOND_AD_ACTOR_SYSTEM, ethernet("ad_actor_system")},
	{unix.IFLA_BOND_TLB_DYNAMIC_LB, number(1, "tlb_dynamic_lb")},
}

var bondAdInfo = []infoAttr{
	{unix.IFLA_BOND_AD_INFO_AGGREGATOR, number(2, "aggregator")},
	{unix.IFLA_BOND_AD_INFO_NUM_PORTS, number(2, "num_ports")},
	{unix.IFLA_BOND_AD_INFO_ACTOR_KEY, number(2, "actor_key")},
	{unix.IFLA_BOND_AD_INFO_PARTNER_KEY, number(2, "partner_key")},
	{unix.IFLA_BOND_AD_INFO_PARTNER_MAC, ethernet("partner_mac")},
}

// bondTargets is a nest of IP addresses; ip shows no empty list.
func bondTargets(name string) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		return len(v) == 0 || putList(o, name, v, func(_ uint16, v []byte) string {
			ip, ok := netip.AddrFromSlice(v)
			if !ok {
				return ""
			}
			return ip.String()
		})
	}
}

var netkitInfo = []infoAttr{
	{unix.IFLA_NETKIT_MODE, named(4, "mode", "l2", "l3")},
	{unix.IFLA_NETKIT_PRIMARY, named(1, "type", "peer", "primary")},
	{unix.IFLA_NETKIT_POLICY, netkitPolicy("policy")},
	{unix.IFLA_NETKIT_PEER_POLICY, netkitPolicy("peer_policy")},
}

// netkitPolicy is NETKIT_PASS (-1) or NETKIT_DROP (2).
func netkitPolicy(name string) func(*object, []byte) bool {
	return unsigned(4, func(o *object, n uint64) {
		switch int32(n) {
		case -1:
			o.text(name, "forward")
		case 2:
			o.text(name, "blackhole")
		default:
			o.text(name, "UNKNOWN")
		}
	})
}
