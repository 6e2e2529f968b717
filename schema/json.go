package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// timeLayout is RFC 3339 in UTC with all nine digits of the nanoseconds, so that
// events of one host sort as strings too.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// appendTime appends a time as it stands in an event.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(dst, timeLayout)
	}
	hour, minute, second := t.Clock()
	dst = append(appendDigits(dst, year, 4), '-')
	dst = append(appendDigits(dst, int(month), 2), '-')
	dst = append(appendDigits(dst, day, 2), 'T')
	dst = append(appendDigits(dst, hour, 2), ':')
	dst = append(appendDigits(dst, minute, 2), ':')
	dst = append(appendDigits(dst, second, 2), '.')
	return append(appendDigits(dst, t.Nanosecond(), 9), 'Z')
}

// appendDigits appends a number in n digits.
func appendDigits(dst []byte, v, n int) []byte {
	dst = append(dst, "000000000"[:n]...)
	for i := len(dst) - 1; v > 0; i-- {
		dst[i] = byte('0' + v%10)
		v /= 10
	}
	return dst
}

// AppendJSON appends the link as a JSON object to dst and returns the extended
// buffer. It does not allocate when dst is large enough and l has no altnames.
func (l *Link) AppendJSON(dst []byte) []byte {
	start := len(dst)
	for i := range fields {
		if f := &fields[i]; f.has(l) {
			dst = f.append(append(dst, f.key...), l)
		}
	}
	dst[start] = '{' // in the place of the first comma
	return append(dst, '}')
}

// MarshalJSON implements json.Marshaler.
func (l Link) MarshalJSON() ([]byte, error) { return l.AppendJSON(nil), nil }

// UnmarshalJSON implements json.Unmarshaler. Keys that it does not know are
// ignored: a newer writer of v1 may have added them. null is absent.
func (l *Link) UnmarshalJSON(b []byte) error {
	var values [len(fields)]json.RawMessage
	err := members(b, func(key, value []byte) error {
		if i, ok := fieldByName[string(key)]; ok {
			values[i] = value
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	*l = Link{}
	for i := range fields { // in their order: what is beside a string comes behind it
		if values[i] == nil || string(values[i]) == "null" {
			continue
		}
		if err := fields[i].parse(l, values[i]); err != nil {
			return fmt.Errorf("link: %w", err)
		}
	}
	l.readAddresses(l.Type)
	return nil
}

// readAddresses makes the addresses that were read those of a link of type t.
func (l *Link) readAddresses(t LinkType) {
	l.Address, l.Broadcast, l.PermAddress = l.Address.on(t), l.Broadcast.on(t), l.PermAddress.on(t)
}

// members calls each with the keys and values of a JSON object, which are slices of b
// unless a key is escaped; with none for null.
func members(b []byte, each func(key, value []byte) error) error {
	// Of a key that is there twice the last counts, and U+FFFD is read for what is not
	// UTF-8, as encoding/json has it.
	d := jsontext.NewDecoder(bytes.NewBuffer(b), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	begin, err := d.ReadToken()
	if err != nil {
		return err
	}
	if begin.Kind() != '{' && begin.Kind() != 'n' {
		return fmt.Errorf("no JSON object but %s", begin.Kind())
	}
	// What the decoder returns is valid until it is asked for more: b stays.
	next := func() ([]byte, error) {
		value, err := d.ReadValue()
		end := d.InputOffset()
		return b[end-int64(len(value)) : end], err
	}
	for begin.Kind() == '{' && d.PeekKind() != '}' {
		key, err := next()
		if err != nil {
			return err
		}
		if bytes.IndexByte(key, '\\') < 0 {
			key = key[1 : len(key)-1]
		} else if key, err = jsontext.AppendUnquote(nil, key); err != nil {
			return err
		}
		value, err := next()
		if err != nil {
			return err
		}
		if err := each(key, value); err != nil {
			return err
		}
	}
	if begin.Kind() == '{' {
		if _, err := d.ReadToken(); err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return errors.New("something follows behind the JSON value")
	}
	return nil
}

// AppendJSON appends the event as a JSON object to dst and returns the extended
// buffer. An [Encoder] is cheaper for many.
func (e *Event) AppendJSON(dst []byte) []byte {
	dst, _ = new(Encoder).AppendJSON(dst, e)
	return dst
}

// An Encoder appends events as JSON. What one event has in common with the one before
// it, the run and the second, it does not write anew. Its zero value is ready. It is
// not safe for concurrent use.
type Encoder struct {
	run    run
	head   []byte // of an event of that run, up to its seq: once
	repeat []byte // and between the seq of its id and its seq

	second int64  // of the last event, in Unix time
	when   []byte // its time
}

// run is what the events of one run of a bridge have in common.
type run struct {
	epoch, host, bootID string
	ownNetnsInode       uint64
	labels              Labels
}

// AppendJSON appends the event to dst, and returns besides where its link stands: from
// link to the last byte but one of what is returned.
func (c *Encoder) AppendJSON(dst []byte, e *Event) (with []byte, link int) {
	dst = c.appendHead(dst, e, nil)
	link = len(dst)
	return append(e.Link.AppendJSON(dst), '}'), link
}

// AppendChange is AppendJSON of an event in which the link is that of the form but for
// the values under keys; e.Link is not looked at, and what the form had is previous.
// The form becomes that of the event.
func (c *Encoder) AppendChange(dst []byte, e *Event, f *Form, keys FieldSet, values []byte) (with []byte, link int) {
	dst = c.appendHead(dst, e, f)
	link = len(dst)
	dst = f.splice(dst, keys, values)
	dst[link] = '{' // in the place of the first comma
	if once := keys & onceKeys; once != 0 {
		f.forget(once)
	}
	return append(dst, "}}"...), link
}

// onceKeys are the keys that belong to one event of a link alone.
var onceKeys = func() (s FieldSet) {
	for i := range fields {
		if fields[i].once {
			s |= 1 << i
		}
	}
	return s
}()

// appendHead appends the event up to its link. Previous, where there is one, stands
// for e.Previous.
func (c *Encoder) appendHead(dst []byte, e *Event, previous *Form) []byte {
	if r := (run{e.Epoch, e.Host, e.BootID, e.OwnNetnsInode, e.Labels}); r != c.run || len(c.head) == 0 {
		c.run = r
		c.head = append(append(append(c.head[:0], `{"schema":"`+Name+`","id":"`...), e.Epoch...), '-')
		c.repeat = appendText(append(c.repeat[:0], `","host":`...), e.Host)
		c.repeat = appendText(append(c.repeat, `,"boot_id":`...), e.BootID)
		if e.OwnNetnsInode != 0 {
			c.repeat = strconv.AppendUint(append(c.repeat, `,"own_netns_inode":`...), e.OwnNetnsInode, 10)
		}
		if e.Labels != "" {
			c.repeat = append(append(c.repeat, `,"labels":`...), e.Labels...)
		}
		c.repeat = append(appendText(append(c.repeat, `,"epoch":`...), e.Epoch), `,"seq":`...)
	}
	dst = strconv.AppendUint(append(dst, c.head...), e.Seq, 10)
	dst = strconv.AppendUint(append(dst, c.repeat...), e.Seq, 10)
	dst = append(append(dst, `,"time":"`...), c.Time(e.Time)...)
	dst = append(append(append(dst, `","event":"`...), e.Kind.String()...), '"')
	dst = append(append(append(dst, `,"action":"`...), e.Action.String()...), '"')
	dst = append(append(append(dst, `,"cause":"`...), e.Cause.String()...), '"')
	dst = strconv.AppendUint(append(dst, `,"overruns":`...), e.Overruns, 10)
	if e.Coalesced > 1 {
		dst = strconv.AppendUint(append(dst, `,"coalesced":`...), e.Coalesced, 10)
	}
	if e.Action == Updated || e.Action == Renamed {
		dst = e.appendChanged(dst, previous)
	}
	if e.Snapshot.Of > 0 {
		dst = strconv.AppendUint(append(dst, `,"snapshot":{"pos":`...), uint64(e.Snapshot.Pos), 10)
		dst = strconv.AppendUint(append(dst, `,"of":`...), uint64(e.Snapshot.Of), 10)
		if e.Snapshot.More > 0 {
			dst = strconv.AppendUint(append(dst, `,"more":`...), uint64(e.Snapshot.More), 10)
		}
		dst = append(dst, '}')
	}
	if e.Truncated != 0 {
		dst = appendNames(append(dst, `,"truncated":`...), e.Truncated)
	}
	return append(e.appendNetns(dst), `,"link":`...)
}

// Time returns a time as it stands in an event, until the next is asked for. Of the same
// second as the last, only the nanoseconds are made anew.
func (c *Encoder) Time(t time.Time) []byte {
	if second := t.Unix(); second != c.second || len(c.when) != len(timeLayout) {
		c.second, c.when = second, appendTime(c.when[:0], t)
	} else {
		c.when = append(appendDigits(c.when[:len(c.when)-len("000000000Z")], t.Nanosecond(), 9), 'Z')
	}
	return c.when
}

// appendNetns appends what is only there when more namespaces than the bridge's
// own are watched.
func (e *Event) appendNetns(dst []byte) []byte {
	if e.Netns != "" {
		dst = appendText(append(dst, `,"netns":`...), e.Netns)
	}
	if e.NetnsInode != 0 {
		dst = strconv.AppendUint(append(dst, `,"netns_inode":`...), e.NetnsInode, 10)
	}
	if e.NetnsPrevious != "" {
		dst = appendText(append(dst, `,"netns_previous":`...), e.NetnsPrevious)
	}
	if c := &e.Counterpart; c.Index != 0 {
		dst = append(dst, `,"counterpart":{`...)
		if c.Netns != "" {
			dst = appendText(append(dst, `"netns":`...), c.Netns)
			dst = strconv.AppendUint(append(dst, `,"netns_inode":`...), c.NetnsInode, 10)
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(append(dst, `"ifindex":`...), int64(c.Index), 10)
		dst = append(dst, '}')
	}
	return dst
}

// appendChanged appends which keys have changed, and their values in previous or,
// without one, in e.Previous.
func (e *Event) appendChanged(dst []byte, previous *Form) []byte {
	dst = appendNames(append(dst, `,"changed":`...), e.Changed)
	dst = append(dst, `,"previous":`...)
	first := len(dst)
	for s := e.Changed &^ e.Truncated; s != 0; s &= s - 1 {
		i := bits.TrailingZeros64(uint64(s))
		dst = append(dst, fields[i].key...)
		at := len(dst)
		if previous != nil {
			dst = append(dst, previous.value(i)...)
		} else if fields[i].has(&e.Previous) {
			dst = fields[i].append(dst, &e.Previous)
		}
		if len(dst) == at {
			dst = append(dst, "null"...)
		}
	}
	if len(dst) == first {
		return append(dst, "{}"...)
	}
	dst[first] = '{' // in the place of the first comma
	return append(dst, '}')
}

func appendNames(dst []byte, s FieldSet) []byte {
	dst = append(dst, '[')
	first := true
	for f := range s.each() {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(append(dst, '"'), f.name...), '"')
	}
	return append(dst, ']')
}

// MarshalJSON implements json.Marshaler.
func (e Event) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

// UnmarshalJSON implements json.Unmarshaler. It accepts every event of v1, also
// from a newer writer, and refuses other schemas.
func (e *Event) UnmarshalJSON(b []byte) error {
	read, name := Event{}, ""
	err := members(b, func(key, value []byte) (err error) {
		if string(value) == "null" {
			return nil
		}
		if string(key) == "schema" {
			name, err = unmarshal[string](value)
		} else if parse := eventKeys[string(key)]; parse != nil {
			err = parse(&read, value)
		}
		if err != nil && !strings.HasPrefix(err.Error(), string(key)+": ") {
			return fmt.Errorf("%s: %w", key, err)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	if name != Name && !strings.HasPrefix(name, Name+".") {
		return fmt.Errorf("event: schema: not %s (got %q)", Name, name)
	}
	if !read.Changed.Has("link_type") { // then it is not in previous
		read.Previous.readAddresses(read.Link.Type)
	}
	*e = read
	return nil
}

// eventKeys read what stands under each key of an event.
var eventKeys = map[string]func(*Event, json.RawMessage) error{
	"host":        into(func(e *Event) *string { return &e.Host }),
	"boot_id":     into(func(e *Event) *string { return &e.BootID }),
	"epoch":       into(func(e *Event) *string { return &e.Epoch }),
	"seq":         into(func(e *Event) *uint64 { return &e.Seq }),
	"time":        into(func(e *Event) *time.Time { return &e.Time }),
	"event":       into(func(e *Event) *Kind { return &e.Kind }),
	"action":      into(func(e *Event) *Action { return &e.Action }),
	"cause":       into(func(e *Event) *Cause { return &e.Cause }),
	"overruns":    into(func(e *Event) *uint64 { return &e.Overruns }),
	"coalesced":   into(func(e *Event) *uint64 { return &e.Coalesced }),
	"netns":       into(func(e *Event) *string { return &e.Netns }),
	"netns_inode": into(func(e *Event) *uint64 { return &e.NetnsInode }),

	"own_netns_inode": into(func(e *Event) *uint64 { return &e.OwnNetnsInode }),
	"labels":          func(e *Event, raw json.RawMessage) error { return e.Labels.UnmarshalJSON(raw) },
	"netns_previous":  into(func(e *Event) *string { return &e.NetnsPrevious }),
	"changed":         intoSet(func(e *Event) *FieldSet { return &e.Changed }),
	"truncated":       intoSet(func(e *Event) *FieldSet { return &e.Truncated }),
	"previous":        func(e *Event, raw json.RawMessage) error { return e.Previous.UnmarshalJSON(raw) },
	"link":            func(e *Event, raw json.RawMessage) error { return e.Link.UnmarshalJSON(raw) },
	"snapshot": func(e *Event, raw json.RawMessage) error {
		s, err := unmarshal[struct {
			Pos  uint32 `json:"pos"`
			Of   uint32 `json:"of"`
			More uint32 `json:"more"`
		}](raw)
		e.Snapshot = Snapshot(s)
		return err
	},
	"counterpart": func(e *Event, raw json.RawMessage) error {
		c, err := unmarshal[struct {
			Netns      string `json:"netns"`
			NetnsInode uint64 `json:"netns_inode"`
			Index      int32  `json:"ifindex"`
		}](raw)
		e.Counterpart = Counterpart(c)
		return err
	},
}

func into[T any](at func(*Event) *T) func(*Event, json.RawMessage) error {
	return func(e *Event, raw json.RawMessage) (err error) {
		*at(e), err = unmarshal[T](raw)
		return err
	}
}

// intoSet reads the names of keys; those that this version does not know are left out.
func intoSet(at func(*Event) *FieldSet) func(*Event, json.RawMessage) error {
	return func(e *Event, raw json.RawMessage) error {
		names, err := unmarshal[[]string](raw)
		*at(e) = known(names)
		return err
	}
}

// known returns the set of those names that this version knows.
func known(names []string) FieldSet {
	var s FieldSet
	for _, name := range names {
		if i, ok := fieldByName[name]; ok {
			s |= 1 << i
		}
	}
	return s
}
