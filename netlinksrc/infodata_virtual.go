package netlinksrc

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"ifacebridge/netlinksrc/internal/uapi"
)

// Links on other links, and those with a program or a modem behind them.

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
	bits(o, "flags", uint64(binary.NativeEndian.Uint32(v)), vlanFlagNames)
	return true
}

var vlanFlagNames = []bit{
	{uapi.VLAN_FLAG_REORDER_HDR, "REORDER_HDR"},
	{uapi.VLAN_FLAG_GVRP, "GVRP"},
	{uapi.VLAN_FLAG_MVRP, "MVRP"},
	{uapi.VLAN_FLAG_LOOSE_BINDING, "LOOSE_BINDING"},
	{uapi.VLAN_FLAG_BRIDGE_BINDING, "BRIDGE_BINDING"},
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

var macvlanInfo = []infoAttr{
	{unix.IFLA_MACVLAN_MODE, named(4, "mode", macvlanModes)},
	{unix.IFLA_MACVLAN_FLAGS, unsigned(2, func(o *object, n uint64) {
		if n&uapi.MACVLAN_FLAG_NOPROMISC != 0 {
			o.bool("nopromisc", true)
		}
		if n&uapi.MACVLAN_FLAG_NODST != 0 {
			o.bool("nodst", true)
		}
	})},
	{unix.IFLA_MACVLAN_BC_QUEUE_LEN, number(4, "bcqueuelen")},
	{unix.IFLA_MACVLAN_BC_QUEUE_LEN_USED, number(4, "usedbcqueuelen")},
	{unix.IFLA_MACVLAN_BC_CUTOFF, signed("bclim")},
	{unix.IFLA_MACVLAN_MACADDR_COUNT, unsigned(4, func(o *object, n uint64) {
		if mode, _ := uintOf(o.values[unix.IFLA_MACVLAN_MODE], 4); mode == uapi.MACVLAN_MODE_SOURCE {
			o.number("macaddr_count", n)
		}
	})},
	{unix.IFLA_MACVLAN_MACADDR_DATA, func(o *object, v []byte) bool {
		mode, _ := uintOf(o.values[unix.IFLA_MACVLAN_MODE], 4)
		return mode != uapi.MACVLAN_MODE_SOURCE || putList(o, "macaddr_data", v, func(typ uint16, v []byte) string {
			if typ != unix.IFLA_MACVLAN_MACADDR || len(v) != 6 {
				return ""
			}
			return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", v[0], v[1], v[2], v[3], v[4], v[5])
		})
	}},
}

var macvlanModes = []string{
	uapi.MACVLAN_MODE_PRIVATE:  "private",
	uapi.MACVLAN_MODE_VEPA:     "vepa",
	uapi.MACVLAN_MODE_BRIDGE:   "bridge",
	uapi.MACVLAN_MODE_PASSTHRU: "passthru",
	uapi.MACVLAN_MODE_SOURCE:   "source",
}

var ipvlanInfo = []infoAttr{
	{unix.IFLA_IPVLAN_MODE, named(2, "mode", []string{uapi.IPVLAN_MODE_L2: "l2", uapi.IPVLAN_MODE_L3: "l3", uapi.IPVLAN_MODE_L3S: "l3s"})},
	{unix.IFLA_IPVLAN_FLAGS, unsigned(2, func(o *object, n uint64) {
		switch {
		case n&uapi.IPVLAN_F_PRIVATE != 0:
			o.bool("private", true)
		case n&uapi.IPVLAN_F_VEPA != 0:
			o.bool("vepa", true)
		default:
			o.bool("bridge", true)
		}
	})},
}

var macsecInfo = []infoAttr{
	{unix.IFLA_MACSEC_SCI, func(o *object, v []byte) bool {
		if len(v) == 8 {
			o.text("sci", fmt.Sprintf("%016x", binary.BigEndian.Uint64(v)))
		}
		return len(v) == 8
	}},
	{unix.IFLA_MACSEC_PROTECT, boolean("protect")},
	{unix.IFLA_MACSEC_CIPHER_SUITE, unsigned(8, func(o *object, n uint64) { o.text("cipher_suite", cipherSuite(n)) })},
	{unix.IFLA_MACSEC_ICV_LEN, number(1, "icv_len")},
	{unix.IFLA_MACSEC_ENCODING_SA, number(1, "encoding_sa")},
	{unix.IFLA_MACSEC_VALIDATION, macsecNamed("validation", []string{
		uapi.MACSEC_VALIDATE_DISABLED: "disabled", uapi.MACSEC_VALIDATE_CHECK: "check", uapi.MACSEC_VALIDATE_STRICT: "strict"})},
	{unix.IFLA_MACSEC_OFFLOAD, macsecNamed("offload", []string{
		uapi.MACSEC_OFFLOAD_OFF: "off", uapi.MACSEC_OFFLOAD_PHY: "phy", uapi.MACSEC_OFFLOAD_MAC: "mac"})},
	{unix.IFLA_MACSEC_ENCRYPT, boolean("encrypt")},
	{unix.IFLA_MACSEC_INC_SCI, boolean("inc_sci")},
	{unix.IFLA_MACSEC_ES, boolean("es")},
	{unix.IFLA_MACSEC_SCB, boolean("scb")},
	{unix.IFLA_MACSEC_REPLAY_PROTECT, boolean("replay_protect")},
	{unix.IFLA_MACSEC_WINDOW, number(4, "window")},
}

// macsecUnknown is what ip writes for a value of macsec that it has no name for.
const macsecUnknown = "(unknown)"

func macsecNamed(name string, names []string) func(*object, []byte) bool {
	return unsigned(1, func(o *object, n uint64) {
		if n < uint64(len(names)) {
			o.text(name, names[n])
		} else {
			o.text(name, macsecUnknown)
		}
	})
}

func cipherSuite(n uint64) string {
	switch n {
	case uapi.MACSEC_DEFAULT_CIPHER_ID, uapi.MACSEC_CIPHER_ID_GCM_AES_128:
		return "GCM-AES-128"
	case uapi.MACSEC_CIPHER_ID_GCM_AES_256:
		return "GCM-AES-256"
	case uapi.MACSEC_CIPHER_ID_GCM_AES_XPN_128:
		return "GCM-AES-XPN-128"
	case uapi.MACSEC_CIPHER_ID_GCM_AES_XPN_256:
		return "GCM-AES-XPN-256"
	}
	return macsecUnknown
}

var vrfInfo = []infoAttr{{unix.IFLA_VRF_TABLE, number(4, "table")}}

var vrfSlaveInfo = []infoAttr{{unix.IFLA_VRF_PORT_TABLE, number(4, "table")}}

var hsrInfo = []infoAttr{
	{unix.IFLA_HSR_SLAVE1, link("slave1")},
	{unix.IFLA_HSR_SLAVE2, link("slave2")},
	{unix.IFLA_HSR_INTERLINK, link("interlink")},
	{unix.IFLA_HSR_SUPERVISION_ADDR, ethernet("supervision_addr")},
	{unix.IFLA_HSR_PROTOCOL, number(1, "proto")},
	{unix.IFLA_HSR_VERSION, number(1, "version")},
}

var netkitInfo = []infoAttr{
	{unix.IFLA_NETKIT_MODE, named(4, "mode", []string{unix.NETKIT_L2: "l2", unix.NETKIT_L3: "l3"})},
	{unix.IFLA_NETKIT_PRIMARY, named(1, "type", []string{"peer", "primary"})},
	{unix.IFLA_NETKIT_POLICY, named(4, "policy", netkitPolicies)},
	{unix.IFLA_NETKIT_PEER_POLICY, named(4, "peer_policy", netkitPolicies)},
	{uapi.IFLA_NETKIT_SCRUB, named(4, "scrub", netkitScrubs)},
	{uapi.IFLA_NETKIT_PEER_SCRUB, named(4, "peer_scrub", netkitScrubs)},
}

var (
	netkitPolicies = []string{unix.NETKIT_PASS: "forward", unix.NETKIT_DROP: "blackhole"}
	netkitScrubs   = []string{uapi.NETKIT_SCRUB_NONE: "none", uapi.NETKIT_SCRUB_DEFAULT: "default"}
)

// tunInfo has the numbers of the owner and the group; ip looks up their names where it runs.
var tunInfo = []infoAttr{
	{unix.IFLA_TUN_TYPE, unsigned(1, func(o *object, n uint64) {
		switch n {
		case unix.IFF_TUN:
			o.text("type", "tun")
		case unix.IFF_TAP:
			o.text("type", "tap")
		default:
			o.text("type", fmt.Sprintf("UNKNOWN:%d", n))
		}
	})},
	{unix.IFLA_TUN_PI, boolean("pi")},
	{unix.IFLA_TUN_VNET_HDR, boolean("vnet_hdr")},
	{unix.IFLA_TUN_MULTI_QUEUE, boolean("multi_queue")},
	{unix.IFLA_TUN_NUM_QUEUES, whenMultiQueue("numqueues")},
	{unix.IFLA_TUN_NUM_DISABLED_QUEUES, whenMultiQueue("numdisabled")},
	{unix.IFLA_TUN_PERSIST, boolean("persist")},
	{unix.IFLA_TUN_OWNER, number(4, "user")},
	{unix.IFLA_TUN_GROUP, number(4, "group")},
}

func whenMultiQueue(name string) func(*object, []byte) bool {
	return unsigned(4, func(o *object, n uint64) {
		if multi, _ := uintOf(o.values[unix.IFLA_TUN_MULTI_QUEUE], 1); multi != 0 {
			o.number(name, n)
		}
	})
}

var dsaInfo = []infoAttr{{unix.IFLA_DSA_CONDUIT, link("conduit")}}

var wwanInfo = []infoAttr{{uapi.IFLA_WWAN_LINK_ID, number(4, "linkid")}}

var rmnetInfo = []infoAttr{
	{unix.IFLA_RMNET_MUX_ID, number(2, "mux_id")},
	{unix.IFLA_RMNET_FLAGS, func(o *object, v []byte) bool { // struct ifla_rmnet_flags: flags, then a mask
		if len(v) == 8 {
			bits(o, "flags", uint64(binary.NativeEndian.Uint32(v)), rmnetFlags)
		}
		return len(v) == 8
	}},
}

var rmnetFlags = []bit{
	{uapi.RMNET_FLAGS_INGRESS_DEAGGREGATION, "INGRESS_DEAGGREGATION"},
	{uapi.RMNET_FLAGS_INGRESS_MAP_COMMANDS, "INGRESS_MAP_COMMANDS"},
	{uapi.RMNET_FLAGS_INGRESS_MAP_CKSUMV4, "INGRESS_MAP_CKSUMV4"},
	{uapi.RMNET_FLAGS_EGRESS_MAP_CKSUMV4, "EGRESS_MAP_CKSUMV4"},
	{uapi.RMNET_FLAGS_INGRESS_MAP_CKSUMV5, "INGRESS_MAP_CKSUMV5"},
	{uapi.RMNET_FLAGS_EGRESS_MAP_CKSUMV5, "EGRESS_MAP_CKSUMV5"},
}

var ipoibInfo = []infoAttr{
	{unix.IFLA_IPOIB_PKEY, unsigned(2, func(o *object, n uint64) { o.text("key", fmt.Sprintf("%#04x", n)) })},
	{unix.IFLA_IPOIB_MODE, unsigned(2, func(o *object, n uint64) {
		mode, ok := map[uint64]string{uapi.IPOIB_MODE_DATAGRAM: "datagram", uapi.IPOIB_MODE_CONNECTED: "connected"}[n]
		if !ok {
			mode = "unknown"
		}
		o.text("mode", mode)
	})},
	{unix.IFLA_IPOIB_UMCAST, unsigned(2, func(o *object, n uint64) { o.text("umcast", fmt.Sprintf("%04x", n)) })},
}
