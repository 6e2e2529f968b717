package netlinksrc

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"ifacebridge/schema"
)

// functions decodes IFLA_VFINFO_LIST: SR-IOV virtual functions, as ip shows them, without
// their statistics.
func (d *Decoder) functions(l *schema.Link, nest []byte) bool {
	list, ok := []byte{'['}, true
	ok = attributes(nest, func(typ uint16, v []byte) {
		if typ != unix.IFLA_VF_INFO {
			return
		}
		if len(list) > 1 {
			list = append(list, ',')
		}
		var good bool
		list, good = appendFunction(list, l.Type, v)
		ok = ok && good
	}) && ok
	l.VFs = d.strings.of(append(list, ']'))
	return ok
}

// appendFunction appends what is said of one function. Each attribute begins with the
// function's number, but for the broadcast address.
func appendFunction(dst []byte, link schema.LinkType, nest []byte) ([]byte, bool) {
	var values [maxAttr][]byte
	ok := collect(nest, &values)
	o := object{dst: append(dst, '{'), values: &values}
	if v := values[unix.IFLA_VF_MAC]; len(v) == 4+32 {
		o.number("vf", uint64(binary.NativeEndian.Uint32(v)))
		o.text("link_type", link.String())
		o.text("address", functionAddress(link, v[4:]))
	}
	if v := values[unix.IFLA_VF_BROADCAST]; len(v) == 32 {
		o.text("broadcast", functionAddress(link, v))
	}
	switch {
	case values[unix.IFLA_VF_VLAN_LIST] != nil:
		ok = o.functionVLANs(values[unix.IFLA_VF_VLAN_LIST]) && ok
	case len(values[unix.IFLA_VF_VLAN]) == 12:
		o.functionVLAN(words(values[unix.IFLA_VF_VLAN]))
	}
	if n := words(values[unix.IFLA_VF_TX_RATE]); len(n) == 2 && n[1] != 0 {
		o.number("tx_rate", n[1])
	}
	if n := words(values[unix.IFLA_VF_RATE]); len(n) == 3 {
		o.key("rate")
		o.dst = fmt.Appendf(o.dst, `{"max_tx":%d,"min_tx":%d}`, n[2], n[1])
	}
	o.functionSetting("spoofchk", unix.IFLA_VF_SPOOFCHK)
	o.functionGUID("node guid", unix.IFLA_VF_IB_NODE_GUID)
	o.functionGUID("port guid", unix.IFLA_VF_IB_PORT_GUID)
	if n := words(values[unix.IFLA_VF_LINK_STATE]); len(n) == 2 {
		state := "disable"
		switch n[1] {
		case unix.IFLA_VF_LINK_STATE_AUTO:
			state = "auto"
		case unix.IFLA_VF_LINK_STATE_ENABLE:
			state = "enable"
		}
		o.text("link_state", state)
	}
	o.functionSetting("trust", unix.IFLA_VF_TRUST)
	o.functionSetting("query_rss_en", unix.IFLA_VF_RSS_QUERY_EN)
	return append(o.dst, '}'), ok
}

// functionAddress is an address in a field of 32 bytes, which does not say how long it is.
func functionAddress(link schema.LinkType, v []byte) string {
	size := 20 // InfiniBand's
	if link == unix.ARPHRD_ETHER {
		size = 6
	}
	a, _ := schema.MakeLLAddr(v[:size], link)
	return a.String()
}

// functionVLANs is a list of struct ifla_vf_vlan_info.
func (o *object) functionVLANs(nest []byte) bool {
	o.key("vlan_list")
	o.dst = append(o.dst, '[')
	ok := attributes(nest, func(_ uint16, v []byte) {
		if len(v) != 16 {
			return
		}
		if o.dst[len(o.dst)-1] != '[' {
			o.dst = append(o.dst, ',')
		}
		o.dst = append(o.dst, '{')
		o.functionVLAN(words(v))
		if p := binary.BigEndian.Uint16(v[12:]); p != 0 && p != unix.ETH_P_8021Q {
			ethertype("protocol")(o, v[12:14])
		}
		o.dst = append(o.dst, '}')
	})
	o.dst = append(o.dst, ']')
	return ok
}

// functionVLAN is a VLAN and its priority; zero is none.
func (o *object) functionVLAN(n []uint64) {
	if n[1] != 0 {
		o.number("vlan", n[1])
	}
	if n[2] != 0 {
		o.number("qos", n[2])
	}
}

// functionSetting is a switch; -1 is that the driver does not know.
func (o *object) functionSetting(name string, typ uint16) {
	if n := words(o.values[typ]); len(n) == 2 && int32(n[1]) != -1 {
		o.bool(name, n[1] != 0)
	}
}

// functionGUID is struct ifla_vf_guid: a number of eight bytes, which C aligns.
func (o *object) functionGUID(name string, typ uint16) {
	v := o.values[typ]
	if len(v) < 12 {
		return
	}
	guid := binary.BigEndian.AppendUint64(nil, binary.NativeEndian.Uint64(v[len(v)-8:]))
	a, _ := schema.MakeLLAddr(guid, unix.ARPHRD_INFINIBAND)
	o.text(name, a.String())
}
