package event

import (
	"time"

	"ifacebridge/schema"
)

// An Opening is what an epoch begins with: the links of its snapshots.
type Opening struct {
	BootID   string
	OwnNetns uint64 // the inode of the bridge's own namespace; 0: not known
	Labels   schema.Labels
	Links    OpeningLinks
	At       time.Time // of its first snapshot
}

// OpeningLinks are the links of an [Opening] that are published.
type OpeningLinks map[schema.LinkKey]OpeningLink

// An OpeningLink is one of them: where it is, and its state.
type OpeningLink struct {
	NetnsInode uint64
	Link       *schema.Link
}

// OpeningOf is the opening of an epoch that begins with these events.
func OpeningOf(events []schema.Event, id Identity) Opening {
	o := Opening{BootID: id.BootID, OwnNetns: id.OwnNetns, Labels: id.Labels, Links: OpeningLinks{}, At: time.Now()}
	for i := range events {
		e := &events[i]
		o.Links[e.Key()] = OpeningLink{e.NetnsInode, &e.Link}
	}
	return o
}

// Has reports whether e's link is among them, so that it need not have gone.
func (o *Opening) Has(e *schema.Event) bool {
	now, there := o.Links[e.Key()]
	if e.Netns == "" && e.OwnNetnsInode != 0 && o.OwnNetns != 0 && e.OwnNetnsInode != o.OwnNetns {
		return false
	}
	return there && e.BootID == o.BootID && e.NetnsInode == now.NetnsInode && !Replaced(&e.Link, now.Link)
}

// Del returns the del of a link that is not among them, of which e was the last event.
func (o *Opening) Del(e *schema.Event) schema.Event {
	del := schema.Event{
		Host: e.Host, BootID: o.BootID, OwnNetnsInode: o.OwnNetns, Labels: o.Labels, Time: o.At,
		Kind: schema.Del, Action: schema.Deleted, Cause: schema.Resync,
		Netns: e.Netns, NetnsInode: e.NetnsInode, Link: e.Link, Truncated: LeftOut(e),
	}
	if o.BootID == "" { // nobody tells of another state of the host than the last
		del.BootID, del.OwnNetnsInode, del.Labels = e.BootID, e.OwnNetnsInode, e.Labels
	}
	return del
}

// Replaced reports whether a link under the same index can't be the one that was
// there: its index was given to another while nobody looked. A link keeps its kind, and
// the kernel only ever counts its carrier up. Its hardware type may change in place
// (TUNSETLINK, wlan monitor mode, an empty bond's first slave).
func Replaced(old, link *schema.Link) bool {
	return old.Info.Kind != link.Info.Kind || old.Parent != link.Parent ||
		link.CarrierUpCount.Or(0) < old.CarrierUpCount.Or(0) ||
		link.CarrierDownCount.Or(0) < old.CarrierDownCount.Or(0)
}
