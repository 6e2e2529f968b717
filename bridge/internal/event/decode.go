package event

import "ifacebridge/schema"

// Decode returns the event that data is the JSON of; nil when it is none.
func Decode(data []byte) *schema.Event {
	e := new(schema.Event)
	if e.UnmarshalJSON(data) != nil {
		return nil
	}
	return e
}

// Same reports whether two events are the same one of an epoch, whatever their seq, and
// whether or not the server took all of their fields.
func Same(a, b *schema.Event) bool { return a.Epoch == b.Epoch && SameContent(a, b) }

// SameContent is [Same] for events of any epoch.
func SameContent(a, b *schema.Event) bool {
	return a.Time.Equal(b.Time) && a.Kind == b.Kind && a.Action == b.Action && a.Cause == b.Cause &&
		a.Snapshot == b.Snapshot && a.Key() == b.Key() &&
		a.NetnsInode == b.NetnsInode && a.NetnsPrevious == b.NetnsPrevious &&
		(a.Link == b.Link || a.Truncated|b.Truncated != 0)
}
