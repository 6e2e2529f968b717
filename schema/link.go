package schema

import "strconv"

// A Link is the state of one network interface as the kernel describes it in an
// RTM_NEWLINK message (include/uapi/linux/if_link.h). It is comparable, holds no
// pointers into anybody's buffers, and may be copied and kept.
//
// A new field is a field here, a row of the table in field.go (its JSON key, and how it is
// written), a case of Decoder.attribute, detail or state in netlinksrc/decode.go (where the
// kernel's attribute is read), and its description in iface.v1.schema.json; tests ask for the rest.
type Link struct {
	Index  int32  // ifindex, unique within a network namespace while the link lives
	Name   string // 1 to 15 bytes, any but white space, '/' and ':'; need not be UTF-8
	Flags  Flags
	Type   LinkType // ARPHRD_*
	Alias  string   // up to 255 bytes, need not be UTF-8
	Alt    AltNames
	Info   LinkInfo
	Qdisc  string
	Parent Parent

	// Lower link (IFLA_LINK) and master, 0 when there is none. The names are
	// those of the moment when the event was made; they resolve in the link's
	// own namespace only, so a lower link elsewhere has LowerNetnsID and no name.
	LowerIndex   int32
	LowerName    string
	LowerNetnsID Opt[int32]
	MasterIndex  int32
	MasterName   string

	Address, Broadcast LLAddr
	PointToPoint       bool   // Broadcast is the other end's address
	PermAddress        LLAddr // only when it differs from Address, as in ip

	OperState   Opt[OperState]
	LinkMode    Opt[LinkMode]
	AddrGenMode Opt[AddrGenMode]
	Carrier     Opt[bool]
	CarrierChanges, CarrierUpCount,
	CarrierDownCount Opt[uint32]

	MTU, MinMTU, MaxMTU        Opt[uint32] // bytes
	Group, TxQLen              Opt[uint32]
	Promiscuity, AllMulti      Opt[uint32]
	NumTxQueues, NumRxQueues   Opt[uint32]
	GSOMaxSize, GSOIPv4MaxSize Opt[uint32] // bytes
	GROMaxSize, GROIPv4MaxSize Opt[uint32] // bytes
	TSOMaxSize                 Opt[uint32] // bytes
	GSOMaxSegs, TSOMaxSegs     Opt[uint32]

	PhysPort PhysPort

	XDP             string // a JSON object of the XDP programs attached, "" without one
	ProtoDown       bool   // a protocol holds the link down
	ProtoDownReason uint32 // a bit for each reason
	NetnsImmutable  bool   // it cannot be moved to another namespace

	// SR-IOV: how many virtual functions there are, and a JSON array of their settings.
	// Only dumps say so.
	NumVF Opt[uint32]
	VFs   string

	// Reason is why the kernel announced the link, where it says so ("NOTIFY PEERS"). It
	// belongs to one event and is no state: it is in no dump, and not in the next event.
	Reason string

	// Where a link went that was moved to another namespace: the namespace's id
	// as seen from the link's old namespace, and the link's index there.
	NewNetnsID Opt[int32]
	NewIndex   int32
}

// Parent is the device on a bus that a link belongs to ("pci", "0000:00:1f.6").
type Parent struct {
	Bus, Dev string
}

// PhysPort is what a NIC says about the physical port behind a link. The ids
// are lower-case hex digits.
type PhysPort struct {
	Name, ID, SwitchID string
}

// LinkInfo is the kind of a virtual link and its settings.
type LinkInfo struct {
	Kind      string // "veth", "bridge", …; "" for hardware
	SlaveKind string // the kind of its master
	Data      string // a JSON object of the kind's settings, "" when not decoded
	SlaveData string // a JSON object of what its master knows of it, "" when not decoded
}

// Opt is a value that may be absent, which is not the same as zero.
type Opt[T comparable] struct {
	value T
	ok    bool
}

// Some returns an Opt that holds v.
func Some[T comparable](v T) Opt[T] { return Opt[T]{v, true} }

// Get returns the value and whether there is one.
func (o Opt[T]) Get() (T, bool) { return o.value, o.ok }

// Or returns the value, or absent when there is none.
func (o Opt[T]) Or(absent T) T {
	if o.ok {
		return o.value
	}
	return absent
}

// GroupName is how ip shows a link group: group 0 is called "default".
func GroupName(g uint32) string {
	if g == 0 {
		return "default"
	}
	return strconv.FormatUint(uint64(g), 10)
}
