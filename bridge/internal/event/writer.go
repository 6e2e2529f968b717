package event

import "ifacebridge/schema"

// A Writer makes the JSON of events out of changes. Its zero value, with the identity of
// the run set, is ready for use.
type Writer struct {
	ID     Identity
	json   schema.Encoder
	event  schema.Event // the last one, but for its links
	named  schema.Link  // room for a link with names
	values []byte       // and for its values
}

// Append appends the event of a change, which has this place in an epoch, to dst. It
// returns, besides, where in the event the link begins. It uses the change up: d.Form is
// then what consumers of the event know.
func (w *Writer) Append(dst []byte, d *Delta, epoch string, seq uint64) (with []byte, link int) {
	e := &w.event
	e.Host, e.BootID, e.OwnNetnsInode, e.Epoch, e.Seq = w.ID.Host, w.ID.BootID, w.ID.OwnNetns, epoch, seq
	e.Labels = w.ID.Labels
	e.Time, e.Kind, e.Action, e.Cause = d.Time, d.Kind, d.Action, d.Cause
	e.Overruns, e.Coalesced, e.Snapshot = d.Overruns, d.Count, d.Snapshot
	e.Netns, e.NetnsInode, e.NetnsPrevious, e.Counterpart = d.Netns.Name, d.Netns.Inode, d.NetnsBefore, d.Counterpart
	e.Link.Index = d.ID.Index // for its key
	keys, values := d.Keys, d.Values
	if d.Link != nil {
		keys, values = schema.AllKeys, w.valuesOf(d.Link)
	}
	if d.Before != nil {
		w.nameLinks(d.Before)
		d.Form.Set(&w.named)
	}
	if e.Action == schema.Updated || e.Action == schema.Renamed {
		if e.Changed = 0; d.WasThere || d.Before != nil {
			e.Changed = d.Form.Diff(keys, values) | d.Restated
		}
		if e.Kind == schema.New && d.WasThere { // what it comes to may be less than its parts
			e.Action = schema.Updated
			if e.Changed&nameField != 0 || e.NetnsPrevious != "" {
				e.Action = schema.Renamed
			}
		}
	}
	start := len(dst)
	dst, link = w.json.AppendChange(dst, e, d.Form, keys, values)
	return dst, link - start
}

// valuesOf returns the values of all keys of a link with its names.
func (w *Writer) valuesOf(l *LinkState) []byte {
	w.nameLinks(l)
	w.values = w.named.AppendValues(w.values[:0], schema.AllKeys)
	return w.values
}

// nameLinks makes named the link with its names.
func (w *Writer) nameLinks(l *LinkState) {
	w.named = *l.Link
	l.Names.Put(&w.named)
}

var nameField = mustFields("ifname")
