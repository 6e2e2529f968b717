package netlinksrc

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/netnstest"
)

var (
	update    = flag.Bool("update", false, "write the golden files")
	recapture = flag.Bool("capture", false, "capture the kernel's messages again; -update goes with it")
)

func TestMain(m *testing.M) { harness.Main(m) }

// body makes the body of a link message.
func body(family uint8, index int32, attrs func(*netlink.AttributeEncoder)) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	b[0] = family
	binary.NativeEndian.PutUint16(b[2:], unix.ARPHRD_ETHER)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.IFLA_IFNAME, []byte("eth0\x00"))
	if attrs != nil {
		attrs(ae)
	}
	a, err := ae.Encode()
	if err != nil {
		panic(err)
	}
	return append(b, a...)
}

// A malformed message costs what is malformed, and is counted.
func TestDecodeTolerates(t *testing.T) {
	link := func(change func(*schema.Link)) schema.Link {
		l := schema.Link{Index: 3, Name: "eth0", Type: 1}
		if change != nil {
			change(&l)
		}
		return l
	}
	running := body(0, 3, nil)
	binary.NativeEndian.PutUint32(running[8:], unix.IFF_BROADCAST|unix.IFF_RUNNING)
	mtu := func(l *schema.Link) { l.MTU = schema.Some[uint32](1500) }
	tests := []struct {
		name                 string
		typ                  uint16
		body                 []byte
		kind                 Kind
		partial              bool
		want                 schema.Link
		badMessages, badAttr uint64
	}{
		{name: "another type", typ: unix.RTM_NEWADDR, body: body(0, 3, nil), kind: Other},
		{name: "no body", typ: unix.RTM_NEWLINK, kind: Other, badMessages: 1},
		{name: "half a header", typ: unix.RTM_NEWLINK, body: make([]byte, 15), kind: Other, badMessages: 1},
		{name: "a header only", typ: unix.RTM_NEWLINK, body: make([]byte, 16), kind: Other, badMessages: 1},
		{name: "a negative index", typ: unix.RTM_NEWLINK, body: body(0, -3, nil), kind: Other, badMessages: 1},
		{name: "a bridge port", typ: unix.RTM_DELLINK, body: body(unix.AF_BRIDGE, 3, nil), kind: Other},
		{name: "what IPv6 knows of a link", typ: unix.RTM_NEWLINK, body: body(unix.AF_INET6, 3, nil), kind: Other},
		{name: "new", typ: unix.RTM_NEWLINK, body: body(0, 3, nil), kind: New, want: link(nil)},
		{name: "del", typ: unix.RTM_DELLINK, body: body(0, 3, nil), kind: Del, want: link(nil)},
		{name: "wireless", typ: unix.RTM_NEWLINK, kind: New, partial: true, want: link(nil),
			body: body(0, 3, func(ae *netlink.AttributeEncoder) { ae.Bytes(unix.IFLA_WIRELESS, make([]byte, 8)) })},
		{name: "it runs and is not up", typ: unix.RTM_NEWLINK, kind: New, body: running,
			want: link(func(l *schema.Link) { l.Flags = unix.IFF_BROADCAST })},
		{name: "a mode of two bytes", typ: unix.RTM_NEWLINK, kind: New, want: link(nil), badAttr: 1,
			body: body(0, 3, func(ae *netlink.AttributeEncoder) {
				ae.Nested(unix.IFLA_AF_SPEC, func(ae *netlink.AttributeEncoder) error {
					ae.Nested(unix.AF_INET6, func(ae *netlink.AttributeEncoder) error {
						ae.Uint16(unix.IFLA_INET6_ADDR_GEN_MODE, 1)
						return nil
					})
					return nil
				})
			})},
		{name: "an MTU of two bytes", typ: unix.RTM_NEWLINK, kind: New, want: link(nil), badAttr: 1,
			body: body(0, 3, func(ae *netlink.AttributeEncoder) { ae.Uint16(unix.IFLA_MTU, 1500) })},
		{name: "one bad attribute in the middle", typ: unix.RTM_NEWLINK, kind: New, want: link(mtu), badAttr: 1,
			body: body(0, 3, func(ae *netlink.AttributeEncoder) {
				ae.Bytes(unix.IFLA_OPERSTATE, []byte{6, 6})
				ae.Uint32(unix.IFLA_MTU, 1500)
			})},
		{name: "an address of one byte", typ: unix.RTM_NEWLINK, kind: New,
			want: link(func(l *schema.Link) { l.Address, _ = schema.MakeLLAddr([]byte{7}, 1) }),
			body: body(0, 3, func(ae *netlink.AttributeEncoder) { ae.Bytes(unix.IFLA_ADDRESS, []byte{7}) })},
		{name: "an address of 33 bytes", typ: unix.RTM_NEWLINK, kind: New, want: link(mtu), badAttr: 1,
			body: body(0, 3, func(ae *netlink.AttributeEncoder) {
				ae.Bytes(unix.IFLA_ADDRESS, make([]byte, 33))
				ae.Uint32(unix.IFLA_MTU, 1500)
			})},
		{name: "longer statistics than ours", typ: unix.RTM_NEWLINK, kind: New, want: link(mtu),
			body: body(0, 3, func(ae *netlink.AttributeEncoder) {
				ae.Bytes(unix.IFLA_STATS64, make([]byte, 999))
				ae.Uint32(unix.IFLA_MTU, 1500)
			})},
		{name: "an attribute that ends behind the message", typ: unix.RTM_NEWLINK, kind: New, want: link(mtu), badAttr: 1,
			body: append(body(0, 3, func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.IFLA_MTU, 1500) }), 200, 0, 4, 0)},
		{name: "an attribute shorter than its header", typ: unix.RTM_NEWLINK, kind: New, want: link(nil), badAttr: 1,
			body: append(body(0, 3, nil), 3, 0, 4, 0)},
		{name: "a carrier of zero, a group of zero", typ: unix.RTM_NEWLINK, kind: New,
			want: link(func(l *schema.Link) { l.Carrier, l.Group = schema.Some(false), schema.Some[uint32](0) }),
			body: body(0, 3, func(ae *netlink.AttributeEncoder) {
				ae.Uint8(unix.IFLA_CARRIER, 0)
				ae.Uint32(unix.IFLA_GROUP, 0)
			})},
		{name: "a permanent address that is the address", typ: unix.RTM_NEWLINK, kind: New,
			want: link(func(l *schema.Link) { l.Address, _ = schema.MakeLLAddr([]byte{2, 0, 0, 0, 0, 1}, 1) }),
			body: body(0, 3, func(ae *netlink.AttributeEncoder) {
				ae.Bytes(unix.IFLA_PERM_ADDRESS, []byte{2, 0, 0, 0, 0, 1})
				ae.Bytes(unix.IFLA_ADDRESS, []byte{2, 0, 0, 0, 0, 1})
			})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDecoder()
			var m Message
			d.Decode(tt.typ, tt.body, &m)
			if m.Kind != tt.kind || m.Partial != tt.partial {
				t.Errorf("got %v, partial %v; want %v, %v", m.Kind, m.Partial, tt.kind, tt.partial)
			}
			if tt.kind != Other && m.Link != tt.want {
				t.Errorf("link differs in %v\n got %s\nwant %s", schema.Diff(&m.Link, &tt.want), m.Link.AppendJSON(nil), tt.want.AppendJSON(nil))
			}
			if d.BadMessages != tt.badMessages || d.BadAttributes != tt.badAttr {
				t.Errorf("counted %d bad messages and %d bad attributes, want %d and %d", d.BadMessages, d.BadAttributes, tt.badMessages, tt.badAttr)
			}
		})
	}
}

// A datagram that is cut off costs its last message.
func TestMessagesTolerates(t *testing.T) {
	one := frame(unix.RTM_NEWLINK, body(0, 3, nil))
	for name, tt := range map[string]struct {
		datagram []byte
		messages int
		ok       bool
	}{
		"nothing":             {nil, 0, true},
		"two":                 {append(bytes.Clone(one), one...), 2, true},
		"one and a half":      {append(bytes.Clone(one), one[:40]...), 1, false},
		"a length of zero":    {make([]byte, 64), 0, false},
		"three bytes":         {one[:3], 0, false},
		"a length of 4 bytes": {append([]byte{4, 0, 0, 0}, make([]byte, 12)...), 0, false},
	} {
		n := 0
		if ok := messages(tt.datagram, func(header, []byte) { n++ }); ok != tt.ok || n != tt.messages {
			t.Errorf("%s: got %d messages, %v; want %d, %v", name, n, ok, tt.messages, tt.ok)
		}
	}
}

// frame puts a netlink header before a body.
func frame(typ uint16, body []byte) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+align(len(body)))
	binary.NativeEndian.PutUint32(b, uint32(unix.NLMSG_HDRLEN+len(body)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	b = append(b, body...)
	return b[:align(len(b))]
}

// The settings of kinds that a machine may not have, from messages made by hand:
// what ip shows for them (iproute2, ip/iplink_*.c).
func TestInfoData(t *testing.T) {
	nested := func(f func(*netlink.AttributeEncoder)) []byte {
		ae := netlink.NewAttributeEncoder()
		f(ae)
		b, err := ae.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	be16 := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	ne32 := func(n ...uint32) (b []byte) {
		for _, n := range n {
			b = binary.NativeEndian.AppendUint32(b, n)
		}
		return b
	}
	tests := []struct {
		kind  string
		attrs func(*netlink.AttributeEncoder)
		want  string
	}{
		{"vlan", func(ae *netlink.AttributeEncoder) {
			ae.Bytes(unix.IFLA_VLAN_PROTOCOL, be16(0x8100))
			ae.Uint16(unix.IFLA_VLAN_ID, 100)
			ae.Bytes(unix.IFLA_VLAN_FLAGS, ne32(1, ^uint32(0)))
			ae.Bytes(unix.IFLA_VLAN_EGRESS_QOS, nested(func(ae *netlink.AttributeEncoder) { ae.Bytes(unix.IFLA_VLAN_QOS_MAPPING, ne32(0, 7)) }))
		}, `{"protocol":"802.1Q","id":100,"flags":["REORDER_HDR"],"egress_qos":[{"from":0,"to":7}]}`},
		{"bond", func(ae *netlink.AttributeEncoder) {
			ae.Uint8(unix.IFLA_BOND_MODE, 4)
			ae.Uint32(unix.IFLA_BOND_ACTIVE_SLAVE, 5)
			ae.Uint32(unix.IFLA_BOND_MIIMON, 100)
			ae.Bytes(unix.IFLA_BOND_ARP_IP_TARGET, nested(func(ae *netlink.AttributeEncoder) {
				ae.Bytes(0, []byte{192, 0, 2, 1})
				ae.Bytes(1, []byte{192, 0, 2, 2})
			}))
			ae.Uint32(unix.IFLA_BOND_ARP_VALIDATE, 0)
			ae.Uint8(unix.IFLA_BOND_XMIT_HASH_POLICY, 1)
			ae.Uint8(unix.IFLA_BOND_AD_LACP_RATE, 1)
			ae.Bytes(unix.IFLA_BOND_AD_INFO, nested(func(ae *netlink.AttributeEncoder) {
				ae.Uint16(unix.IFLA_BOND_AD_INFO_AGGREGATOR, 1)
				ae.Bytes(unix.IFLA_BOND_AD_INFO_PARTNER_MAC, []byte{0, 1, 2, 3, 4, 5})
			}))
		}, `{"mode":"802.3ad","active_slave":5,"miimon":100,"arp_ip_target":["192.0.2.1","192.0.2.2"],"xmit_hash_policy":"layer3+4","ad_lacp_rate":"fast","ad_info":{"aggregator":1,"partner_mac":"00:01:02:03:04:05"}}`},
		{"netkit", func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.IFLA_NETKIT_MODE, 1)
			ae.Uint8(unix.IFLA_NETKIT_PRIMARY, 1)
			ae.Int32(unix.IFLA_NETKIT_POLICY, 0)
			ae.Int32(unix.IFLA_NETKIT_PEER_POLICY, 2)
		}, `{"mode":"l3","type":"primary","policy":"forward","peer_policy":"blackhole"}`},
		{"macvlan", func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.IFLA_MACVLAN_MODE, 16)
			ae.Uint16(unix.IFLA_MACVLAN_FLAGS, 1)
			ae.Uint32(unix.IFLA_MACVLAN_BC_QUEUE_LEN_USED, 1000)
			ae.Uint32(unix.IFLA_MACVLAN_MACADDR_COUNT, 1)
			ae.Bytes(unix.IFLA_MACVLAN_MACADDR_DATA, nested(func(ae *netlink.AttributeEncoder) {
				ae.Bytes(unix.IFLA_MACVLAN_MACADDR, []byte{2, 0, 0, 0, 0, 9})
			}))
		}, `{"mode":"source","nopromisc":true,"usedbcqueuelen":1000,"macaddr_count":1,"macaddr_data":["02:00:00:00:00:09"]}`},
		{"vxlan", func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.IFLA_VXLAN_ID, 9)
			ae.Bytes(unix.IFLA_VXLAN_GROUP6, append([]byte{0xfd}, make([]byte, 15)...))
			ae.Uint32(unix.IFLA_VXLAN_LINK, 7)
			ae.Uint8(unix.IFLA_VXLAN_TOS, 16)
			ae.Uint8(unix.IFLA_VXLAN_TTL_INHERIT, 1)
			ae.Uint8(unix.IFLA_VXLAN_TTL, 0)
			ae.Bytes(unix.IFLA_VXLAN_GBP, nil)
		}, `{"id":9,"remote6":"fd00::","link":7,"tos":"0x10","gbp":true}`},
		{"bridge", func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.IFLA_BR_FORWARD_DELAY, 1500)
			ae.Uint16(unix.IFLA_BR_PRIORITY, 32768)
			ae.Bytes(unix.IFLA_BR_BRIDGE_ID, []byte{0x80, 0, 2, 0x42, 0xac, 0, 0, 1})
			ae.Uint64(unix.IFLA_BR_GC_TIMER, 12345)
			ae.Bytes(unix.IFLA_BR_MULTI_BOOLOPT, ne32(1, 3))
			ae.Uint8(unix.IFLA_BR_STP_STATE, 1) // of the wrong length
		}, `{"forward_delay":1500,"priority":32768,"bridge_id":"8000.2:42:ac:0:0:1","no_linklocal_learn":1,"mcast_vlan_snooping":0}`},
		{"veth", func(ae *netlink.AttributeEncoder) { ae.Uint32(1, 1) }, ``},
	}
	for _, tt := range tests {
		t.Run(tt.kind, func(t *testing.T) {
			d := NewDecoder()
			var m Message
			d.Decode(unix.RTM_NEWLINK, body(0, 3, func(ae *netlink.AttributeEncoder) {
				ae.Bytes(unix.IFLA_LINKINFO, nested(func(ae *netlink.AttributeEncoder) {
					ae.String(unix.IFLA_INFO_KIND, tt.kind)
					ae.Bytes(unix.IFLA_INFO_DATA, nested(tt.attrs))
				}))
			}), &m)
			if got := m.Link.Info.Data; got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

// Virtual functions as the kernel lays them out (rtnl_fill_vfinfo), and as ip shows them
// (print_vfinfo); a function of which something is cut leaves the others as they are.
func TestFunctions(t *testing.T) {
	words := func(n ...uint32) (b []byte) {
		for _, n := range n {
			b = binary.NativeEndian.AppendUint32(b, n)
		}
		return b
	}
	address := func(last byte) []byte { return append([]byte{2, 0, 0, 0, 0, last}, make([]byte, 26)...) }
	function := func(ae *netlink.AttributeEncoder, n uint32, more func(*netlink.AttributeEncoder)) {
		ae.Nested(unix.IFLA_VF_INFO, func(ae *netlink.AttributeEncoder) error {
			ae.Bytes(unix.IFLA_VF_MAC, append(words(n), address(byte(n))...))
			ae.Bytes(unix.IFLA_VF_BROADCAST, bytes.Repeat([]byte{255}, 32))
			ae.Bytes(unix.IFLA_VF_VLAN, words(n, 7, 3))
			ae.Bytes(unix.IFLA_VF_TX_RATE, words(n, 0))
			ae.Bytes(unix.IFLA_VF_SPOOFCHK, words(n, 1))
			ae.Bytes(unix.IFLA_VF_RATE, words(n, 10, 2000))
			ae.Bytes(unix.IFLA_VF_LINK_STATE, words(n, n))
			ae.Bytes(unix.IFLA_VF_RSS_QUERY_EN, words(n, ^uint32(0)))
			ae.Bytes(unix.IFLA_VF_TRUST, words(n, 0))
			more(ae)
			return nil
		})
	}
	message := body(0, 3, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.IFLA_NUM_VF, 2)
		ae.Nested(unix.IFLA_VFINFO_LIST, func(ae *netlink.AttributeEncoder) error {
			function(ae, 0, func(ae *netlink.AttributeEncoder) {
				ae.Nested(unix.IFLA_VF_VLAN_LIST, func(ae *netlink.AttributeEncoder) error {
					ae.Bytes(unix.IFLA_VF_VLAN_INFO, append(words(0, 9, 0), 0x88, 0xa8, 0, 0))
					return nil
				})
				guid := binary.NativeEndian.AppendUint64(words(0, 0), 0x0102030405060708)
				ae.Bytes(unix.IFLA_VF_IB_NODE_GUID, guid)
			})
			function(ae, 1, func(ae *netlink.AttributeEncoder) { ae.Bytes(unix.IFLA_VF_TRUST, []byte{1}) })
			return nil
		})
	})
	const want = `[{"vf":0,"link_type":"ether","address":"02:00:00:00:00:00","broadcast":"ff:ff:ff:ff:ff:ff",` +
		`"vlan_list":[{"vlan":9,"protocol":"802.1ad"}],"rate":{"max_tx":2000,"min_tx":10},"spoofchk":true,` +
		`"node guid":"01:02:03:04:05:06:07:08","link_state":"auto","trust":false},` +
		`{"vf":1,"link_type":"ether","address":"02:00:00:00:00:01","broadcast":"ff:ff:ff:ff:ff:ff","vlan":7,"qos":3,` +
		`"rate":{"max_tx":2000,"min_tx":10},"spoofchk":true,"link_state":"enable"}]`
	d := NewDecoder()
	var m Message
	if d.Decode(unix.RTM_NEWLINK, message, &m); m.Link.VFs != want || m.Link.NumVF != schema.Some[uint32](2) {
		t.Errorf("\n got %s\nwant %s", m.Link.VFs, want)
	}
}

// A nest may be larger than its length can say, of which the kernel then writes the lowest
// bits (nla_nest_end): what is in it is read, and what comes behind it.
func TestNestsLargerThanTheirLength(t *testing.T) {
	attr := func(typ uint16, parts ...[]byte) []byte {
		v := bytes.Join(parts, nil)
		b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(v)))
		b = append(binary.NativeEndian.AppendUint16(b, typ), v...)
		return append(b, make([]byte, align(len(b))-len(b))...)
	}
	ne32 := func(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	functions := func(n, more int) []byte {
		var list []byte
		for i := range n {
			mac := attr(unix.IFLA_VF_MAC, ne32(i), make([]byte, 32))
			list = append(list, attr(unix.IFLA_VF_INFO, mac, attr(unix.IFLA_VF_STATS, make([]byte, more)))...)
		}
		return attr(unix.IFLA_VFINFO_LIST, list)
	}
	macvlan := func(n int) []byte {
		var list []byte
		for i := range n {
			list = append(list, attr(unix.IFLA_MACVLAN_MACADDR, []byte{2, 0, 0, 0, byte(i >> 8), byte(i)})...)
		}
		return attr(unix.IFLA_LINKINFO, attr(unix.IFLA_INFO_KIND, []byte("macvlan\x00")),
			attr(unix.IFLA_INFO_DATA, attr(unix.IFLA_MACVLAN_MODE, ne32(16)), // source
				attr(unix.IFLA_MACVLAN_MACADDR_DATA, list), attr(unix.IFLA_MACVLAN_MACADDR_COUNT, ne32(n))),
			attr(unix.IFLA_INFO_SLAVE_KIND, []byte("bridge\x00")))
	}
	names := attr(unix.IFLA_PROP_LIST, attr(unix.IFLA_ALT_IFNAME, []byte("behind\x00")))
	for name, tt := range map[string]struct {
		nest      []byte
		functions int
		addresses int
	}{
		"functions":                {nest: functions(300, 200), functions: 300},
		"many functions":           {nest: functions(1500, 200), functions: 1500},
		"functions of 64 bytes":    {nest: functions(1500, 16), functions: 1500},
		"functions that just fit":  {nest: functions(1023, 16), functions: 1023},
		"addresses":                {nest: macvlan(5600), addresses: 5600},
		"many addresses":           {nest: macvlan(12000), addresses: 12000},
		"addresses that just fit":  {nest: macvlan(5455), addresses: 5455},
		"addresses in their nest":  {nest: macvlan(5459), addresses: 5459}, // which alone just fits
		"functions, and addresses": {append(functions(400, 200), macvlan(5600)...), 400, 5600},
	} {
		d := NewDecoder()
		var m Message
		message := append(body(0, 3, nil), tt.nest...)
		d.Decode(unix.RTM_NEWLINK, append(append(message, attr(unix.IFLA_LINK, ne32(2))...), names...), &m)
		l := &m.Link
		addresses, vfs := strings.Count(l.Info.Data, `"02:`), strings.Count(l.VFs, `"vf":`)
		if m.Kind != New || addresses != tt.addresses || vfs != tt.functions {
			t.Errorf("%s: got %v, %d addresses and %d functions", name, m.Kind, addresses, vfs)
		}
		if l.LowerIndex != 2 || l.Alt != "behind" || l.Info.SlaveKind == "" != (addresses == 0) || d.BadAttributes > 0 {
			t.Errorf("%s: behind it are %d, %q and %q; %d bad attributes",
				name, l.LowerIndex, l.Alt, l.Info.SlaveKind, d.BadAttributes)
		}
		kept := 0
		for i := range d.settings {
			kept += len(d.settings[i].raw)
		}
		for _, s := range d.strings.kept {
			kept += len(s)
		}
		if kept > maxKept {
			t.Errorf("%s: %d bytes are kept", name, kept)
		}
	}
}

// Whatever a setting of a kind holds, of the length that it has or of another, what comes of
// it is JSON, and the setting behind it is read.
func TestSettingsTolerate(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	settings := 0
	for name, kinds := range map[string]map[string]*infoKind{"port": slaveKinds, "link": infoKinds} {
		for kind, k := range kinds {
			for _, a := range k.attrs {
				settings++
				for size := range 72 {
					v := make([]byte, size)
					for i := range v {
						v[i] = byte(random.Uint32() >> (random.Uint32() % 32)) // small ones too
					}
					var values [maxAttr][]byte
					for typ := range values { // those that it may look at
						values[typ] = v[:min(size, 1<<random.IntN(5))]
					}
					o := object{dst: []byte("{"), values: &values}
					a.put(&o, v)
					o.number("behind", 1)
					if got := append(o.dst, '}'); !json.Valid(got) || !bytes.HasSuffix(got, []byte(`"behind":1}`)) {
						t.Errorf("%s %s, attribute %d, %x: %s", name, kind, a.typ, v, got)
					}
				}
			}
		}
	}
	t.Logf("%d settings of %d kinds of links, and ports of %d", settings, len(infoKinds), len(slaveKinds))
}

// Timers tick, and errors are counted; a link of which nothing else is new is the same link, in
// the same string.
func TestInfoDataLeavesOutWhatTicks(t *testing.T) {
	for kind, tt := range map[string]struct {
		attrs func(ae *netlink.AttributeEncoder, tick uint32)
		want  string
	}{
		"bridge": {func(ae *netlink.AttributeEncoder, tick uint32) {
			ae.Uint64(unix.IFLA_BR_GC_TIMER, uint64(tick))
			ae.Uint32(unix.IFLA_BR_MAX_AGE, 2000)
		}, `{"max_age":2000}`},
		"can": {func(ae *netlink.AttributeEncoder, tick uint32) {
			ae.Uint32(unix.IFLA_CAN_BERR_COUNTER, tick) // struct can_berr_counter
			ae.Uint32(unix.IFLA_CAN_RESTART_MS, 100)
		}, `{"restart_ms":100}`},
	} {
		d := NewDecoder()
		var first, second Message
		for tick, m := range []*Message{&first, &second} {
			d.Decode(unix.RTM_NEWLINK, body(0, 3, func(ae *netlink.AttributeEncoder) {
				ae.Nested(unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) error {
					ae.String(unix.IFLA_INFO_KIND, kind)
					ae.Nested(unix.IFLA_INFO_DATA, func(ae *netlink.AttributeEncoder) error {
						tt.attrs(ae, uint32(tick))
						return nil
					})
					return nil
				})
			}), m)
		}
		if first.Link != second.Link || first.Link.Info.Data != tt.want {
			t.Errorf("%s: got %q and %q", kind, first.Link.Info.Data, second.Link.Info.Data)
		}
	}
}

// The links that the settings refer to are named when an event is made.
func TestNameLinks(t *testing.T) {
	names := map[int32]string{5: `e"0`}
	name := func(i int32) (string, bool) { n, ok := names[i]; return n, ok }
	for _, tt := range []struct{ kind, data, want string }{
		{"vxlan", `{"id":9,"link":5,"port":4789}`, `{"id":9,"link":"e\"0","port":4789}`},
		{"vxlan", `{"id":9,"link":77}`, `{"id":9,"link":"if77"}`},
		{"vxlan", `{"id":9}`, `{"id":9}`},
		{"bond", `{"active_slave":5,"primary":6}`, `{"active_slave":"e\"0","primary":"if6"}`},
		{"bridge", `{"link":5}`, `{"link":5}`},
	} {
		if got := NameLinks(tt.kind, tt.data, name); got != tt.want {
			t.Errorf("%s %s: got %s, want %s", tt.kind, tt.data, got, tt.want)
		}
	}
}

// What a kernel really sends, captured once (-capture), decodes to what it decoded
// to then.
func TestDecodeKernelMessages(t *testing.T) {
	if *recapture {
		capture(t)
	}
	d := NewDecoder()
	var got bytes.Buffer
	if !messages(captured(t), func(h header, body []byte) {
		var m Message
		d.Decode(h.typ, body, &m)
		link, err := json.Marshal(m.Link)
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString(m.Kind.String() + " " + string(link) + "\n")
	}) {
		t.Error("the capture is cut off")
	}
	if d.BadMessages+d.BadAttributes > 0 {
		t.Errorf("%d messages and %d attributes of the kernel's own are bad", d.BadMessages, d.BadAttributes)
	}
	golden(t, "kernel.golden", got.Bytes())
}

// captured are messages in this machine's byte order.
func captured(t testing.TB) (all []byte) {
	b, err := os.ReadFile(filepath.Join("testdata", "kernel.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if isLittleEndian {
		return b
	}
	for len(b) >= unix.NLMSG_HDRLEN {
		n := int(binary.LittleEndian.Uint32(b))
		all = append(all, frame(binary.LittleEndian.Uint16(b[4:]), nativeBody(b[unix.NLMSG_HDRLEN:n]))...)
		b = b[min(align(n), len(b)):]
	}
	return all
}

// capture writes the notifications of a few links' lives to testdata.
func capture(t *testing.T) {
	k := netnstest.New(t)
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_LINK, NetNS: int(k.File.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a, peer, err := k.AddVeth("veth0", "veth1")
	must(err)
	br, err := k.Add("br0", 0, netnstest.Kind{Name: "bridge"})
	must(err)
	must(k.Up(a, br))
	must(k.SetUint32(a, unix.IFLA_MASTER, uint32(br)))
	must(k.SetAlias(a, "an \"alias\" \xff"))
	must(k.AddAltName(a, "alternative"))
	must(k.AddAltName(a, "b\xfe"))
	must(k.SetUint32(a, unix.IFLA_MTU, 1400))
	must(k.Rename(a, "a\xff"))
	_, err = k.Add("macvlan0", 0, netnstest.Kind{Name: "macvlan", Lower: peer})
	must(err)
	_, err = k.Add("vxlan0", 0, netnstest.Kind{Name: "vxlan", Data: func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.IFLA_VXLAN_ID, 5) }})
	must(err)
	must(k.Move(a, netnstest.New(t), 0))
	must(k.Delete(br))

	var all []byte
	must(conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)))
	for {
		msgs, err := conn.Receive()
		if err != nil {
			break
		}
		for _, m := range msgs {
			all = append(all, frame(uint16(m.Header.Type), m.Data)...)
		}
	}
	must(os.WriteFile(filepath.Join("testdata", "kernel.bin"), all, 0o666))
}

// What a message costs, of plain links and of those with a master that says much of them.
// Said again, nothing costs memory.
func BenchmarkDecode(b *testing.B) {
	var all [][]byte
	messages(captured(b), func(_ header, body []byte) { all = append(all, body) })
	for _, bench := range []struct {
		name   string
		bodies [][]byte
	}{
		{"captured", all},
		{"veth", [][]byte{plainVeth(b, all)}},
		{"bond-slave", [][]byte{enslaved(b, plainVeth(b, all), "bond-test_parsing_link_bond_port_ad.hex")}},
		{"bridge-port", [][]byte{enslaved(b, plainVeth(b, all), "bridge-test_bridge_port_link_info.hex")}},
		{"veth-anew", anew(plainVeth(b, all))},
		{"bond-slave-anew", anew(enslaved(b, plainVeth(b, all), "bond-test_parsing_link_bond_port_ad.hex"))},
		{"bridge-port-anew", anew(enslaved(b, plainVeth(b, all), "bridge-test_bridge_port_link_info.hex"))},
		{"bridge-port-timer", ticking(enslaved(b, plainVeth(b, all), "bridge-test_bridge_port_link_info.hex"))},
	} {
		b.Run(bench.name, func(b *testing.B) {
			d := NewDecoder()
			var m Message
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				d.Decode(unix.RTM_NEWLINK, bench.bodies[i%len(bench.bodies)], &m)
			}
		})
	}
}

// anew is the message, and one that is longer: which of them comes, it is not the last one again.
func anew(body []byte) [][]byte {
	alias := binary.NativeEndian.AppendUint16(bytes.Clone(body), 8)
	alias = binary.NativeEndian.AppendUint16(alias, unix.IFLA_IFALIAS)
	return [][]byte{body, append(alias, 'a', 'b', 'c', 0)}
}

// plainVeth is a captured message of a veth link without a master.
func plainVeth(t testing.TB, bodies [][]byte) []byte {
	t.Helper()
	d := NewDecoder()
	for _, body := range bodies {
		var m Message
		if d.Decode(unix.RTM_NEWLINK, body, &m); m.Kind == New && m.Link.Info.Kind == "veth" && m.Link.MasterIndex == 0 {
			return body
		}
	}
	t.Fatal("no veth was captured")
	return nil
}

// enslaved is the message with what a message of the corpus says of its master.
func enslaved(t testing.TB, body []byte, file string) []byte {
	t.Helper()
	var info []byte
	attributes(corpusBody(t, filepath.Join("testdata", "corpus", file))[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		if typ == unix.IFLA_LINKINFO {
			info = v
		}
	})
	ae := netlink.NewAttributeEncoder()
	attributes(body[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_LINKINFO:
			ae.Bytes(typ, info)
		default:
			ae.Bytes(typ, v)
		}
	})
	ae.Uint32(unix.IFLA_MASTER, 4)
	attrs, err := ae.Encode()
	must(t, err)
	return append(bytes.Clone(body[:unix.SizeofIfInfomsg]), attrs...)
}

// ticking is the message of a port, as it is said again and again while a timer of its bridge runs.
func ticking(body []byte) (bodies [][]byte) {
	header := binary.NativeEndian.AppendUint16(nil, 12)
	header = binary.NativeEndian.AppendUint16(header, unix.IFLA_BRPORT_FORWARD_DELAY_TIMER)
	for tick := range 100 {
		again := bytes.Clone(body)
		timer := bytes.Index(again, header)
		binary.NativeEndian.PutUint64(again[timer+4:], uint64(tick+1))
		bodies = append(bodies, again)
	}
	return bodies
}

// Settings that were said before cost no memory, also when a timer ticks in them; and they
// are the same string, which compares at once.
func TestSaidAgainCostsNoMemory(t *testing.T) {
	var all [][]byte
	messages(captured(t), func(_ header, body []byte) { all = append(all, body) })
	veth := plainVeth(t, all)
	for name, bodies := range map[string][][]byte{
		"bond slave":              {enslaved(t, veth, "bond-test_parsing_link_bond_port_ad.hex")},
		"bridge port":             {enslaved(t, veth, "bridge-test_bridge_port_link_info.hex")},
		"bridge port with timers": ticking(enslaved(t, veth, "bridge-test_bridge_port_link_info.hex")),
	} {
		d := NewDecoder()
		var m Message
		d.Decode(unix.RTM_NEWLINK, bodies[0], &m)
		first := m.Link
		if first.Info.SlaveData == "" {
			t.Fatalf("%s: no settings", name)
		}
		i := 0
		if allocs := testing.AllocsPerRun(200, func() {
			i++
			if d.Decode(unix.RTM_NEWLINK, bodies[i%len(bodies)], &m); m.Link != first {
				t.Errorf("%s: %s is not %s", name, m.Link.Info.SlaveData, first.Info.SlaveData)
			}
		}); allocs > 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}
