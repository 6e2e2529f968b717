// Package uapi has constants of the kernel's headers that golang.org/x/sys/unix lacks,
// under the kernel's names. A test of netlinksrc holds them, and those that it takes
// from there, against the headers of the machine (Debian's linux-libc-dev).
package uapi

// include/uapi/linux/if_link.h: attributes of a link, and reasons for a notification.
const (
	IFLA_NETNS_IMMUTABLE = 0x43
	XDP_ATTACHED_NONE    = 0
	XDP_ATTACHED_DRV     = 1
	XDP_ATTACHED_SKB     = 2
	XDP_ATTACHED_HW      = 3
)

// include/uapi/linux/if_link.h: settings of kinds.
const (
	IFLA_BR_STP_MODE                       = 50
	BR_STP_MODE_AUTO                       = 0
	BR_STP_MODE_USER                       = 1
	BR_STP_MODE_KERNEL                     = 2
	IFLA_BRPORT_NEIGH_FORWARD_GRAT         = 45
	IFLA_BOND_BROADCAST_NEIGH              = 33
	IFLA_BOND_SLAVE_ACTOR_PORT_PRIO        = 10
	IFLA_BOND_SLAVE_AD_CHURN_ACTOR_STATE   = 11
	IFLA_BOND_SLAVE_AD_CHURN_PARTNER_STATE = 12
	MACVLAN_MODE_PRIVATE                   = 1
	MACVLAN_MODE_VEPA                      = 2
	MACVLAN_MODE_BRIDGE                    = 4
	MACVLAN_MODE_PASSTHRU                  = 8
	MACVLAN_MODE_SOURCE                    = 16
	MACVLAN_FLAG_NOPROMISC                 = 1
	MACVLAN_FLAG_NODST                     = 2
	IPVLAN_MODE_L2                         = 0
	IPVLAN_MODE_L3                         = 1
	IPVLAN_MODE_L3S                        = 2
	IPVLAN_F_PRIVATE                       = 1
	IPVLAN_F_VEPA                          = 2
	NETKIT_SCRUB_NONE                      = 0
	NETKIT_SCRUB_DEFAULT                   = 1
	IFLA_NETKIT_SCRUB                      = 6
	IFLA_NETKIT_PEER_SCRUB                 = 7
	VXLAN_DF_UNSET                         = 0
	VXLAN_DF_SET                           = 1
	VXLAN_DF_INHERIT                       = 2
	IFLA_VXLAN_RESERVED_BITS               = 33
	IFLA_VXLAN_MC_ROUTE                    = 34
	GENEVE_DF_UNSET                        = 0
	GENEVE_DF_SET                          = 1
	GENEVE_DF_INHERIT                      = 2
	IFLA_GENEVE_LOCAL                      = 17
	IFLA_GENEVE_LOCAL6                     = 18
	MACSEC_VALIDATE_DISABLED               = 0
	MACSEC_VALIDATE_CHECK                  = 1
	MACSEC_VALIDATE_STRICT                 = 2
	MACSEC_OFFLOAD_OFF                     = 0
	MACSEC_OFFLOAD_PHY                     = 1
	MACSEC_OFFLOAD_MAC                     = 2
	GTP_ROLE_GGSN                          = 0
	GTP_ROLE_SGSN                          = 1
	IFLA_OVPN_MODE                         = 1
	OVPN_MODE_P2P                          = 0
	OVPN_MODE_MP                           = 1
	RMNET_FLAGS_INGRESS_DEAGGREGATION      = 1
	RMNET_FLAGS_INGRESS_MAP_COMMANDS       = 2
	RMNET_FLAGS_INGRESS_MAP_CKSUMV4        = 4
	RMNET_FLAGS_EGRESS_MAP_CKSUMV4         = 8
	RMNET_FLAGS_INGRESS_MAP_CKSUMV5        = 16
	RMNET_FLAGS_EGRESS_MAP_CKSUMV5         = 32
	IPOIB_MODE_DATAGRAM                    = 0
	IPOIB_MODE_CONNECTED                   = 1
)

// include/uapi/linux/if_bridge.h: states and options.
const (
	BR_STATE_DISABLED                        = 0
	BR_STATE_LISTENING                       = 1
	BR_STATE_LEARNING                        = 2
	BR_STATE_FORWARDING                      = 3
	BR_STATE_BLOCKING                        = 4
	BR_BOOLOPT_NO_LL_LEARN                   = 0
	BR_BOOLOPT_MCAST_VLAN_SNOOPING           = 1
	BR_BOOLOPT_MST_ENABLE                    = 2
	BR_BOOLOPT_MDB_OFFLOAD_FAIL_NOTIFICATION = 3
	BR_BOOLOPT_FDB_LOCAL_VLAN_0              = 4
	BRIDGE_QUERIER_IP_ADDRESS                = 1
	BRIDGE_QUERIER_IP_PORT                   = 2
	BRIDGE_QUERIER_IPV6_ADDRESS              = 5
	BRIDGE_QUERIER_IPV6_PORT                 = 6
)

// include/uapi/linux/if_bonding.h: modes and states.
const (
	BOND_MODE_ROUNDROBIN         = 0
	BOND_MODE_ACTIVEBACKUP       = 1
	BOND_MODE_XOR                = 2
	BOND_MODE_BROADCAST          = 3
	BOND_MODE_8023AD             = 4
	BOND_MODE_TLB                = 5
	BOND_MODE_ALB                = 6
	BOND_LINK_UP                 = 0
	BOND_LINK_FAIL               = 1
	BOND_LINK_DOWN               = 2
	BOND_LINK_BACK               = 3
	BOND_STATE_ACTIVE            = 0
	BOND_STATE_BACKUP            = 1
	BOND_XMIT_POLICY_LAYER2      = 0
	BOND_XMIT_POLICY_LAYER34     = 1
	BOND_XMIT_POLICY_LAYER23     = 2
	BOND_XMIT_POLICY_ENCAP23     = 3
	BOND_XMIT_POLICY_ENCAP34     = 4
	BOND_XMIT_POLICY_VLAN_SRCMAC = 5
	LACP_STATE_LACP_ACTIVITY     = 1
	LACP_STATE_LACP_TIMEOUT      = 2
	LACP_STATE_AGGREGATION       = 4
	LACP_STATE_SYNCHRONIZATION   = 8
	LACP_STATE_COLLECTING        = 16
	LACP_STATE_DISTRIBUTING      = 32
	LACP_STATE_DEFAULTED         = 64
	LACP_STATE_EXPIRED           = 0x80
)

// include/uapi/linux/if_tunnel.h: tunnels over IPv4 and IPv6.
const (
	IFLA_IPTUN_LINK                = 1
	IFLA_IPTUN_LOCAL               = 2
	IFLA_IPTUN_REMOTE              = 3
	IFLA_IPTUN_TTL                 = 4
	IFLA_IPTUN_TOS                 = 5
	IFLA_IPTUN_ENCAP_LIMIT         = 6
	IFLA_IPTUN_FLOWINFO            = 7
	IFLA_IPTUN_FLAGS               = 8
	IFLA_IPTUN_PROTO               = 9
	IFLA_IPTUN_PMTUDISC            = 10
	IFLA_IPTUN_6RD_PREFIX          = 11
	IFLA_IPTUN_6RD_RELAY_PREFIX    = 12
	IFLA_IPTUN_6RD_PREFIXLEN       = 13
	IFLA_IPTUN_6RD_RELAY_PREFIXLEN = 14
	IFLA_IPTUN_ENCAP_TYPE          = 15
	IFLA_IPTUN_ENCAP_FLAGS         = 16
	IFLA_IPTUN_ENCAP_SPORT         = 17
	IFLA_IPTUN_ENCAP_DPORT         = 18
	IFLA_IPTUN_COLLECT_METADATA    = 19
	IFLA_IPTUN_FWMARK              = 20
	TUNNEL_ENCAP_NONE              = 0
	TUNNEL_ENCAP_FOU               = 1
	TUNNEL_ENCAP_GUE               = 2
	TUNNEL_ENCAP_FLAG_CSUM         = 1
	TUNNEL_ENCAP_FLAG_CSUM6        = 2
	TUNNEL_ENCAP_FLAG_REMCSUM      = 4
	SIT_ISATAP                     = 1
	IFLA_GRE_LINK                  = 1
	IFLA_GRE_IFLAGS                = 2
	IFLA_GRE_OFLAGS                = 3
	IFLA_GRE_IKEY                  = 4
	IFLA_GRE_OKEY                  = 5
	IFLA_GRE_LOCAL                 = 6
	IFLA_GRE_REMOTE                = 7
	IFLA_GRE_TTL                   = 8
	IFLA_GRE_TOS                   = 9
	IFLA_GRE_PMTUDISC              = 10
	IFLA_GRE_ENCAP_LIMIT           = 11
	IFLA_GRE_FLOWINFO              = 12
	IFLA_GRE_FLAGS                 = 13
	IFLA_GRE_ENCAP_TYPE            = 14
	IFLA_GRE_ENCAP_FLAGS           = 15
	IFLA_GRE_ENCAP_SPORT           = 16
	IFLA_GRE_ENCAP_DPORT           = 17
	IFLA_GRE_COLLECT_METADATA      = 18
	IFLA_GRE_IGNORE_DF             = 19
	IFLA_GRE_FWMARK                = 20
	IFLA_GRE_ERSPAN_INDEX          = 21
	IFLA_GRE_ERSPAN_VER            = 22
	IFLA_GRE_ERSPAN_DIR            = 23
	IFLA_GRE_ERSPAN_HWID           = 24
	IFLA_VTI_LINK                  = 1
	IFLA_VTI_IKEY                  = 2
	IFLA_VTI_OKEY                  = 3
	IFLA_VTI_LOCAL                 = 4
	IFLA_VTI_REMOTE                = 5
	IFLA_VTI_FWMARK                = 6
)

// include/uapi/linux/ip6_tunnel.h: flags of tunnels over IPv6.
const (
	IP6_TNL_F_IGN_ENCAP_LIMIT    = 1
	IP6_TNL_F_USE_ORIG_TCLASS    = 2
	IP6_TNL_F_USE_ORIG_FLOWLABEL = 4
	IP6_TNL_F_MIP6_DEV           = 8
	IP6_TNL_F_RCV_DSCP_COPY      = 16
	IP6_TNL_F_USE_ORIG_FWMARK    = 32
	IP6_TNL_F_ALLOW_LOCAL_REMOTE = 64
)

// include/uapi/linux/if_macsec.h: cipher suites.
const (
	MACSEC_CIPHER_ID_GCM_AES_128     = 0x80c20001000001
	MACSEC_CIPHER_ID_GCM_AES_256     = 0x80c20001000002
	MACSEC_CIPHER_ID_GCM_AES_XPN_128 = 0x80c20001000003
	MACSEC_CIPHER_ID_GCM_AES_XPN_256 = 0x80c20001000004
	MACSEC_DEFAULT_CIPHER_ID         = 0x80020001000001
)

// include/uapi/linux/amt.h: automatic multicast tunneling.
const (
	IFLA_AMT_MODE         = 1
	IFLA_AMT_RELAY_PORT   = 2
	IFLA_AMT_GATEWAY_PORT = 3
	IFLA_AMT_LINK         = 4
	IFLA_AMT_LOCAL_IP     = 5
	IFLA_AMT_REMOTE_IP    = 6
	IFLA_AMT_DISCOVERY_IP = 7
	IFLA_AMT_MAX_TUNNELS  = 8
	AMT_MODE_GATEWAY      = 0
	AMT_MODE_RELAY        = 1
)

// include/uapi/linux/wwan.h: modems.
const (
	IFLA_WWAN_LINK_ID = 1
)

// include/uapi/linux/can/netlink.h: CAN controllers.
const (
	IFLA_CAN_TDC                     = 16
	IFLA_CAN_CTRLMODE_EXT            = 17
	IFLA_CAN_XL_DATA_BITTIMING       = 18
	IFLA_CAN_XL_DATA_BITTIMING_CONST = 19
	IFLA_CAN_XL_DATA_BITRATE_CONST   = 20
	IFLA_CAN_XL_TDC                  = 21
	IFLA_CAN_XL_PWM                  = 22
	IFLA_CAN_TDC_TDCV_MIN            = 1
	IFLA_CAN_TDC_TDCV_MAX            = 2
	IFLA_CAN_TDC_TDCO_MIN            = 3
	IFLA_CAN_TDC_TDCO_MAX            = 4
	IFLA_CAN_TDC_TDCF_MIN            = 5
	IFLA_CAN_TDC_TDCF_MAX            = 6
	IFLA_CAN_TDC_TDCV                = 7
	IFLA_CAN_TDC_TDCO                = 8
	IFLA_CAN_TDC_TDCF                = 9
	IFLA_CAN_CTRLMODE_SUPPORTED      = 1
	IFLA_CAN_PWM_PWMS_MIN            = 1
	IFLA_CAN_PWM_PWMS_MAX            = 2
	IFLA_CAN_PWM_PWML_MIN            = 3
	IFLA_CAN_PWM_PWML_MAX            = 4
	IFLA_CAN_PWM_PWMO_MIN            = 5
	IFLA_CAN_PWM_PWMO_MAX            = 6
	IFLA_CAN_PWM_PWMS                = 7
	IFLA_CAN_PWM_PWML                = 8
	IFLA_CAN_PWM_PWMO                = 9
)

// include/uapi/linux/if_vlan.h
const (
	VLAN_FLAG_REORDER_HDR    = 0x1
	VLAN_FLAG_GVRP           = 0x2
	VLAN_FLAG_LOOSE_BINDING  = 0x4
	VLAN_FLAG_MVRP           = 0x8
	VLAN_FLAG_BRIDGE_BINDING = 0x10
)

// include/uapi/linux/rtnetlink.h: what else an answer shall have, or not have.
const (
	RTEXT_FILTER_VF         = 1 << 0 // SR-IOV virtual functions
	RTEXT_FILTER_SKIP_STATS = 1 << 3
)
