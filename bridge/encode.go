package bridge

import (
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/schema"
)

// identity is what every event of a run has in common.
type identity struct {
	host, bootID, epoch string
}

// An outgoing is an event on its way: it has its place in the epoch, and stays
// the same bytes however often it is sent.
type outgoing struct {
	seq     uint64
	id      string
	time    time.Time // the event's
	subject string
	data    []byte
	labels  labels
	key     schema.LinkKey
	former  string // the namespace that its key was of until now, "": the same
	link    int    // where in data the link begins
	gone    bool   // the link is

	endsOpening bool // the epoch's snapshots are whole
}

// formerKey is schema.Event.FormerKey.
func (o *outgoing) formerKey() (schema.LinkKey, bool) {
	return schema.LinkKey{Netns: o.former, Index: o.key.Index}, o.former != ""
}

// An encoder gives events their place in an epoch and makes messages of them.
type encoder struct {
	subjects [3]string // by schema.Kind
	limit    func() int64

	epoch string
	seq   uint64 // of the last event

	batch []outgoing
	bytes []byte // their data
	room  int    // bytes that a message may have, as the server said when the batch was begun
}

// headerRoom is what a message's headers and protocol line take, at most.
const headerRoom = 1024

func newEncoder(cfg Config, limit func() int64) *encoder {
	c := &encoder{limit: limit}
	for _, kind := range []schema.Kind{schema.New, schema.Del} {
		c.subjects[kind] = schema.Subject(cfg.Prefix, cfg.Token, kind)
	}
	return c
}

// begin makes the next event the one after seq of an epoch.
func (c *encoder) begin(epoch string, seq uint64) { c.epoch, c.seq = epoch, seq }

// reset begins a new batch. The memory of the last one is used again.
func (c *encoder) reset() { c.batch, c.bytes, c.room = c.batch[:0], c.bytes[:0], int(c.limit()) }

// add appends an event to the batch, as the next one of the epoch.
func (c *encoder) add(e *schema.Event) {
	c.seq++
	e.Epoch, e.Seq = c.epoch, c.seq
	start := len(c.bytes)
	var link int
	c.bytes, link = appendWithin(c.bytes, e, c.room)
	c.batch = append(c.batch, outgoing{
		seq: e.Seq, id: e.ID(), time: e.Time, subject: c.subjects[e.Kind], labels: labels{e.Kind, e.Action, e.Cause},
		data: c.bytes[start:len(c.bytes):len(c.bytes)], link: link, key: e.Key(), former: e.NetnsPrevious, gone: e.Kind == schema.Del,
		endsOpening: e.Snapshot.Of > 0 && e.Snapshot.Pos == e.Snapshot.Of && e.Snapshot.More == 0,
	})
}

// Headers of a message besides Nats-Msg-Id: what its data is, and the attributes
// of CloudEvents 1.0 in binary mode, as its NATS binding writes them.
const (
	contentType   = "Content-Type"
	ceSpecVersion = "ce-specversion"
	ceID          = "ce-id"
	ceSource      = "ce-source"
	ceType        = "ce-type"
	ceSubject     = "ce-subject"
	ceTime        = "ce-time"
)

// header fills in the headers of an event.
func (o *outgoing) header(h nats.Header, token string) {
	h[nats.MsgIdHdr] = []string{o.id}
	h[contentType] = []string{"application/json"}
	h[ceSpecVersion] = []string{"1.0"}
	h[ceID] = []string{o.id}
	h[ceSource] = []string{"/" + schema.ServiceName + "/" + token}
	h[ceType] = []string{schema.Name + "." + o.labels.kind.String()}
	h[ceSubject] = []string{o.key.String()}
	h[ceTime] = []string{schema.FormatTime(o.time)}
}

// fit encodes again what is larger than the server takes: another server may take
// less than the one that was there when it was encoded.
func (c *encoder) fit(batch []outgoing) error {
	limit := int(c.limit())
	for i := range batch {
		o := &batch[i]
		if limit <= 0 || len(o.data)+headerRoom <= limit {
			continue
		}
		var e schema.Event
		if err := e.UnmarshalJSON(o.data); err != nil {
			return err
		}
		o.data, o.link = appendWithin(nil, &e, limit)
	}
	return nil
}

// event is the event of a change, without its place in the epoch.
func (id *identity) event(c *change) schema.Event {
	return schema.Event{
		Host: id.host, BootID: id.bootID, Epoch: id.epoch,
		Time: c.time, Kind: c.kind, Action: c.action, Cause: c.cause,
		Overruns: c.overruns, Coalesced: c.count, Snapshot: c.snapshot,
		Changed: c.changed(), Previous: c.beforeNames.named(&c.before),
		Link:  c.linkNames.named(&c.link),
		Netns: c.netns.name, NetnsInode: c.netns.inode, NetnsPrevious: c.netnsBefore, Counterpart: c.counterpart,
	}
}

// expendable are the keys of a link that are left out, one group after another,
// when an event is larger than the server takes: the longest first that matter
// least to who acts on an event.
var expendable = func() []schema.FieldSet {
	var sets []schema.FieldSet
	for _, names := range [][]string{
		{"altnames", "altnames_bytes"}, {"linkinfo"}, {"ifalias", "ifalias_bytes"},
		{"phys_port_name", "phys_port_id", "phys_switch_id", "parentbus", "parentdev", "num_tx_queues", "num_rx_queues",
			"gso_max_size", "gso_max_segs", "tso_max_size", "tso_max_segs", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size"},
	} {
		sets = append(sets, mustFields(names...))
	}
	return sets
}()

// appendWithin appends the event's JSON, without what has to go to keep it within
// limit bytes, and says so in the event. 0 is no limit known yet. It returns,
// besides, where in the JSON the link begins.
func appendWithin(dst []byte, e *schema.Event, limit int) (with []byte, link int) {
	start := len(dst)
	dst, link = e.AppendJSONLink(dst)
	for _, set := range expendable {
		if limit <= 0 || len(dst)-start+headerRoom <= limit {
			break
		}
		e.Truncated |= set & (schema.Present(&e.Link) | e.Changed)
		e.Link = e.Link.Without(set)
		e.Previous = e.Previous.Without(set)
		dst, link = e.AppendJSONLink(dst[:start])
	}
	return dst, link - start
}
