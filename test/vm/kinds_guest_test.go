package vm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lines are what makes links of every kind, with many of their settings. A line that this
// kernel or this ip cannot do is counted, and the rest goes on.
var lines = strings.Split(strings.ReplaceAll(strings.TrimSpace(`
link add d0 type dummy
link add d1 type dummy
link add d2 type dummy
link add d3 type dummy
link add d4 type dummy
link add d5 type dummy
link add d6 type dummy
link add d7 type dummy
link add d8 type dummy
link add d9 type dummy
link add d10 type dummy
link add d11 type dummy
link add d12 type dummy
link add d13 type dummy
link add d14 type dummy
link add d15 type dummy
link add d16 type dummy
link add d17 type dummy
link add d18 type dummy
link add d19 type dummy
link add d20 type dummy
link add d21 type dummy
link set d0 up
link set d1 up
link set d2 up
link add ifb9 type ifb
link add v0 type veth peer name v1
link set v0 up
link set v1 up
link set v1 alias an-alias group 7
link property add dev v1 altname another-name altname yet-another
link add vx0 type vxcan peer name vx1
link add can0 type vcan
link add nl0 type nlmon
link add vsock0 type vsockmon
link add wg0 type wireguard
link add bo0 type bond mode active-backup miimon 100 updelay 200 downdelay 200 \
  primary_reselect better fail_over_mac active
link set bo0 type bond num_grat_arp 3 resend_igmp 4
link set d3 master bo0
link set d4 master bo0
link set d3 type bond_slave queue_id 2 prio -5
link set bo0 up
link set bo0 type bond primary d3 active_slave d3
link add bo1 type bond mode 802.3ad lacp_rate fast xmit_hash_policy layer3+4 min_links 1 \
  ad_select bandwidth ad_user_port_key 7 ad_actor_system 02:00:00:00:00:77
link set v0 down
link set v0 master bo1
link set bo1 up
link add bo2 type bond mode balance-rr packets_per_slave 3 \
  arp_interval 200 arp_ip_target 192.0.2.1,192.0.2.2 arp_all_targets all
link add bo3 type bond mode active-backup \
  arp_interval 200 arp_ip_target 192.0.2.1 arp_validate all ns_ip6_target 2001:db8::1
link add bo4 type bond mode balance-tlb tlb_dynamic_lb 0 lp_interval 5
link add bo5 type bond mode balance-alb all_slaves_active 1
link add bo6 type bond mode balance-xor xmit_hash_policy vlan+srcmac
link add bo7 type bond mode broadcast
link add bo8 type bond mode 802.3ad coupled_control off
link add br0 type bridge
link set br0 type bridge stp_state 1 forward_delay 400 hello_time 300 max_age 1900 priority 4096 \
  ageing_time 1234 vlan_filtering 1 vlan_default_pvid 7 vlan_protocol 802.1ad
link set br0 type bridge group_fwd_mask 8 mcast_snooping 1 mcast_router 2 mcast_querier 1 \
  mcast_query_use_ifaddr 1 mcast_hash_max 512 mcast_igmp_version 3 mcast_mld_version 2 \
  mcast_stats_enabled 1 vlan_stats_enabled 1
link set br0 type bridge no_linklocal_learn 1 nf_call_iptables 1 nf_call_ip6tables 1 nf_call_arptables 1
link set br0 type bridge mcast_last_member_count 3 mcast_startup_query_count 4 \
  mcast_last_member_interval 200 mcast_membership_interval 20000
link set br0 type bridge fdb_max_learned 100
link set br0 type bridge mst_enabled 1
link set d5 master br0
link set d6 master br0
link set d7 master br0
link set br0 up
link set d5 up
link set d6 up
link set d5 type bridge_slave priority 8 cost 77 hairpin on guard on root_block on fastleave on learning off flood off
link set d5 type bridge_slave mcast_router 2 mcast_flood off bcast_flood off mcast_to_unicast on \
  neigh_suppress on group_fwd_mask 0xc008 vlan_tunnel on isolated on
link set d6 type bridge_slave proxy_arp on proxy_arp_wifi on backup_port d7
link set d6 type bridge_slave locked on
link set d6 type bridge_slave mab on
link set d7 type bridge_slave neigh_vlan_suppress on backup_nhid 5
link add br1 type bridge mcast_snooping 1 mcast_querier 1
address add 192.0.2.77/24 dev br1
link set br1 up
link add mv0 link d0 type macvlan mode bridge bcqueuelen 2000
link add mv1 link d1 type macvlan mode private
link add mv2 link d9 type macvlan mode passthru nopromisc
link add mv3 link d1 type macvlan mode vepa nodst
link add mv4 link d2 type macvlan mode source macaddr add 02:00:00:00:00:09
link set mv4 type macvlan macaddr add 02:00:00:00:00:0a
link add mv5 link d0 type macvlan mode bridge bclim 7
link add mt0 link d0 type macvtap mode bridge
link add iv0 link d10 type ipvlan mode l2
link add iv1 link d10 type ipvlan mode l2 private
link add iv2 link d10 type ipvlan mode l2 vepa
link add iv3 link d11 type ipvlan mode l3s
link add iv4 link d12 type ipvlan mode l3 bridge
link add it0 link d13 type ipvtap mode l2
link add vl0 link d0 type vlan id 100 ingress-qos-map 1:2 3:4 egress-qos-map 5:6
link add vl1 link d0 type vlan protocol 802.1ad id 200 reorder_hdr off loose_binding on
link add vl2 link d0 type vlan id 300 gvrp on mvrp on bridge_binding on
link add ms0 link d14 type macsec sci 1122334455667788 cipher gcm-aes-256 icvlen 16 \
  encrypt on send_sci on protect on replay on window 32 validate check
link add ms1 link d15 type macsec encrypt off validate strict encodingsa 2
link add ms2 link d16 type macsec cipher gcm-aes-xpn-128
link add vrf0 type vrf table 10
link set vrf0 up
link set d8 master vrf0
link add team0 type team
link set d21 master team0
link set team0 up
link add link wpan0 name low0 type lowpan
link add tun0 type gre remote 10.1.1.1 local 10.1.1.2 ttl 64 tos 0x10 ikey 5 okey 6 icsum ocsum iseq oseq dev d2
link add gre1 type gre remote 10.1.1.3 local any nopmtudisc ignore-df key 9 tos inherit
link add gre2 type gre external
link add gre3 type gre remote 127.0.0.1 local 127.0.0.1 fwmark 7 \
  encap fou encap-sport auto encap-dport 5555 encap-csum encap-remcsum
link add gret0 type gretap remote 10.1.1.1 local 10.1.1.3 key 1.2.3.4 ttl 5
link add gret1 type gretap external
link add er0 type erspan remote 10.1.1.5 local 10.1.1.6 seq key 7 erspan_ver 1 erspan 9
link add er1 type erspan remote 10.1.1.5 local 10.1.1.7 seq key 8 erspan_ver 2 erspan_dir egress erspan_hwid 4
link add er2 type erspan remote 10.1.1.5 local 10.1.1.8 seq key 8 erspan_ver 0
link add er3 type erspan external
link add ipip0 type ipip remote 10.1.1.7 local 10.1.1.8 ttl 7 tos inherit dev d2
link add ipip1 type ipip remote 10.1.1.17 local any mode any nopmtudisc fwmark 3 encap gue encap-sport 1 encap-dport 2
link add ipip2 type ipip external
link add sit0a type sit remote 10.1.1.9 local 10.1.1.10 ttl 3
link add sit1 type sit remote any local 10.1.1.13 isatap
link add sit2 type sit remote 10.1.1.19 local 10.1.1.13 mode any \
  6rd-prefix 2001:db8::/32 6rd-relay_prefix 10.0.0.0/8 encap fou encap-dport 7
link add vti0a type vti remote 10.1.1.11 local 10.1.1.12 ikey 3 okey 4 dev d2 fwmark 6
link add ip6t0 type ip6tnl remote 2001:db8::8 local 2001:db8::9 mode ip6ip6 \
  hoplimit 5 tclass 0x03 flowlabel 0x00007 encaplimit 4 dev d2
link add ip6t1 type ip6tnl remote 2001:db8::18 local any mode ipip6 encaplimit none \
  tclass inherit flowlabel inherit dscp inherit allow-localremote
link add ip6t2 type ip6tnl remote 2001:db8::19 local any mode any fwmark 3
link add ip6t3 type ip6tnl external
link add ip6t4 type ip6tnl remote 2001:db8::29 local any mode any fwmark inherit
link add ip6g0 type ip6gre remote 2001:db8::5 local 2001:db8::6 hoplimit 9 \
  tclass 0x12 flowlabel 0x345 ikey 1 okey 2 icsum ocsum iseq oseq dev d2
link add ip6g1 type ip6gre remote 2001:db8::15 local any encaplimit none \
  tclass inherit flowlabel inherit dscp inherit fwmark 9
link add ip6g2 type ip6gre external
link add ip6gt0 type ip6gretap remote 2001:db8::5 local 2001:db8::7 key 3
link add ip6er0 type ip6erspan remote 2001:db8::5 local 2001:db8::8 seq key 7 erspan_ver 1 erspan 9
link add ip6er1 type ip6erspan remote 2001:db8::5 local 2001:db8::9 \
  seq key 7 erspan_ver 2 erspan_dir ingress erspan_hwid 4
link add vti6a type vti6 remote 2001:db8::a local 2001:db8::b key 4 dev d2 fwmark 5
link add xf0 type xfrm dev d0 if_id 0xb
link add xf1 type xfrm external
link add gn0 type geneve id 7 remote 10.2.2.2 ttl 5 tos 0x4 df set dstport 6083 noudpcsum
link add gn1 type geneve id 8 remote 2001:db8::2 flowlabel 0x9 udp6zerocsumtx udp6zerocsumrx tos inherit ttl inherit
link add gn2 type geneve external dstport 6082
link add gn3 type geneve id 0 remote 10.2.2.2 innerprotoinherit dstport 6000
link add vxl0 type vxlan id 42 dev d0 group 239.1.1.1 local 192.0.2.1 \
  tos 16 ttl 5 l2miss l3miss maxaddr 100 dstport 4789 ageing 77 df inherit
link add vxl1 type vxlan external dstport 4790
link add vxl2 type vxlan id 43 remote 10.9.9.9 dstport 4791 nolearning proxy rsc noudpcsum gbp
link add vxl3 type vxlan id 44 dev d0 group ff05::1 dstport 4792 \
  flowlabel 0x77 udp6zerocsumtx udp6zerocsumrx ttl inherit
link add vxl4 type vxlan id 45 remote 2001:db8::99 local 2001:db8::98 dstport 4793 srcport 1000 2000 remcsumtx remcsumrx
link add vxl5 type vxlan external vnifilter dstport 4794
link add vxl6 type vxlan id 46 remote 10.9.9.9 dstport 4795 nolocalbypass
link add vxl7 type vxlan dstport 4796 external gpe
link add gtp0 type gtp role sgsn hsize 1024
link add hsr0 type hsr slave1 d17 slave2 d18 supervision 5 version 1
link add hsr1 type hsr slave1 d19 slave2 d20
link add bat0 type batadv
link add nk0 type netkit mode l3 forward peer blackhole name nk1
link add nk2 type netkit mode l2 blackhole scrub none peer forward scrub default name nk3
tuntap add tap0 mode tap user 1000 group 100 multi_queue vnet_hdr pi
tuntap add tunA mode tun
link set mv0 protodown on
link set mv0 protodown_reason 3 on
link set vxl0 protodown on
netns add blue
link add ab0 type veth peer name ab1 netns blue
link set ab0 up
link add gre7 type gre remote 10.1.1.33 local 10.1.1.34 dev d2
link set gre7 netns blue
`), "\\\n  ", ""), "\n")

// kernelModules are those that are not loaded by themselves.
var kernelModules = []string{
	"dummy numdummies=0", "ifb numifbs=0", "vcan", "vxcan", "fou", "fou6", "ip_gre", "ip6_gre",
	"mac80211_hwsim radios=2", "mac802154_hwsim", "slcan", "bonding max_bonds=0", "tun",
}

// Everything that ip shows of links of every kind is published, as they come and in a
// snapshot of them.
func TestGuestKinds(t *testing.T) {
	guest(t)
	clean(t)
	modprobe(t, kernelModules...)
	b := startBridge(t, "IFACE_RESYNC=2s")
	made, kinds := 0, []string{}
	var not []string
	for _, line := range lines {
		if err := ip(line); err != nil {
			not = append(not, err.Error())
			continue
		}
		if made++; strings.Contains(line, " type ") {
			kinds = append(kinds, strings.Fields(line[strings.Index(line, " type ")+6:])[0])
		}
	}
	slices.Sort(kinds)
	kinds = slices.Compact(kinds)
	t.Logf("%d of %d lines done, of %d kinds: %s", made, len(lines), len(kinds), strings.Join(kinds, " "))
	for _, line := range not {
		t.Log("not here: " + line)
	}
	attach(t, "d1", unix.XDP_FLAGS_SKB_MODE)
	attach(t, "ab0", unix.XDP_FLAGS_DRV_MODE)
	serialCAN(t)
	if made < len(lines)*3/4 {
		t.Errorf("%d of %d lines only", made, len(lines))
	}
	report := func(how string, b *bridge) {
		values, links, diffs := b.compare(20 * time.Second)
		t.Logf("%s: %d values of %d links compared, %d differ", how, values, links, len(diffs))
		for _, d := range diffs {
			t.Error(d)
		}
	}
	report("live", b)
	b.stop()
	report("snapshot", startBridge(t))
}
