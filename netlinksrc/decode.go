package netlinksrc

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/maphash"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/netlinksrc/internal/uapi"
	"ifacebridge/schema"
)

// Kind is what a message says about a link.
type Kind uint8

const (
	Other Kind = iota // nothing: another type of message, or one about something else than the device
	New               // RTM_NEWLINK: the link exists
	Del               // RTM_DELLINK: the link is gone
	Netns             // RTM_NEWNSID, RTM_DELNSID: another namespace became known, or went

	Kinds = iota // how many there are
)

func (k Kind) String() string { return [...]string{"other", "new", "del", "netns"}[k] }

// A Message is one link message of the kernel, decoded.
type Message struct {
	Kind Kind
	Time time.Time // when it was read from the socket

	// Partial is a message that says only some things about its link: what it
	// does not mention is as it was. A message that is not partial is the state.
	Partial bool

	// Port is a partial message of a bridge about its port: of Link it says the index
	// and Info.SlaveData, and nothing else.
	Port bool

	// Link is what the message says. Names of other links are not in it: only
	// their indexes.
	Link schema.Link
}

// Merge puts into link what is known of it after the message. A notification never says
// what a dump says of virtual functions.
func (m *Message) Merge(link, known *schema.Link) {
	switch {
	case m.Port:
		*link = *known
		if known.Info.SlaveKind == "bridge" { // it has not left it since
			link.Info.SlaveData = m.Link.Info.SlaveData
		}
	case m.Partial:
		*link = known.With(schema.Present(&m.Link), &m.Link)
	default:
		*link = m.Link
		link.NumVF, link.VFs = known.NumVF, known.VFs
	}
}

// A Decoder decodes link messages. It keeps the strings that it has seen, so
// that the same name, said again, costs no memory: decoding a link that says
// nothing new does not allocate. It is not safe for concurrent use.
type Decoder struct {
	strings  interner
	settings settingsCache
	scratch  []byte
	known    [remembered]*known // by index

	// BadMessages and BadAttributes count what was malformed and left out.
	BadMessages, BadAttributes uint64
}

// NewDecoder returns a Decoder.
func NewDecoder() *Decoder {
	return &Decoder{strings: interner{seed: maphash.MakeSeed()}}
}

// Decode decodes the body of a netlink message of type typ (RTM_NEWLINK or
// RTM_DELLINK; anything else says nothing of a link) into m. It is tolerant, as the kernel's
// readers must be: a bad attribute costs that attribute and is counted, and only
// a message that names no link is Other and counted as bad. It keeps no
// reference to body. m.Time is left alone.
func (d *Decoder) Decode(typ uint16, body []byte, m *Message) {
	m.Kind, m.Partial, m.Port = Other, false, false
	if typ == unix.RTM_NEWNSID || typ == unix.RTM_DELNSID {
		m.Kind = Netns
		return
	}
	if typ != unix.RTM_NEWLINK && typ != unix.RTM_DELLINK {
		return
	}
	if len(body) < unix.SizeofIfInfomsg {
		d.BadMessages++
		return
	}
	// struct ifinfomsg: family, pad, type, index, flags, change. Messages of
	// another family speak of what that family knows of the link: an AF_BRIDGE
	// DELLINK says that a port left its bridge.
	switch body[0] {
	case unix.AF_UNSPEC:
	case unix.AF_BRIDGE:
		if typ == unix.RTM_NEWLINK {
			d.bridgePort(body, m)
		}
		return
	default:
		return
	}
	if d.again(typ, body, m) {
		return
	}
	bad := d.BadAttributes
	d.all(body, m)
	if m.Link.Index <= 0 || m.Link.Name == "" && !m.Partial {
		d.BadMessages++
		return
	}
	m.Kind = kindOf(typ)
	if d.BadAttributes == bad {
		d.remember(typ, body, m)
	}
}

// kindOf returns what a message of this type says of its link.
func kindOf(typ uint16) Kind {
	if typ == unix.RTM_DELLINK {
		return Del
	}
	return New
}

// all decodes all attributes of a message.
func (d *Decoder) all(body []byte, m *Message) {
	m.Link = schema.Link{}
	l := &m.Link
	l.Type = schema.LinkType(binary.NativeEndian.Uint16(body[2:]))
	l.Index = int32(binary.NativeEndian.Uint32(body[4:]))
	l.Flags = flags(binary.NativeEndian.Uint32(body[8:]))

	var info []byte
	if !linkNests.attributes(body[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_WIRELESS: // wireless_nlevent_process: a name and an event, nothing else
			m.Partial = true
		case unix.IFLA_LINKINFO:
			info = v
		default:
			if !d.attribute(l, typ, v) {
				d.BadAttributes++
			}
		}
	}) {
		d.BadAttributes++
	}
	if info != nil {
		d.linkInfo(&l.Info, info)
	}
	if l.PermAddress == l.Address {
		l.PermAddress = schema.LLAddr{}
	}
	l.PointToPoint = isPointToPoint(l)
}

// flags are the link's, as JSON can say them: a link that is not up does not run, though the
// kernel may say so while it comes up.
func flags(said uint32) schema.Flags {
	f := schema.Flags(said)
	if f&schema.FlagUp == 0 {
		f &^= schema.FlagRunning
	}
	return f
}

func isPointToPoint(l *schema.Link) bool {
	return l.Flags&unix.IFF_POINTOPOINT != 0 && !l.Broadcast.IsZero()
}

// bridgePort decodes what a bridge says of its port. Other drivers answer for ports in
// its place with some of the settings (ndo_dflt_bridge_getlink), and never the state:
// those say nothing.
func (d *Decoder) bridgePort(body []byte, m *Message) {
	index := int32(binary.NativeEndian.Uint32(body[4:]))
	var settings []byte
	if !attributes(body[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		if typ == unix.IFLA_PROTINFO {
			settings = v
		}
	}) {
		d.BadAttributes++
	}
	whole := false
	attributes(settings, func(typ uint16, _ []byte) { whole = whole || typ == unix.IFLA_BRPORT_STATE })
	if !whole {
		return
	}
	if index <= 0 {
		d.BadMessages++
		return
	}
	m.Kind, m.Partial, m.Port, m.Link = New, true, true, schema.Link{Index: index}
	m.Link.Info.SlaveData = d.settingsOf(bridgePort, settings)
}

// attribute sets what one attribute says, and reports whether it could. One that
// the contract does not name is no news.
func (d *Decoder) attribute(l *schema.Link, typ uint16, v []byte) bool {
	switch typ {
	case unix.IFLA_IFNAME:
		return d.text(&l.Name, v)
	case unix.IFLA_MTU:
		return u32(&l.MTU, v)
	case unix.IFLA_MIN_MTU:
		return u32(&l.MinMTU, v)
	case unix.IFLA_MAX_MTU:
		return u32(&l.MaxMTU, v)
	case unix.IFLA_QDISC:
		return d.text(&l.Qdisc, v)
	case unix.IFLA_OPERSTATE:
		return u8(&l.OperState, v)
	case unix.IFLA_LINKMODE:
		return u8(&l.LinkMode, v)
	case unix.IFLA_GROUP:
		return u32(&l.Group, v)
	case unix.IFLA_TXQLEN:
		return u32(&l.TxQLen, v)
	case unix.IFLA_ADDRESS:
		return lladdr(&l.Address, l.Type, v)
	case unix.IFLA_BROADCAST:
		return lladdr(&l.Broadcast, l.Type, v)
	case unix.IFLA_PERM_ADDRESS:
		return lladdr(&l.PermAddress, l.Type, v)
	case unix.IFLA_LINK:
		return index(&l.LowerIndex, v)
	case unix.IFLA_LINK_NETNSID:
		return s32(&l.LowerNetnsID, v)
	case unix.IFLA_MASTER:
		return index(&l.MasterIndex, v)
	case unix.IFLA_CARRIER:
		var carrier schema.Opt[uint8]
		ok := u8(&carrier, v)
		if ok {
			l.Carrier = schema.Some(carrier.Or(0) != 0)
		}
		return ok
	case unix.IFLA_CARRIER_CHANGES:
		return u32(&l.CarrierChanges, v)
	case unix.IFLA_CARRIER_UP_COUNT:
		return u32(&l.CarrierUpCount, v)
	case unix.IFLA_CARRIER_DOWN_COUNT:
		return u32(&l.CarrierDownCount, v)
	case unix.IFLA_AF_SPEC:
		return afSpec(l, v)
	case unix.IFLA_IFALIAS:
		return d.text(&l.Alias, v)
	case unix.IFLA_PROP_LIST:
		return d.propList(l, v)
	case unix.IFLA_NEW_NETNSID:
		return s32(&l.NewNetnsID, v)
	case unix.IFLA_NEW_IFINDEX:
		return index(&l.NewIndex, v)
	default:
		return d.detail(l, typ, v)
	}
}

// detail is the second part of attribute: what only `ip -d` shows.
func (d *Decoder) detail(l *schema.Link, typ uint16, v []byte) bool {
	switch typ {
	case unix.IFLA_PROMISCUITY:
		return u32(&l.Promiscuity, v)
	case unix.IFLA_ALLMULTI:
		return u32(&l.AllMulti, v)
	case unix.IFLA_NUM_TX_QUEUES:
		return u32(&l.NumTxQueues, v)
	case unix.IFLA_NUM_RX_QUEUES:
		return u32(&l.NumRxQueues, v)
	case unix.IFLA_GSO_MAX_SIZE:
		return u32(&l.GSOMaxSize, v)
	case unix.IFLA_GSO_MAX_SEGS:
		return u32(&l.GSOMaxSegs, v)
	case unix.IFLA_TSO_MAX_SIZE:
		return u32(&l.TSOMaxSize, v)
	case unix.IFLA_TSO_MAX_SEGS:
		return u32(&l.TSOMaxSegs, v)
	case unix.IFLA_GRO_MAX_SIZE:
		return u32(&l.GROMaxSize, v)
	case unix.IFLA_GSO_IPV4_MAX_SIZE:
		return u32(&l.GSOIPv4MaxSize, v)
	case unix.IFLA_GRO_IPV4_MAX_SIZE:
		return u32(&l.GROIPv4MaxSize, v)
	case unix.IFLA_PARENT_DEV_BUS_NAME:
		return d.text(&l.Parent.Bus, v)
	case unix.IFLA_PARENT_DEV_NAME:
		return d.text(&l.Parent.Dev, v)
	case unix.IFLA_PHYS_PORT_NAME:
		return d.text(&l.PhysPort.Name, v)
	case unix.IFLA_PHYS_PORT_ID:
		l.PhysPort.ID = d.hex(v)
	case unix.IFLA_PHYS_SWITCH_ID:
		l.PhysPort.SwitchID = d.hex(v)
	default:
		return d.state(l, typ, v)
	}
	return true
}

// state is the rest of attribute: what few links have.
func (d *Decoder) state(l *schema.Link, typ uint16, v []byte) bool {
	switch typ {
	case unix.IFLA_XDP:
		return d.xdp(&l.XDP, v)
	case unix.IFLA_PROTO_DOWN:
		return truth(&l.ProtoDown, v)
	case unix.IFLA_PROTO_DOWN_REASON:
		return protoDownReason(&l.ProtoDownReason, v)
	case unix.IFLA_EVENT:
		return reason(&l.Reason, v)
	case uapi.IFLA_NETNS_IMMUTABLE:
		return truth(&l.NetnsImmutable, v)
	case unix.IFLA_NUM_VF:
		return u32(&l.NumVF, v)
	case unix.IFLA_VFINFO_LIST:
		return d.functions(l, v)
	}
	return true
}

// linkInfo decodes IFLA_LINKINFO. A kind stands before the data that it
// explains (rtnl_link_info_fill, rtnl_link_slave_info_fill).
func (d *Decoder) linkInfo(info *schema.LinkInfo, nest []byte) {
	ok := linkInfoNests.attributes(nest, func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			if !d.text(&info.Kind, v) {
				d.BadAttributes++
			}
		case unix.IFLA_INFO_SLAVE_KIND:
			if !d.text(&info.SlaveKind, v) {
				d.BadAttributes++
			}
		case unix.IFLA_INFO_DATA:
			if kind, ok := infoKinds[info.Kind]; ok {
				info.Data = d.settingsOf(kind, v)
			}
		case unix.IFLA_INFO_SLAVE_DATA:
			if kind, ok := slaveKinds[info.SlaveKind]; ok {
				info.SlaveData = d.settingsOf(kind, v)
			}
		}
	})
	if !ok {
		d.BadAttributes++
	}
}

// settingsOf decodes the settings of a link of this kind, or of a port of one, once for
// the same bytes.
func (d *Decoder) settingsOf(kind *infoKind, raw []byte) string {
	kept := d.kept(raw)
	if !kept.is(kind, raw) && kind.ticks != 0 { // what ticks makes new bytes that say the same
		d.scratch = append(d.scratch[:0], raw...)
		raw = d.scratch
		still(raw, kind.ticks)
		kept = d.kept(raw)
	}
	if kept.is(kind, raw) {
		return kept.json
	}
	data, ok := appendInfoData(nil, kind.attrs, raw)
	if !ok {
		d.BadAttributes++
		return d.strings.of(data) // each time is counted
	}
	json := d.strings.of(data)
	if len(raw) <= maxKept {
		*kept = settings{kind, bytes.Clone(raw), json}
	}
	return json
}

// A settingsCache keeps the JSON of settings that were decoded, each at the place that the
// hash of its bytes says: those of the same place take turns. It comes to 1 MiB at most
// when all are those of bridge ports.
type settingsCache [1024]settings

// maxKept is the size in bytes of the largest settings and strings that are kept: a macvlan may
// list thousands of addresses, and any link has up to 64 KiB of names.
const maxKept = 4 << 10

type settings struct {
	kind *infoKind
	raw  []byte
	json string
}

func (d *Decoder) kept(raw []byte) *settings {
	return &d.settings[maphash.Bytes(d.strings.seed, raw)%uint64(len(d.settings))]
}

func (s *settings) is(kind *infoKind, raw []byte) bool {
	return s.kind == kind && bytes.Equal(s.raw, raw)
}

// still overwrites the attributes in b that tick.
func still(b []byte, ticks uint64) {
	attributes(b, func(typ uint16, v []byte) {
		if typ < maxAttr && ticks&(1<<typ) != 0 {
			clear(v)
		}
	})
}

// propList decodes IFLA_PROP_LIST, where the alternative names are.
func (d *Decoder) propList(l *schema.Link, nest []byte) bool {
	d.scratch = d.scratch[:0]
	ok := attributes(nest, func(typ uint16, v []byte) {
		name := cString(v)
		if typ != unix.IFLA_ALT_IFNAME || len(name) == 0 {
			return
		}
		if len(d.scratch) > 0 {
			d.scratch = append(d.scratch, 0)
		}
		d.scratch = append(d.scratch, name...)
	})
	l.Alt = schema.AltNames(d.strings.of(d.scratch))
	return ok
}

// afSpec decodes the one thing that the contract names in IFLA_AF_SPEC.
func afSpec(l *schema.Link, nest []byte) bool {
	ok, good := true, true
	return attributes(nest, func(family uint16, v []byte) {
		if family != unix.AF_INET6 {
			return
		}
		ok = attributes(v, func(typ uint16, v []byte) {
			if typ == unix.IFLA_INET6_ADDR_GEN_MODE {
				good = u8(&l.AddrGenMode, v)
			}
		})
	}) && ok && good
}

// reasons are the names that ip has for why a link is announced.
var reasons = []string{
	unix.IFLA_EVENT_NONE:             "",
	unix.IFLA_EVENT_REBOOT:           "REBOOT",
	unix.IFLA_EVENT_FEATURES:         "FEATURE CHANGE",
	unix.IFLA_EVENT_BONDING_FAILOVER: "BONDING FAILOVER",
	unix.IFLA_EVENT_NOTIFY_PEERS:     "NOTIFY PEERS",
	unix.IFLA_EVENT_IGMP_RESEND:      "RESEND IGMP",
	unix.IFLA_EVENT_BONDING_OPTIONS:  "BONDING OPTION",
}

func reason(s *string, v []byte) bool {
	n, ok := uintOf(v, 4)
	switch {
	case !ok:
	case n < uint64(len(reasons)):
		*s = reasons[n]
	default:
		*s = strconv.FormatUint(n, 10)
	}
	return ok
}

func protoDownReason(set *uint32, nest []byte) bool {
	ok := true
	return attributes(nest, func(typ uint16, v []byte) {
		if typ == unix.IFLA_PROTO_DOWN_REASON_VALUE {
			var n schema.Opt[uint32]
			ok = u32(&n, v)
			*set = n.Or(0)
		}
	}) && ok
}

// truth sets a boolean of one byte.
func truth(b *bool, v []byte) bool {
	n, ok := uintOf(v, 1)
	*b = n != 0
	return ok
}

// text sets a NUL-terminated string.
func (d *Decoder) text(s *string, v []byte) bool {
	b := cString(v)
	*s = d.strings.of(b)
	return len(b) > 0
}

func (d *Decoder) hex(v []byte) string {
	d.scratch = hex.AppendEncode(d.scratch[:0], v)
	return d.strings.of(d.scratch)
}

func cString(v []byte) []byte {
	if i := bytes.IndexByte(v, 0); i >= 0 {
		return v[:i]
	}
	return v
}

func u8[T ~uint8](o *schema.Opt[T], v []byte) bool {
	if len(v) != 1 {
		return false
	}
	*o = schema.Some(T(v[0]))
	return true
}

func u32(o *schema.Opt[uint32], v []byte) bool {
	if len(v) != 4 {
		return false
	}
	*o = schema.Some(binary.NativeEndian.Uint32(v))
	return true
}

func s32(o *schema.Opt[int32], v []byte) bool {
	if len(v) != 4 {
		return false
	}
	*o = schema.Some(int32(binary.NativeEndian.Uint32(v)))
	return true
}

// index sets another link's index; 0 is none.
func index(i *int32, v []byte) bool {
	if len(v) != 4 || int32(binary.NativeEndian.Uint32(v)) < 0 {
		return false
	}
	*i = int32(binary.NativeEndian.Uint32(v))
	return true
}

func lladdr(a *schema.LLAddr, t schema.LinkType, v []byte) bool {
	addr, ok := schema.MakeLLAddr(v, t)
	if ok {
		*a = addr
	}
	return ok
}

// An interner keeps strings that it was asked for, so that the same bytes again cost
// no memory, unless they are large: those of which the hash falls on the same place take turns.
type interner struct {
	seed maphash.Seed
	kept [4096]string
}

func (i *interner) of(b []byte) string {
	if len(b) > maxKept {
		return string(b)
	}
	kept := &i.kept[maphash.Bytes(i.seed, b)%uint64(len(i.kept))]
	if string(b) != *kept {
		*kept = string(b)
	}
	return *kept
}
