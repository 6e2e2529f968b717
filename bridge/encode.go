package bridge

import (
	"strconv"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/config"
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
	texts   headerTexts
	subject string
	data    []byte
	labels  labels
	key     schema.LinkKey
	former  string // the namespace that its key was of until now, "": the same
	link    int    // where in data the link begins
	gone    bool   // the link is

	endsOpening bool // the epoch's snapshots are whole
}

// headerTexts are what stands in the headers of a message and in no other's.
type headerTexts struct{ id, time, subject string }

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

	json  schema.Encoder
	batch []outgoing
	bytes []byte   // their data
	texts []byte   // of their headers
	ends  [][3]int // where each of those ends in texts
	room  int      // bytes that a message may have, as the server said when the batch was begun
}

// headerRoom is what a message's headers and protocol line take, at most.
const headerRoom = 1024

func newEncoder(cfg config.Config, limit func() int64) *encoder {
	c := &encoder{limit: limit}
	for _, kind := range []schema.Kind{schema.New, schema.Del} {
		c.subjects[kind] = schema.Subject(cfg.Prefix, cfg.Token, kind)
	}
	return c
}

// begin makes the next event the one after seq of an epoch.
func (c *encoder) begin(epoch string, seq uint64) { c.epoch, c.seq = epoch, seq }

// reset begins a new batch. The memory of the last one is used again.
func (c *encoder) reset() {
	c.batch, c.bytes, c.texts, c.ends, c.room = c.batch[:0], c.bytes[:0], c.texts[:0], c.ends[:0], int(c.limit())
}

// add appends an event to the batch, as the next one of the epoch.
func (c *encoder) add(e *schema.Event) {
	c.seq++
	e.Epoch, e.Seq = c.epoch, c.seq
	start := len(c.bytes)
	var link int
	c.bytes, link = appendWithin(&c.json, c.bytes, e, c.room)
	c.batch = append(c.batch, outgoing{
		seq: e.Seq, subject: c.subjects[e.Kind], labels: labels{e.Kind, e.Action, e.Cause},
		data: c.bytes[start:len(c.bytes):len(c.bytes)], link: link, key: e.Key(), former: e.NetnsPrevious, gone: e.Kind == schema.Del,
		endsOpening: e.Snapshot.Of > 0 && e.Snapshot.Pos == e.Snapshot.Of && e.Snapshot.More == 0,
	})
	c.addTexts(e)
}

func (c *encoder) addTexts(e *schema.Event) {
	var ends [3]int
	c.texts = append(append(c.texts, e.Epoch...), '-')
	c.texts = strconv.AppendUint(c.texts, e.Seq, 10)
	ends[0] = len(c.texts)
	c.texts = append(c.texts, c.json.Time(e.Time)...)
	ends[1] = len(c.texts)
	c.texts = e.Key().Append(c.texts)
	ends[2] = len(c.texts)
	c.ends = append(c.ends, ends)
}

// seal completes a batch: what its headers need is in one string for all of them.
func (c *encoder) seal() {
	all, from := string(c.texts), 0
	for i, ends := range c.ends {
		c.batch[i].texts = headerTexts{all[from:ends[0]], all[ends[0]:ends[1]], all[ends[1]:ends[2]]}
		from = ends[2]
	}
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

// A message is one that is filled in for one event after another: the client has
// copied it when it is published.
type message struct {
	nats.Msg
	id, ceID, ceType, ceSubject, ceTime []string // of its headers
	types                               [3]string
}

func newMessage(token string) *message {
	m := &message{
		id: make([]string, 1), ceID: make([]string, 1), ceType: make([]string, 1), ceSubject: make([]string, 1), ceTime: make([]string, 1),
	}
	for _, kind := range []schema.Kind{schema.New, schema.Del} {
		m.types[kind] = schema.Name + "." + kind.String()
	}
	m.Header = nats.Header{
		nats.MsgIdHdr: m.id, contentType: {"application/json"}, ceSpecVersion: {"1.0"}, ceID: m.ceID,
		ceSource: {"/" + schema.ServiceName + "/" + token}, ceType: m.ceType, ceSubject: m.ceSubject, ceTime: m.ceTime,
	}
	return m
}

// of returns the message of an event, until the next one is asked for.
func (m *message) of(o *outgoing) *nats.Msg {
	m.Subject, m.Data, m.Reply = o.subject, o.data, ""
	m.id[0], m.ceID[0], m.ceSubject[0], m.ceTime[0] = o.texts.id, o.texts.id, o.texts.subject, o.texts.time
	m.ceType[0] = m.types[o.labels.kind]
	return &m.Msg
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
		o.data, o.link = appendWithin(&c.json, nil, &e, limit)
	}
	return nil
}

// event makes e the event of a change, without its place in the epoch.
func (id *identity) event(e *schema.Event, c *change) {
	*e = schema.Event{
		Host: id.host, BootID: id.bootID, Epoch: id.epoch,
		Time: c.time, Kind: c.kind, Action: c.action, Cause: c.cause,
		Overruns: c.overruns, Coalesced: c.count, Snapshot: c.snapshot,
		Netns: c.netns.name, NetnsInode: c.netns.inode, NetnsPrevious: c.netnsBefore, Counterpart: c.counterpart,
		Link: *c.link,
	}
	c.linkNames.put(&e.Link)
	if c.before != nil && (c.action == schema.Updated || c.action == schema.Renamed) {
		e.Changed, e.Previous = c.changed(), *c.before
		c.beforeNames.put(&e.Previous)
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
func appendWithin(json *schema.Encoder, dst []byte, e *schema.Event, limit int) (with []byte, link int) {
	start := len(dst)
	dst, link = json.AppendJSON(dst, e)
	for _, set := range expendable {
		if limit <= 0 || len(dst)-start+headerRoom <= limit {
			break
		}
		e.Truncated |= set & (schema.Present(&e.Link) | e.Changed)
		e.Link = e.Link.Without(set)
		e.Previous = e.Previous.Without(set)
		dst, link = json.AppendJSON(dst[:start], e)
	}
	return dst, link - start
}
