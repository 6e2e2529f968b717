// Package event has what an event is on its way through a bridge, and what it is made of:
// a Change leaves the table of links, a [Delta] the queue, and an [Outgoing] goes to NATS.
// An [Encoder] makes the last of these, with its JSON and headers, small enough for the
// server; a [Message] is how nats.go takes it. Besides, there is what events of a run have
// in common ([Identity]), how far they have come ([Mark]), and what they begin with
// ([Opening]).
//
// Nothing here waits or locks. A value belongs to one goroutine at a time.
package event

import (
	"time"

	"ifacebridge/schema"
)

// A Change is one step of the published state: what an event will say, but for
// its place in the epoch, which it gets when it leaves the queue.
type Change struct {
	About

	// Link is the state after the change, and Before the one before it, nil when there
	// was none; both as the kernel says them: other links by index only, so that they
	// compare. They belong to the table. A link without one before it may be kept, since
	// the table leaves it alone afterwards; others are valid until emit returns.
	Link, Before           *schema.Link
	LinkNames, BeforeNames Names
}

// An About is what there is to say of a change besides the link.
type About struct {
	ID       LinkID
	Kind     schema.Kind
	Action   schema.Action
	Cause    schema.Cause
	Time     time.Time
	Overruns uint64 // of all namespaces since the bridge started, until then
	Count    uint64 // kernel notifications that it stands for
	Snapshot schema.Snapshot

	// WasThere is whether a consumer knows the link, as it was before.
	WasThere bool

	// Restated are keys that are said again although the link has not changed,
	// because the name that stands beside them has.
	Restated schema.FieldSet

	// Netns is the namespace of the link, and NetnsBefore what it was called
	// before the change, when it had another name.
	Netns       Namespace
	NetnsBefore string

	Counterpart schema.Counterpart
}

// IsPlain reports whether all that c says is what is different of a link that consumers
// know, in a namespace.
func (c *Change) IsPlain(in Namespace) bool {
	return c.WasThere && c.Before != nil && c.Snapshot.Of == 0 &&
		c.Netns == in && c.NetnsBefore == "" && c.Counterpart == schema.Counterpart{}
}

// Keys returns the keys of which the values are not what they were.
func (c *Change) Keys() schema.FieldSet {
	s := schema.Diff(c.Before, c.Link)
	if c.LinkNames == c.BeforeNames {
		return s
	}
	if c.LinkNames.Lower != c.BeforeNames.Lower {
		s |= lowerNameField
	}
	if c.LinkNames.Master != c.BeforeNames.Master {
		s |= masterNameField
	}
	if c.LinkNames.InfoData != c.BeforeNames.InfoData || c.LinkNames.SlaveData != c.BeforeNames.SlaveData {
		s |= linkInfoField
	}
	return s
}

// AppendValues appends the values under keys, for a [schema.Form].
func (c *Change) AppendValues(dst []byte, keys schema.FieldSet) []byte {
	if keys&(lowerNameField|masterNameField|linkInfoField) == 0 {
		return c.Link.AppendValues(dst, keys)
	}
	named := *c.Link
	c.LinkNames.Put(&named)
	return named.AppendValues(dst, keys)
}

// A Namespace is what a network namespace is called in events; its zero value is the
// bridge's own.
type Namespace struct {
	Name  string
	Inode uint64
}

// A LinkID identifies a link from its creation to its deletion. The kernel may
// give its index to another link afterwards: that one is of a later generation.
type LinkID struct {
	Watch      uint64 // of a namespace, from its beginning to its end: an inode is used again
	Index      int32
	Generation uint64
}
