package netlinksrc

import (
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"ifacebridge/netlinksrc/internal/uapi"
	"ifacebridge/schema"
)

var bondInfo = []infoAttr{
	{unix.IFLA_BOND_MODE, named(1, "mode", bondModes)},
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
		return named(4, "arp_validate", []string{"none", "active", "backup", "all", "filter", "filter_active", "filter_backup"})(o, v)
	}},
	{unix.IFLA_BOND_ARP_ALL_TARGETS, named(4, "arp_all_targets", []string{"any", "all"})},
	{unix.IFLA_BOND_PRIMARY, link("primary")},
	{unix.IFLA_BOND_PRIMARY_RESELECT, named(1, "primary_reselect", []string{"always", "better", "failure"})},
	{unix.IFLA_BOND_FAIL_OVER_MAC, named(1, "fail_over_mac", []string{"none", "active", "follow"})},
	{unix.IFLA_BOND_XMIT_HASH_POLICY, named(1, "xmit_hash_policy", bondHashPolicies)},
	{unix.IFLA_BOND_RESEND_IGMP, number(4, "resend_igmp")},
	{unix.IFLA_BOND_NUM_PEER_NOTIF, number(1, "num_peer_notif")},
	{unix.IFLA_BOND_ALL_SLAVES_ACTIVE, number(1, "all_slaves_active")},
	{unix.IFLA_BOND_MIN_LINKS, number(4, "min_links")},
	{unix.IFLA_BOND_LP_INTERVAL, number(4, "lp_interval")},
	{unix.IFLA_BOND_PACKETS_PER_SLAVE, number(4, "packets_per_slave")},
	{unix.IFLA_BOND_AD_LACP_ACTIVE, named(1, "ad_lacp_active", []string{"off", "on"})},
	{unix.IFLA_BOND_AD_LACP_RATE, named(1, "ad_lacp_rate", []string{"slow", "fast"})},
	{unix.IFLA_BOND_COUPLED_CONTROL, boolean("coupled_control")},
	{uapi.IFLA_BOND_BROADCAST_NEIGH, boolean("broadcast_neighbor")},
	{unix.IFLA_BOND_AD_SELECT, named(1, "ad_select", []string{"stable", "bandwidth", "count"})},
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

var bondModes = []string{
	uapi.BOND_MODE_ROUNDROBIN:   "balance-rr",
	uapi.BOND_MODE_ACTIVEBACKUP: "active-backup",
	uapi.BOND_MODE_XOR:          "balance-xor",
	uapi.BOND_MODE_BROADCAST:    "broadcast",
	uapi.BOND_MODE_8023AD:       "802.3ad",
	uapi.BOND_MODE_TLB:          "balance-tlb",
	uapi.BOND_MODE_ALB:          "balance-alb",
}

var bondHashPolicies = []string{
	uapi.BOND_XMIT_POLICY_LAYER2:      "layer2",
	uapi.BOND_XMIT_POLICY_LAYER34:     "layer3+4",
	uapi.BOND_XMIT_POLICY_LAYER23:     "layer2+3",
	uapi.BOND_XMIT_POLICY_ENCAP23:     "encap2+3",
	uapi.BOND_XMIT_POLICY_ENCAP34:     "encap3+4",
	uapi.BOND_XMIT_POLICY_VLAN_SRCMAC: "vlan+srcmac",
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

var bondSlaveInfo = []infoAttr{
	{unix.IFLA_BOND_SLAVE_STATE, namedOr(1, "state", "state_index", []string{uapi.BOND_STATE_ACTIVE: "ACTIVE", uapi.BOND_STATE_BACKUP: "BACKUP"})},
	{unix.IFLA_BOND_SLAVE_MII_STATUS, namedOr(1, "mii_status", "mii_status_index", bondMIIStates)},
	{unix.IFLA_BOND_SLAVE_LINK_FAILURE_COUNT, number(4, "link_failure_count")},
	{unix.IFLA_BOND_SLAVE_PERM_HWADDR, hardwareAddress("perm_hwaddr")},
	{unix.IFLA_BOND_SLAVE_QUEUE_ID, number(2, "queue_id")},
	{unix.IFLA_BOND_SLAVE_PRIO, signed("prio")},
	{unix.IFLA_BOND_SLAVE_AD_AGGREGATOR_ID, number(2, "ad_aggregator_id")},
	{unix.IFLA_BOND_SLAVE_AD_ACTOR_OPER_PORT_STATE, lacpState(1, "ad_actor_oper_port_state")},
	{unix.IFLA_BOND_SLAVE_AD_PARTNER_OPER_PORT_STATE, lacpState(2, "ad_partner_oper_port_state")},
	{uapi.IFLA_BOND_SLAVE_AD_CHURN_ACTOR_STATE, namedOr(1, "churn_actor_state", "churn_actor_state", bondChurnStates)},
	{uapi.IFLA_BOND_SLAVE_AD_CHURN_PARTNER_STATE, namedOr(1, "churn_partner_state", "churn_partner_state", bondChurnStates)},
	{uapi.IFLA_BOND_SLAVE_ACTOR_PORT_PRIO, number(2, "actor_port_prio")},
}

// Settle takes out of what is said of a port what only its master's search makes of it. A
// bond that has lost all paths asks for one with ARP from each slave in turn, several times a
// second, for ever while nobody answers. The slave that asks is ACTIVE and GOING_BACK, and
// behind that GOING_DOWN; here it is what it is between: BACKUP and DOWN, until there is an
// answer to it (UP). Master may be nil, and nothing else of port is looked at than its settings.
func Settle(port, master *schema.Link) {
	if port.Info.SlaveKind != "bond" || master == nil {
		return
	}
	before, rest, asking := strings.Cut(port.Info.SlaveData, `"mii_status":"GOING_`)
	_, interval, asks := strings.Cut(master.Info.Data, `"arp_interval":`)
	if !asking || !asks || strings.HasPrefix(interval, "0") {
		return
	}
	_, behind, _ := strings.Cut(rest, `"`)
	port.Info.SlaveData = strings.Replace(before, `"ACTIVE"`, `"BACKUP"`, 1) + `"mii_status":"DOWN"` + behind
}

var bondMIIStates = []string{
	uapi.BOND_LINK_UP:   "UP",
	uapi.BOND_LINK_FAIL: "GOING_DOWN",
	uapi.BOND_LINK_DOWN: "DOWN",
	uapi.BOND_LINK_BACK: "GOING_BACK",
}

var bondChurnStates = []string{"MONITOR", "CHURN", "NO_CHURN"} // enum churn_state, which no header of the API has

// lacpState is a set of LACP_STATE_*, as a number and under the names of its bits.
func lacpState(size int, name string) func(*object, []byte) bool {
	return unsigned(size, func(o *object, n uint64) {
		o.number(name, n&0xff)
		bits(o, name+"_str", n&0xff, lacpStates)
	})
}

var lacpStates = []bit{
	{uapi.LACP_STATE_LACP_ACTIVITY, "active"},
	{uapi.LACP_STATE_LACP_TIMEOUT, "short_timeout"},
	{uapi.LACP_STATE_AGGREGATION, "aggregating"},
	{uapi.LACP_STATE_SYNCHRONIZATION, "in_sync"},
	{uapi.LACP_STATE_COLLECTING, "collecting"},
	{uapi.LACP_STATE_DISTRIBUTING, "distributing"},
	{uapi.LACP_STATE_DEFAULTED, "defaulted"},
	{uapi.LACP_STATE_EXPIRED, "expired"},
}
