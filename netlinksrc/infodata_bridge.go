package netlinksrc

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"ifacebridge/netlinksrc/internal/uapi"
)

var bridgeInfo = []infoAttr{
	{unix.IFLA_BR_FORWARD_DELAY, number(4, "forward_delay")},
	{unix.IFLA_BR_HELLO_TIME, number(4, "hello_time")},
	{unix.IFLA_BR_MAX_AGE, number(4, "max_age")},
	{unix.IFLA_BR_AGEING_TIME, number(4, "ageing_time")},
	{unix.IFLA_BR_STP_STATE, number(4, "stp_state")},
	{uapi.IFLA_BR_STP_MODE, named(4, "stp_mode", stpModes)},
	{unix.IFLA_BR_PRIORITY, number(2, "priority")},
	{unix.IFLA_BR_VLAN_FILTERING, number(1, "vlan_filtering")},
	{unix.IFLA_BR_VLAN_PROTOCOL, ethertype("vlan_protocol")},
	{unix.IFLA_BR_BRIDGE_ID, bridgeID("bridge_id")},
	{unix.IFLA_BR_ROOT_ID, bridgeID("root_id")},
	{unix.IFLA_BR_ROOT_PORT, number(2, "root_port")},
	{unix.IFLA_BR_ROOT_PATH_COST, number(4, "root_path_cost")},
	{unix.IFLA_BR_TOPOLOGY_CHANGE, number(1, "topology_change")},
	{unix.IFLA_BR_TOPOLOGY_CHANGE_DETECTED, number(1, "topology_change_detected")},
	{unix.IFLA_BR_FDB_MAX_LEARNED, number(4, "fdb_max_learned")},
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
	{unix.IFLA_BR_MCAST_QUERIER_STATE, querierState},
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
	for bit, name := range bridgeOptionNames {
		if mask&(1<<bit) != 0 {
			o.number(name, uint64(values>>bit&1))
		}
	}
	return true
}

var bridgeOptionNames = []string{
	uapi.BR_BOOLOPT_NO_LL_LEARN:                   "no_linklocal_learn",
	uapi.BR_BOOLOPT_MCAST_VLAN_SNOOPING:           "mcast_vlan_snooping",
	uapi.BR_BOOLOPT_MST_ENABLE:                    "mst_enabled",
	uapi.BR_BOOLOPT_MDB_OFFLOAD_FAIL_NOTIFICATION: "mdb_offload_fail_notification",
	uapi.BR_BOOLOPT_FDB_LOCAL_VLAN_0:              "fdb_local_vlan_0",
}

var stpModes = []string{uapi.BR_STP_MODE_AUTO: "auto", uapi.BR_STP_MODE_USER: "user", uapi.BR_STP_MODE_KERNEL: "kernel"}

// querierState is a nest of who queries for multicast, without the timers.
func querierState(o *object, v []byte) bool {
	var values [maxAttr][]byte
	ok := collect(v, &values)
	for _, family := range []struct {
		name          string
		address, port uint16
		size          int
	}{
		{"ipv4", uapi.BRIDGE_QUERIER_IP_ADDRESS, uapi.BRIDGE_QUERIER_IP_PORT, 4},
		{"ipv6", uapi.BRIDGE_QUERIER_IPV6_ADDRESS, uapi.BRIDGE_QUERIER_IPV6_PORT, 16},
	} {
		o.key("mcast_querier_state_" + family.name)
		inner := object{dst: append(o.dst, '{'), values: &values}
		ok = inner.has(family.address, ipText(family.size, "mcast_querier_"+family.name+"_addr")) && ok
		ok = inner.has(family.port, number(4, "mcast_querier_"+family.name+"_port")) && ok
		o.dst = append(inner.dst, '}')
	}
	return ok
}

// bridgeTicks are a bridge's timers, and how many addresses it has learned.
const bridgeTicks = 1<<unix.IFLA_BR_HELLO_TIMER | 1<<unix.IFLA_BR_TCN_TIMER | 1<<unix.IFLA_BR_TOPOLOGY_CHANGE_TIMER |
	1<<unix.IFLA_BR_GC_TIMER | 1<<unix.IFLA_BR_FDB_N_LEARNED

// bridgePort is what a bridge knows of a port. It stands in the port's own messages as
// IFLA_INFO_SLAVE_DATA, and in those of AF_BRIDGE as IFLA_PROTINFO.
var bridgePort = &infoKind{attrs: bridgePortInfo, links: []string{"backup_port"},
	ticks: 1<<unix.IFLA_BRPORT_MESSAGE_AGE_TIMER | 1<<unix.IFLA_BRPORT_FORWARD_DELAY_TIMER | 1<<unix.IFLA_BRPORT_HOLD_TIMER}

var bridgePortInfo = []infoAttr{
	{unix.IFLA_BRPORT_STATE, namedOr(1, "state", "state_index", bridgePortStates)},
	{unix.IFLA_BRPORT_PRIORITY, number(2, "priority")},
	{unix.IFLA_BRPORT_COST, number(4, "cost")},
	{unix.IFLA_BRPORT_MODE, boolean("hairpin")},
	{unix.IFLA_BRPORT_GUARD, boolean("guard")},
	{unix.IFLA_BRPORT_PROTECT, boolean("root_block")},
	{unix.IFLA_BRPORT_FAST_LEAVE, boolean("fastleave")},
	{unix.IFLA_BRPORT_LEARNING, boolean("learning")},
	{unix.IFLA_BRPORT_UNICAST_FLOOD, boolean("flood")},
	{unix.IFLA_BRPORT_ID, hexText(2, "id", false)},
	{unix.IFLA_BRPORT_NO, hexText(2, "no", false)},
	{unix.IFLA_BRPORT_DESIGNATED_PORT, number(2, "designated_port")},
	{unix.IFLA_BRPORT_DESIGNATED_COST, number(2, "designated_cost")},
	{unix.IFLA_BRPORT_BRIDGE_ID, bridgeID("bridge_id")},
	{unix.IFLA_BRPORT_ROOT_ID, bridgeID("root_id")},
	{unix.IFLA_BRPORT_TOPOLOGY_CHANGE_ACK, number(1, "topology_change_ack")},
	{unix.IFLA_BRPORT_CONFIG_PENDING, number(1, "config_pending")},
	{unix.IFLA_BRPORT_PROXYARP, boolean("proxy_arp")},
	{unix.IFLA_BRPORT_PROXYARP_WIFI, boolean("proxy_arp_wifi")},
	{unix.IFLA_BRPORT_MULTICAST_ROUTER, number(1, "multicast_router")},
	{unix.IFLA_BRPORT_MCAST_FLOOD, boolean("mcast_flood")},
	{unix.IFLA_BRPORT_BCAST_FLOOD, boolean("bcast_flood")},
	{unix.IFLA_BRPORT_MCAST_TO_UCAST, boolean("mcast_to_unicast")},
	{unix.IFLA_BRPORT_NEIGH_SUPPRESS, boolean("neigh_suppress")},
	{unix.IFLA_BRPORT_NEIGH_VLAN_SUPPRESS, boolean("neigh_vlan_suppress")},
	{uapi.IFLA_BRPORT_NEIGH_FORWARD_GRAT, boolean("neigh_forward_grat")},
	{unix.IFLA_BRPORT_GROUP_FWD_MASK, hexText(2, "group_fwd_mask", false)},
	{unix.IFLA_BRPORT_GROUP_FWD_MASK, unsigned(2, func(o *object, n uint64) { o.text("group_fwd_mask_str", forwardMask(n)) })},
	{unix.IFLA_BRPORT_VLAN_TUNNEL, boolean("vlan_tunnel")},
	{unix.IFLA_BRPORT_ISOLATED, boolean("isolated")},
	{unix.IFLA_BRPORT_LOCKED, boolean("locked")},
	{unix.IFLA_BRPORT_MAB, boolean("mab")},
	{unix.IFLA_BRPORT_BACKUP_PORT, link("backup_port")},
	{unix.IFLA_BRPORT_BACKUP_NHID, number(4, "backup_nhid")},
}

var bridgePortStates = []string{
	uapi.BR_STATE_DISABLED:   "disabled",
	uapi.BR_STATE_LISTENING:  "listening",
	uapi.BR_STATE_LEARNING:   "learning",
	uapi.BR_STATE_FORWARDING: "forwarding",
	uapi.BR_STATE_BLOCKING:   "blocking",
}

// forwardMask names the link-local groups 01:80:c2:00:00:0X that are forwarded.
func forwardMask(n uint64) string {
	known := map[int]string{0: "stp", 2: "lacp", 14: "lldp"}
	var names []string
	for bit := range 16 {
		if n&(1<<bit) == 0 {
			continue
		}
		name, ok := known[bit]
		if !ok {
			name = fmt.Sprintf("0x%x", 1<<bit)
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return "0x0"
	}
	return strings.Join(names, ",")
}
