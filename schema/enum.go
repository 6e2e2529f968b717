package schema

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// Kind is whether the link is there after the event: the last token of the
// subject, and the event's "event" field.
type Kind uint8

const (
	New Kind = iota + 1 // the link exists
	Del                 // the link is gone
)

// Action is what happened to the link.
type Action uint8

const (
	Existing Action = iota + 1 // it is there, says a snapshot
	Created
	Updated // also when the kernel announced it without a visible change
	Renamed // also across the filter: out of it on del, into it on new
	Deleted
	Moved // it went to another network namespace
)

// Cause is how the bridge came to know.
type Cause uint8

const (
	Notification  Cause = iota + 1 // the kernel said so
	SnapshotCause                  // a snapshot says so
	Resync                         // comparing with a dump, or with what was published before a restart
	Retired                        // the host was forgotten, or is not called so any more
)

var (
	kindNames   = []string{New: "new", Del: "del"}
	actionNames = []string{Existing: "existing", Created: "created", Updated: "updated", Renamed: "renamed", Deleted: "deleted", Moved: "moved"}
	causeNames  = []string{Notification: "notification", SnapshotCause: "snapshot", Resync: "resync", Retired: "retired"}
)

func (k Kind) String() string   { return nameOf(kindNames, k) }
func (a Action) String() string { return nameOf(actionNames, a) }
func (c Cause) String() string  { return nameOf(causeNames, c) }

func (k *Kind) UnmarshalText(b []byte) error   { return enumOf(k, kindNames, "event", b) }
func (a *Action) UnmarshalText(b []byte) error { return enumOf(a, actionNames, "action", b) }
func (c *Cause) UnmarshalText(b []byte) error  { return enumOf(c, causeNames, "cause", b) }

// OperState is a link's RFC 2863 operational state (IF_OPER_*).
type OperState uint8

const (
	OperUnknown OperState = iota
	OperNotPresent
	OperDown
	OperLowerLayerDown
	OperTesting
	OperDormant
	OperUp
)

// LinkMode is whether user space takes part in bringing the link up (IF_LINK_MODE_*).
type LinkMode uint8

// AddrGenMode is how the link gets its IPv6 link-local address (IN6_ADDR_GEN_MODE_*).
type AddrGenMode uint8

var (
	operStateNames   = []string{"UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP"}
	linkModeNames    = []string{"DEFAULT", "DORMANT"}
	addrGenModeNames = []string{"eui64", "none", "stable_secret", "random"}
)

func (s OperState) String() string   { return nameOf(operStateNames, s) }
func (m LinkMode) String() string    { return nameOf(linkModeNames, m) }
func (m AddrGenMode) String() string { return nameOf(addrGenModeNames, m) }

// nameOf returns v's name, or its number for a value newer than this program.
func nameOf[T ~uint8](names []string, v T) string {
	if int(v) < len(names) && names[v] != "" {
		return names[v]
	}
	return strconv.Itoa(int(v))
}

// enumOf is nameOf's inverse: what names this value, a name or a number.
func enumOf[T ~uint8](v *T, names []string, what string, text []byte) error {
	if i := slices.Index(names, string(text)); i >= 0 && len(text) > 0 {
		*v = T(i)
		return nil
	}
	n, err := strconv.ParseUint(string(text), 10, 8)
	if err != nil {
		return fmt.Errorf("%s: unknown value %q", what, text)
	}
	*v = T(n)
	return nil
}

// Flags are a link's IFF_* flags (netdevice(7)). As JSON they are the names that
// ip prints, in its order: IFF_RUNNING shows as its absence, NO-CARRIER, on a
// link that is up.
type Flags uint32

const (
	FlagUp           Flags = 1 << 0
	FlagPointToPoint Flags = 1 << 4
	FlagRunning      Flags = 1 << 6
)

// flagNames is in the order in which ip prints them (ip/ipaddress.c).
var flagNames = []struct {
	flag Flags
	name string
}{
	{1 << 3, "LOOPBACK"}, {1 << 1, "BROADCAST"}, {FlagPointToPoint, "POINTOPOINT"}, {1 << 12, "MULTICAST"},
	{1 << 7, "NOARP"}, {1 << 9, "ALLMULTI"}, {1 << 8, "PROMISC"}, {1 << 10, "MASTER"}, {1 << 11, "SLAVE"},
	{1 << 2, "DEBUG"}, {1 << 15, "DYNAMIC"}, {1 << 14, "AUTOMEDIA"}, {1 << 13, "PORTSEL"}, {1 << 5, "NOTRAILERS"},
	{FlagUp, "UP"}, {1 << 16, "LOWER_UP"}, {1 << 17, "DORMANT"}, {1 << 18, "ECHO"},
}

const noCarrier = "NO-CARRIER"

// Names returns the flags as ip prints them.
func (f Flags) Names() []string { return slices.Collect(f.each()) }

func (f Flags) String() string { return strings.Join(f.Names(), ",") }

// each yields what Names returns: in hex what has no name.
func (f Flags) each() iter.Seq[string] {
	return func(yield func(string) bool) {
		rest := f &^ FlagRunning
		if f&FlagUp != 0 && f&FlagRunning == 0 && !yield(noCarrier) {
			return
		}
		for i := range flagNames {
			if n := &flagNames[i]; rest&n.flag != 0 {
				if rest &^= n.flag; !yield(n.name) {
					return
				}
			}
		}
		if rest != 0 {
			yield(strconv.FormatUint(uint64(rest), 16))
		}
	}
}

// appendFlags writes what Names returns without making the slice.
func appendFlags(dst []byte, f Flags) []byte {
	dst = append(dst, '[')
	first := true
	for name := range f.each() {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(append(dst, '"'), name...), '"')
	}
	return append(dst, ']')
}

// flagsOf is the inverse of Names.
func flagsOf(names []string) (Flags, error) {
	var f Flags
	running := true
next:
	for _, name := range names {
		if name == noCarrier {
			running = false
			continue
		}
		for _, n := range flagNames {
			if n.name == name {
				f |= n.flag
				continue next
			}
		}
		rest, err := strconv.ParseUint(name, 16, 32)
		if err != nil {
			return 0, fmt.Errorf("unknown flag %q", name)
		}
		f |= Flags(rest)
	}
	if running && f&FlagUp != 0 {
		f |= FlagRunning
	}
	return f, nil
}

// LinkType is the kind of hardware, ARPHRD_* (include/uapi/linux/if_arp.h).
type LinkType uint16

// Link types whose hardware addresses are IP addresses.
const (
	typeTunnel  LinkType = 768
	typeTunnel6 LinkType = 769
	typeSIT     LinkType = 776
	typeIPGRE   LinkType = 778
	typeIP6GRE  LinkType = 823
)

// linkTypeNames are the names that ip gives them (lib/ll_types.c).
var linkTypeNames = map[LinkType]string{
	0: "netrom", 1: "ether", 2: "eether", 3: "ax25", 4: "pronet", 5: "chaos", 6: "ieee802", 7: "arcnet", 8: "atalk",
	15: "dlci", 19: "atm", 23: "metricom", 24: "ieee1394", 32: "infiniband", 256: "slip", 257: "cslip", 258: "slip6",
	259: "cslip6", 260: "rsrvd", 264: "adapt", 270: "rose", 271: "x25", 272: "hwx25", 280: "can", 512: "ppp",
	513: "hdlc", 516: "lapb", 517: "ddcmp", 518: "rawhdlc", typeTunnel: "ipip", typeTunnel6: "tunnel6", 770: "frad",
	771: "skip", 772: "loopback", 773: "ltalk", 774: "fddi", 775: "bif", typeSIT: "sit", 777: "ip/ddp",
	typeIPGRE: "gre", 779: "pimreg", 780: "hippi", 781: "ash", 782: "econet", 783: "irda", 784: "fcpp", 785: "fcal",
	786: "fcpl", 787: "fcfb0", 788: "fcfb1", 789: "fcfb2", 790: "fcfb3", 791: "fcfb4", 792: "fcfb5", 793: "fcfb6",
	794: "fcfb7", 795: "fcfb8", 796: "fcfb9", 797: "fcfb10", 798: "fcfb11", 799: "fcfb12", 800: "tr",
	801: "ieee802.11", 802: "ieee802.11/prism", 803: "ieee802.11/radiotap", 804: "ieee802.15.4",
	805: "ieee802.15.4/monitor", 820: "phonet", 821: "phonet_pipe", 822: "caif", typeIP6GRE: "gre6", 824: "netlink",
	825: "6lowpan", 0xFFFE: "none", 0xFFFF: "void",
}

var linkTypeByName = invert(linkTypeNames)

func invert[K, V comparable](m map[K]V) map[V]K {
	inverse := make(map[V]K, len(m))
	for k, v := range m {
		inverse[v] = k
	}
	return inverse
}

// String is the name that ip prints, "[<number>]" for one it does not know.
func (t LinkType) String() string {
	if name, ok := linkTypeNames[t]; ok {
		return name
	}
	return "[" + strconv.Itoa(int(t)) + "]"
}

func linkTypeOf(name string) (LinkType, error) {
	if t, ok := linkTypeByName[name]; ok {
		return t, nil
	}
	n, err := strconv.ParseUint(strings.Trim(name, "[]"), 10, 16)
	if err != nil {
		return 0, fmt.Errorf("unknown link type %q", name)
	}
	return LinkType(n), nil
}
