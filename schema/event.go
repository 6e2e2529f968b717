// Package schema is the one vocabulary of ifacebridge: an [Event] about a
// network [Link] of a host, its JSON form (schema iface.v1), and the mapping
// from host names to NATS subjects.
//
// It is what a consumer imports. It knows neither netlink nor NATS, and a Link
// is a plain comparable value: two links are the same when l1 == l2, and
// [Diff] says in which keys they differ.
//
//	var e schema.Event
//	if err := json.Unmarshal(msg.Data, &e); err != nil { … }
//	fmt.Println(e.Host, e.Link.Name, e.Action, e.Changed)
//
// The JSON follows `ip -d -j link show` name for name and value for value. A key
// that the kernel did not send is absent, never zero; in Go that is an [Opt]
// without a value, or the zero value where zero cannot be meant (a name, an
// index, a hardware address).
package schema

import (
	"strconv"
	"time"
)

// Name is the value of an event's "schema" field. Within v1 fields are only
// added; the name maps to schema/iface.v1.schema.json.
const Name = "iface.v1"

// An Event says that one link of one host appeared, changed or went, or that it
// is there (in a snapshot). It is a value: copying it copies all of it.
type Event struct {
	Host   string // the host's name as configured, not its subject token
	BootID string // the kernel's /proc/sys/kernel/random/boot_id

	// OwnNetnsInode is the number in the kernel's nsfs of the network namespace in which
	// the bridge runs; 0 from a bridge that does not say. Under the same host name and boot
	// another number means other links: a container that was made again.
	OwnNetnsInode uint64

	Labels Labels // of the host, constant in an epoch

	Epoch string // a run of the bridge, or a part of one that it can vouch for
	Seq   uint64 // position in the epoch, from 1, without gaps

	Time   time.Time // when the bridge read it from the kernel
	Kind   Kind      // "event": new or del, as in the subject
	Action Action
	Cause  Cause

	// Overruns is how many times notifications were lost since the bridge started, before
	// this event: the kernel dropped them (ENOBUFS), they could not be read, or a link that
	// nobody had seen yet went while the bridge's queue was full.
	Overruns uint64

	// Coalesced is how many kernel notifications this event stands for; 0 and 1
	// both mean one, and are left out of the JSON.
	Coalesced uint64

	// Changed and Previous are meaningful for the actions updated and renamed:
	// the keys of Link that changed, and a link that holds their old values and
	// nothing else.
	Changed  FieldSet
	Previous Link

	Snapshot  Snapshot // zero outside of a snapshot
	Truncated FieldSet // keys of Link and Previous left out to fit the server's payload limit
	Link      Link     // on del: the last known

	// Netns is the name of the network namespace that the link is in, and
	// NetnsInode its number in the kernel's nsfs; "" and 0 for the bridge's own.
	// NetnsPrevious is what the namespace was called until this event: what is
	// known of the link under that name is known under Netns now.
	Netns         string
	NetnsInode    uint64
	NetnsPrevious string

	// Counterpart is, on moved, where the link is now, and on created, where it
	// came from, when the bridge watches both. Its zero value is none.
	Counterpart Counterpart
}

// Snapshot is the place of an event in the snapshot of a network namespace: 1 to
// Of, nothing in between. An epoch opens with one for each namespace that has
// links; More is how many of those follow behind this one.
type Snapshot struct {
	Pos, Of, More uint32
}

// Counterpart is the same link in the other of two network namespaces, of which
// Netns and NetnsInode are as in [Event].
type Counterpart struct {
	Netns      string
	NetnsInode uint64
	Index      int32
}

// ID is the event's identity, "<epoch>-<seq>". It is the Nats-Msg-Id header too.
func (e *Event) ID() string { return ID(e.Epoch, e.Seq) }

// ID returns the identity of event seq of an epoch.
func ID(epoch string, seq uint64) string {
	return epoch + "-" + strconv.FormatUint(seq, 10)
}
