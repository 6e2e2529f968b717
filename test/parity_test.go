package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// kinds are the links that the parity test makes where the kernel can.
func kinds(lower int32) []netnstest.Kind {
	u32 := func(typ uint16, v uint32) func(*netlink.AttributeEncoder) {
		return func(ae *netlink.AttributeEncoder) { ae.Uint32(typ, v) }
	}
	return []netnstest.Kind{
		{Name: "bridge", Data: func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.IFLA_BR_AGEING_TIME, 12345)
			ae.Uint16(unix.IFLA_BR_GROUP_FWD_MASK, 8)
		}},
		{Name: "ifb"},
		{Name: "macvlan", Lower: lower, Data: u32(unix.IFLA_MACVLAN_MODE, 4)},
		{Name: "macvtap", Lower: lower, Data: u32(unix.IFLA_MACVLAN_MODE, 4)},
		{Name: "macvlan", Lower: lower, Data: func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.IFLA_MACVLAN_MODE, 16)
			ae.Uint32(unix.IFLA_MACVLAN_MACADDR_MODE, 0)
			ae.Bytes(unix.IFLA_MACVLAN_MACADDR, []byte{2, 0, 0, 0, 0, 9})
		}},
		{Name: "vxlan", Data: func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.IFLA_VXLAN_ID, 42)
			ae.Uint32(unix.IFLA_VXLAN_LINK, uint32(lower))
			ae.Bytes(unix.IFLA_VXLAN_GROUP, []byte{239, 1, 1, 1})
			ae.Bytes(unix.IFLA_VXLAN_LOCAL, []byte{192, 0, 2, 1})
			ae.Uint8(unix.IFLA_VXLAN_TOS, 16)
			ae.Uint8(unix.IFLA_VXLAN_L2MISS, 1)
			ae.Uint32(unix.IFLA_VXLAN_LIMIT, 100)
			ae.Bytes(unix.IFLA_VXLAN_PORT, []byte{0x12, 0xb5})
			ae.Bytes(unix.IFLA_VXLAN_GBP, nil)
		}},
		{Name: "vxlan", Data: func(ae *netlink.AttributeEncoder) {
			ae.Uint8(unix.IFLA_VXLAN_COLLECT_METADATA, 1)
			ae.Bytes(unix.IFLA_VXLAN_PORT, []byte{0x12, 0xb6})
		}},
		{Name: "vlan", Lower: lower, Data: func(ae *netlink.AttributeEncoder) { ae.Uint16(unix.IFLA_VLAN_ID, 100) }},
		{Name: "bond", Data: func(ae *netlink.AttributeEncoder) { ae.Uint8(unix.IFLA_BOND_MODE, 4) }},
		{Name: "netkit"}, {Name: "dummy"}, {Name: "vrf", Data: u32(1, 100)}, {Name: "wireguard"}, {Name: "ipvlan", Lower: lower},
		{Name: "geneve", Data: u32(1, 7)}, {Name: "nlmon"}, {Name: "vcan"}, {Name: "team"},
		{Name: "ipip"}, {Name: "sit"}, {Name: "gre"}, {Name: "gretap"}, {Name: "ip6tnl"}, {Name: "ip6gre"}, {Name: "vti"},
	}
}

// For every field of the contract, link is what `ip -d -j link show` says at the
// same moment, for every kind of link that this kernel can make.
func TestParityWithIP(t *testing.T) {
	netnstest.Tool(t, "ip")
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	b := bridge(t, s, "IFACE_RESYNC=200ms")
	b.Ready()

	a, peer, err := k.AddVeth("veth0", "veth1")
	must(t, err)
	lower, _, err := k.AddVeth("lower", "lower-peer")
	must(t, err)
	must(t, k.Up(a, peer, lower))
	var made, missing []string
	for i, kind := range kinds(lower) {
		index, err := k.Add(fmt.Sprintf("k%d", i), 0, kind)
		if err != nil {
			missing = append(missing, kind.Name)
			continue
		}
		made = append(made, kind.Name)
		_ = k.Up(index) // some stay down without more settings
	}
	if tap, err := k.OpenTap("tap0"); err == nil {
		defer tap.Close()
		made = append(made, "tap")
	} else {
		missing = append(missing, "tap: "+err.Error())
	}

	br, err := k.Index("k0")
	must(t, err)
	must(t, k.SetUint32(a, unix.IFLA_MASTER, uint32(br)))
	must(t, k.SetUint32(peer, unix.IFLA_GROUP, 7))
	must(t, k.SetUint32(peer, unix.IFLA_TXQLEN, 0))
	must(t, k.SetAlias(peer, "an \"alias\" <&> \u2028"))
	must(t, k.AddAltName(peer, "other-name"))
	must(t, k.AddAltName(peer, "yet*another>"))
	must(t, k.SetFlags(peer, unix.IFF_PROMISC, true))
	elsewhere := netnstest.New(t)
	abroad, peerAbroad, err := k.AddVeth("abroad", "moves")
	must(t, err)
	must(t, k.Up(abroad))
	must(t, k.Move(peerAbroad, elsewhere, 0))
	// Fact: on a link that is down, alias, group, altname and linkmode are changed
	// without a word. IFACE_RESYNC finds them.
	silent, _, err := k.AddVeth("silent", "silent-peer")
	must(t, err)
	must(t, k.SetAlias(silent, "nobody was told"))
	must(t, k.SetUint32(silent, unix.IFLA_GROUP, 3))
	must(t, k.AddAltName(silent, "silent-altname"))
	must(t, k.SetUint8(silent, unix.IFLA_LINKMODE, 1))

	nc := connect(t, s)
	var compared int
	var diffs []string
	var links map[int32]schema.Link
	var published []schema.Event
	defer func() {
		if t.Failed() {
			t.Logf("%q", diffs)
			for _, e := range published {
				t.Logf("published without a change: %s", e.AppendJSON(nil))
			}
		}
	}()
	eventually(t, "every link is what ip says", func() bool {
		links = replayAll(t, stored(t, nc, "IFACE")).Links
		compared, diffs = sameAsIP(t, links)
		return len(diffs) == 0
	})
	t.Logf("compared %d values of %d links; kinds made: %s; this kernel cannot make: %s",
		compared, len(links), strings.Join(made, " "), strings.Join(missing, " "))
	if compared < 400 {
		t.Errorf("compared %d values only", compared)
	}
	if links[silent].LinkMode.Or(0) != 1 {
		t.Error("a linkmode that the kernel did not announce was not found")
	}

	// Nothing is published when nothing differs. At first a link may still come up.
	r := record(t, s)
	eventually(t, "three comparisons, and nothing is published", func() bool {
		const dumps = "ifacebridge_netlink_dumps_total"
		n, before := r.Mark(), b.Metric(dumps)
		eventually(t, "three comparisons", func() bool { return b.Metric(dumps) >= before+3 })
		published = r.Since(n)
		return len(published) == 0
	})
}

// Fact: a name is 1 to 15 bytes of anything but white space, '/' and ':'. Names
// that are not UTF-8, or that mean something to JSON, NATS or a shell: each
// stays itself, in the events and in what a consumer makes of them.
func TestBytes(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	b := bridge(t, s)
	b.Ready()
	names := []string{"a\xff", "a\xfe", "a\xff\xfe", `a"b`, `a\b`, "a\x01b", "a*b", "a>b", "a<&>b", "a\u2028b", "eth0.100", "a'b;$(c)", "\xc3\x28", "ü"}
	for _, name := range names {
		index, err := k.Add(name, 0, netnstest.Kind{Name: "ifb"})
		must(t, err)
		must(t, k.Up(index))
		must(t, k.SetAlias(index, "alias of "+name+"\x7f\xf0"))
		must(t, k.AddAltName(index, "alt-"+name))
	}
	f := follow(t, s)
	const called = "%q: alias %q, altnames %q"
	named := func() (list []string) {
		for _, l := range f.Replay.Links {
			list = append(list, fmt.Sprintf(called, l.Name, l.Alias, l.Alt.List()))
		}
		return list
	}
	want := []string{fmt.Sprintf(called, "lo", "", []string(nil))}
	for _, name := range names {
		want = append(want, fmt.Sprintf(called, name, "alias of "+name+"\x7f\xf0", []string{"alt-" + name}))
	}
	defer func() {
		if t.Failed() {
			t.Logf("got\n%s\nwant\n%s", strings.Join(named(), "\n"), strings.Join(want, "\n"))
		}
	}()
	f.Until("each link is called what it is", func() bool { return sameSet(named(), want) })
}
