package schema

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"math/bits"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// A field is one key of a link's JSON form.
type field struct {
	name   string
	key    string // as it stands in JSON, behind another
	beside bool   // a name that stands beside an index; the diff is over the index

	// bytesOf is a key for the bytes of the text whose key stands before it.
	bytesOf bool

	once bool // it belongs to one event of the link, and is no state

	has    func(*Link) bool
	same   func(a, b *Link) bool
	append func([]byte, *Link) []byte // the JSON value; has must hold
	parse  func(*Link, json.RawMessage) error
	copy   func(dst, src *Link)
}

// fields is every key of a link, in the order in which they are written, which
// is ip's where ip has the key. At most 64, see [FieldSet].
var fields = [...]field{
	always(plain("ifindex", func(l *Link) *int32 { return &l.Index }, appendInt)),
	plain("ifname", func(l *Link) *string { return &l.Name }, appendText),
	rawText("ifname_bytes", func(l *Link) *string { return &l.Name }),
	plain("link_index", func(l *Link) *int32 { return &l.LowerIndex }, appendInt),
	nameBeside(plain("link", func(l *Link) *string { return &l.LowerName }, appendText)),
	optional("link_netnsid", func(l *Link) *Opt[int32] { return &l.LowerNetnsID }, appendInt),
	always(parsed("flags", func(l *Link) *Flags { return &l.Flags }, appendFlags, flagsOf)),
	optional("mtu", func(l *Link) *Opt[uint32] { return &l.MTU }, appendUint),
	rawJSON("xdp", func(l *Link) *string { return &l.XDP }),
	plain("qdisc", func(l *Link) *string { return &l.Qdisc }, appendText),
	plain("master_index", func(l *Link) *int32 { return &l.MasterIndex }, appendInt),
	nameBeside(plain("master", func(l *Link) *string { return &l.MasterName }, appendText)),
	enum("operstate", func(l *Link) *Opt[OperState] { return &l.OperState }, operStateNames),
	enum("linkmode", func(l *Link) *Opt[LinkMode] { return &l.LinkMode }, linkModeNames),
	group("group", func(l *Link) *Opt[uint32] { return &l.Group }),
	optional("txqlen", func(l *Link) *Opt[uint32] { return &l.TxQLen }, appendUint),
	once(plain("event", func(l *Link) *string { return &l.Reason }, appendText)),
	always(parsed("link_type", func(l *Link) *LinkType { return &l.Type }, quoted[LinkType], linkTypeOf)),
	parsed("address", func(l *Link) *LLAddr { return &l.Address }, appendLLAddr, parseLLAddr),
	plain("link_pointtopoint", func(l *Link) *bool { return &l.PointToPoint }, strconv.AppendBool),
	parsed("broadcast", func(l *Link) *LLAddr { return &l.Broadcast }, appendLLAddr, parseLLAddr),
	parsed("permaddr", func(l *Link) *LLAddr { return &l.PermAddress }, appendLLAddr, parseLLAddr),
	plain("proto_down", func(l *Link) *bool { return &l.ProtoDown }, strconv.AppendBool),
	parsed("proto_down_reason", func(l *Link) *uint32 { return &l.ProtoDownReason }, appendBits, bitsOf),
	optional("promiscuity", func(l *Link) *Opt[uint32] { return &l.Promiscuity }, appendUint),
	optional("allmulti", func(l *Link) *Opt[uint32] { return &l.AllMulti }, appendUint),
	optional("min_mtu", func(l *Link) *Opt[uint32] { return &l.MinMTU }, appendUint),
	optional("max_mtu", func(l *Link) *Opt[uint32] { return &l.MaxMTU }, appendUint),
	plain("netns-immutable", func(l *Link) *bool { return &l.NetnsImmutable }, strconv.AppendBool),
	parsed("linkinfo", func(l *Link) *LinkInfo { return &l.Info }, appendLinkInfo, linkInfoOf),
	enum("inet6_addr_gen_mode", func(l *Link) *Opt[AddrGenMode] { return &l.AddrGenMode }, addrGenModeNames),
	optional("num_tx_queues", func(l *Link) *Opt[uint32] { return &l.NumTxQueues }, appendUint),
	optional("num_rx_queues", func(l *Link) *Opt[uint32] { return &l.NumRxQueues }, appendUint),
	optional("gso_max_size", func(l *Link) *Opt[uint32] { return &l.GSOMaxSize }, appendUint),
	optional("gso_max_segs", func(l *Link) *Opt[uint32] { return &l.GSOMaxSegs }, appendUint),
	optional("tso_max_size", func(l *Link) *Opt[uint32] { return &l.TSOMaxSize }, appendUint),
	optional("tso_max_segs", func(l *Link) *Opt[uint32] { return &l.TSOMaxSegs }, appendUint),
	optional("gro_max_size", func(l *Link) *Opt[uint32] { return &l.GROMaxSize }, appendUint),
	optional("gso_ipv4_max_size", func(l *Link) *Opt[uint32] { return &l.GSOIPv4MaxSize }, appendUint),
	optional("gro_ipv4_max_size", func(l *Link) *Opt[uint32] { return &l.GROIPv4MaxSize }, appendUint),
	plain("phys_port_name", func(l *Link) *string { return &l.PhysPort.Name }, appendText),
	plain("phys_port_id", func(l *Link) *string { return &l.PhysPort.ID }, appendText),
	plain("phys_switch_id", func(l *Link) *string { return &l.PhysPort.SwitchID }, appendText),
	plain("parentbus", func(l *Link) *string { return &l.Parent.Bus }, appendText),
	plain("parentdev", func(l *Link) *string { return &l.Parent.Dev }, appendText),
	plain("ifalias", func(l *Link) *string { return &l.Alias }, appendText),
	rawText("ifalias_bytes", func(l *Link) *string { return &l.Alias }),
	optional("num_vf", func(l *Link) *Opt[uint32] { return &l.NumVF }, appendUint),
	rawJSON("vfinfo_list", func(l *Link) *string { return &l.VFs }),
	parsed("altnames", func(l *Link) *AltNames { return &l.Alt }, appendAltNames, altNamesOf),
	altNamesBytes("altnames_bytes"),
	optional("carrier", func(l *Link) *Opt[bool] { return &l.Carrier }, strconv.AppendBool),
	optional("carrier_changes", func(l *Link) *Opt[uint32] { return &l.CarrierChanges }, appendUint),
	optional("carrier_up_count", func(l *Link) *Opt[uint32] { return &l.CarrierUpCount }, appendUint),
	optional("carrier_down_count", func(l *Link) *Opt[uint32] { return &l.CarrierDownCount }, appendUint),
	optional("new_netnsid", func(l *Link) *Opt[int32] { return &l.NewNetnsID }, appendInt),
	plain("new_ifindex", func(l *Link) *int32 { return &l.NewIndex }, appendInt),
}

// FieldSet is a set of keys of a link.
type FieldSet uint64

// fieldByName maps a key to its place in fields.
var fieldByName = func() map[string]int {
	m := make(map[string]int, len(fields))
	for i := range fields {
		m[fields[i].name] = i
	}
	return m
}()

// Fields returns the set of the named keys; a name that is no key of a link is
// an error, or, from a newer writer of v1, a reason to ignore it.
func Fields(names ...string) (FieldSet, error) {
	var s FieldSet
	for _, name := range names {
		i, ok := fieldByName[name]
		if !ok {
			return s, fmt.Errorf("%q is no field of a link", name)
		}
		s |= 1 << i
	}
	return s, nil
}

// Has reports whether the key name is in the set.
func (s FieldSet) Has(name string) bool {
	i, ok := fieldByName[name]
	return ok && s&(1<<i) != 0
}

// Value returns the JSON of a key of the link, "" when it is absent or no key.
func (l *Link) Value(name string) string {
	i, ok := fieldByName[name]
	if !ok || !fields[i].has(l) {
		return ""
	}
	return string(fields[i].append(nil, l))
}

// Names returns the keys in the set, in the order of the JSON.
func (s FieldSet) Names() []string {
	names := make([]string, 0, bits.OnesCount64(uint64(s)))
	for f := range s.each() {
		names = append(names, f.name)
	}
	return names
}

func (s FieldSet) String() string { return fmt.Sprint(s.Names()) }

func (s FieldSet) each() iter.Seq[*field] {
	return func(yield func(*field) bool) {
		for rest := uint64(s); rest != 0; rest &= rest - 1 {
			if !yield(&fields[bits.TrailingZeros64(rest)]) {
				return
			}
		}
	}
}

// Diff returns the keys in which a and b differ. The names of other links are
// left out: master_index and link_index stand for them.
func Diff(a, b *Link) FieldSet {
	look := FieldSet(1<<len(fields) - 1)
	for i := range blocks {
		if blocks[i].same(a, b) {
			look &^= blocks[i].keys
		}
	}
	var s FieldSet
	for ; look != 0; look &= look - 1 {
		i := bits.TrailingZeros64(uint64(look))
		if f := &fields[i]; !f.beside && !f.same(a, b) {
			s |= 1 << i
		}
	}
	return s
}

// blocks are keys that are compared at once before each is looked at alone: few of
// them change in one event.
var blocks = func() (blocks []block) {
	for _, b := range []struct {
		names []string
		same  func(a, b *Link) bool
	}{
		{[]string{"ifindex", "ifname", "ifname_bytes", "link_type", "address", "broadcast", "permaddr"}, func(a, b *Link) bool {
			return a.Index == b.Index && a.Name == b.Name && a.Type == b.Type && a.Address == b.Address && a.Broadcast == b.Broadcast && a.PermAddress == b.PermAddress
		}},
		{[]string{"qdisc", "linkinfo", "parentbus", "parentdev", "phys_port_name", "phys_port_id", "phys_switch_id", "altnames", "altnames_bytes",
			"xdp", "event", "vfinfo_list"}, func(a, b *Link) bool {
			return a.Qdisc == b.Qdisc && a.Info == b.Info && a.Parent == b.Parent && a.PhysPort == b.PhysPort && a.Alt == b.Alt &&
				a.XDP == b.XDP && a.Reason == b.Reason && a.VFs == b.VFs
		}},
		{[]string{"link_index", "link_netnsid", "new_netnsid", "new_ifindex", "master_index", "mtu", "promiscuity", "allmulti", "linkmode", "inet6_addr_gen_mode",
			"link_pointtopoint", "proto_down", "proto_down_reason", "netns-immutable", "num_vf"}, func(a, b *Link) bool {
			return a.LowerIndex == b.LowerIndex && a.LowerNetnsID == b.LowerNetnsID && a.NewNetnsID == b.NewNetnsID && a.NewIndex == b.NewIndex && a.MasterIndex == b.MasterIndex &&
				a.MTU == b.MTU && a.Promiscuity == b.Promiscuity && a.AllMulti == b.AllMulti && a.LinkMode == b.LinkMode && a.AddrGenMode == b.AddrGenMode &&
				a.PointToPoint == b.PointToPoint && a.ProtoDown == b.ProtoDown && a.ProtoDownReason == b.ProtoDownReason && a.NetnsImmutable == b.NetnsImmutable && a.NumVF == b.NumVF
		}},
		{[]string{"min_mtu", "max_mtu", "group", "txqlen", "num_tx_queues", "num_rx_queues", "gso_max_size", "gso_max_segs", "gso_ipv4_max_size", "gro_max_size",
			"gro_ipv4_max_size", "tso_max_size", "tso_max_segs"}, func(a, b *Link) bool {
			return a.MinMTU == b.MinMTU && a.MaxMTU == b.MaxMTU && a.Group == b.Group && a.TxQLen == b.TxQLen && a.NumTxQueues == b.NumTxQueues && a.NumRxQueues == b.NumRxQueues &&
				a.GSOMaxSize == b.GSOMaxSize && a.GSOMaxSegs == b.GSOMaxSegs && a.GSOIPv4MaxSize == b.GSOIPv4MaxSize && a.GROMaxSize == b.GROMaxSize &&
				a.GROIPv4MaxSize == b.GROIPv4MaxSize && a.TSOMaxSize == b.TSOMaxSize && a.TSOMaxSegs == b.TSOMaxSegs
		}},
		{[]string{"flags", "operstate", "carrier", "carrier_changes", "carrier_up_count", "carrier_down_count"}, func(a, b *Link) bool {
			return a.Flags == b.Flags && a.OperState == b.OperState && a.Carrier == b.Carrier && a.CarrierChanges == b.CarrierChanges &&
				a.CarrierUpCount == b.CarrierUpCount && a.CarrierDownCount == b.CarrierDownCount
		}},
	} {
		keys, err := Fields(b.names...)
		if err != nil {
			panic(err) // constant names
		}
		blocks = append(blocks, block{keys, b.same})
	}
	return blocks
}()

type block struct {
	keys FieldSet
	same func(a, b *Link) bool // all of them
}

// Present returns the keys that l has.
func Present(l *Link) FieldSet {
	var s FieldSet
	for i := range fields {
		if fields[i].has(l) {
			s |= 1 << i
		}
	}
	return s
}

// With returns l with the keys of s as they are in from.
func (l Link) With(s FieldSet, from *Link) Link {
	for f := range s.each() {
		f.copy(&l, from)
	}
	return l
}

// Without returns l with the keys of s absent.
func (l Link) Without(s FieldSet) Link { return l.With(s, &Link{}) }

// plain is a field whose zero value means that it is absent.
func plain[T comparable](name string, at func(*Link) *T, app func([]byte, T) []byte) field {
	return newField(name, at, func(v T) bool { return v != *new(T) }, app, unmarshal[T])
}

// optional is a field for which zero is a value like any other.
func optional[T comparable](name string, at func(*Link) *Opt[T], app func([]byte, T) []byte) field {
	return newField(name, at, func(o Opt[T]) bool { return o.ok },
		func(dst []byte, o Opt[T]) []byte { return app(dst, o.value) },
		func(raw json.RawMessage) (Opt[T], error) { v, err := unmarshal[T](raw); return Some(v), err })
}

// enum is an optional field that is written as a name.
func enum[T ~uint8](name string, at func(*Link) *Opt[T], names []string) field {
	return newField(name, at, func(o Opt[T]) bool { return o.ok },
		func(dst []byte, o Opt[T]) []byte { return appendText(dst, nameOf(names, o.value)) },
		func(raw json.RawMessage) (Opt[T], error) {
			text, err := unmarshal[string](raw)
			if err != nil {
				return Opt[T]{}, err
			}
			var v T
			err = enumOf(&v, names, name, []byte(text))
			return Some(v), err
		})
}

// group is the link group: a number that is written as ip shows it.
func group(name string, at func(*Link) *Opt[uint32]) field {
	return newField(name, at, func(o Opt[uint32]) bool { return o.ok },
		func(dst []byte, o Opt[uint32]) []byte {
			if o.value == 0 {
				return appendText(dst, GroupName(0))
			}
			return append(appendUint(append(dst, '"'), o.value), '"')
		},
		func(raw json.RawMessage) (Opt[uint32], error) {
			text, err := unmarshal[string](raw)
			if err != nil || text == GroupName(0) {
				return Some[uint32](0), err
			}
			n, err := strconv.ParseUint(text, 10, 32)
			return Some(uint32(n)), err
		})
}

// parsed is a field with a JSON form J that is not its Go form T.
func parsed[T comparable, J any](name string, at func(*Link) *T, app func([]byte, T) []byte, parse func(J) (T, error)) field {
	return newField(name, at, func(v T) bool { return v != *new(T) },
		func(dst []byte, v T) []byte { return app(dst, v) },
		func(raw json.RawMessage) (T, error) {
			j, err := unmarshal[J](raw)
			if err != nil {
				return *new(T), err
			}
			return parse(j)
		})
}

// rawText is the base64 of a string's bytes, present when it is not UTF-8. It
// stands behind the string, so that parsing it replaces what was parsed there.
func rawText(name string, at func(*Link) *string) field {
	f := newField(name, at, func(s string) bool { return !utf8.ValidString(s) }, appendBase64,
		func(raw json.RawMessage) (string, error) { b, err := unmarshal[[]byte](raw); return string(b), err })
	f.bytesOf = true
	f.same = func(a, b *Link) bool { return *at(a) == *at(b) || !f.has(a) && !f.has(b) }
	return f
}

// rawJSON is a field that holds its JSON, made elsewhere.
func rawJSON(name string, at func(*Link) *string) field {
	return newField(name, at, func(s string) bool { return s != "" }, appendRaw,
		func(raw json.RawMessage) (string, error) { return string(raw), nil })
}

// altNamesBytes is rawText for a list.
func altNamesBytes(name string) field {
	at := func(l *Link) *AltNames { return &l.Alt }
	f := newField(name, at, func(a AltNames) bool { return !utf8.ValidString(string(a)) },
		func(dst []byte, a AltNames) []byte { return appendList(dst, a.List(), appendBase64) },
		func(raw json.RawMessage) (AltNames, error) {
			list, err := unmarshal[[][]byte](raw)
			names := make([]string, len(list))
			for i, b := range list {
				names[i] = string(b)
			}
			return MakeAltNames(names...), err
		})
	f.bytesOf = true
	f.same = func(a, b *Link) bool { return a.Alt == b.Alt || !f.has(a) && !f.has(b) }
	return f
}

// always marks a field that every link has, also when it is zero.
func always(f field) field {
	f.has = func(*Link) bool { return true }
	return f
}

func once(f field) field {
	f.once = true
	return f
}

func nameBeside(f field) field {
	f.beside = true
	return f
}

func newField[T comparable](name string, at func(*Link) *T, has func(T) bool, app func([]byte, T) []byte, parse func(json.RawMessage) (T, error)) field {
	return field{
		name:   name,
		key:    `,"` + name + `":`,
		has:    func(l *Link) bool { return has(*at(l)) },
		same:   func(a, b *Link) bool { return *at(a) == *at(b) },
		append: func(dst []byte, l *Link) []byte { return app(dst, *at(l)) },
		copy:   func(dst, src *Link) { *at(dst) = *at(src) },
		parse: func(l *Link, raw json.RawMessage) error {
			v, err := parse(raw)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			*at(l) = v
			return nil
		},
	}
}

// unmarshal is json.Unmarshal, with a short way for what most keys hold: a number, or a
// string in which nothing is escaped.
func unmarshal[T any](raw json.RawMessage) (v T, err error) {
	switch to := any(&v).(type) {
	case *uint32:
		if n, err := strconv.ParseUint(string(raw), 10, 32); err == nil {
			*to = uint32(n)
			return v, nil
		}
	case *uint64:
		if n, err := strconv.ParseUint(string(raw), 10, 64); err == nil {
			*to = n
			return v, nil
		}
	case *string:
		if len(raw) >= 2 && raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw) {
			*to = string(raw[1 : len(raw)-1])
			return v, nil
		}
	case *[]string:
		if list, ok := plainStrings(raw); ok {
			*to = list
			return v, nil
		}
	}
	err = json.Unmarshal(raw, &v)
	return v, err
}

// plainStrings reads an array of strings, if it holds nothing else and nothing is escaped.
func plainStrings(raw []byte) (list []string, ok bool) {
	if raw[0] != '[' || bytes.IndexByte(raw, '\\') >= 0 || !utf8.Valid(raw) {
		return nil, false
	}
	list = make([]string, 0, bytes.Count(raw, []byte{'"'})/2)
	for i, part := range bytes.Split(raw[1:len(raw)-1], []byte{'"'}) {
		switch {
		case i%2 == 1:
			list = append(list, string(part))
		case len(bytes.Trim(part, ", \t\r\n")) > 0: // it is valid JSON, so this is a value of another kind
			return nil, false
		}
	}
	return list, true
}

func appendInt(dst []byte, v int32) []byte   { return strconv.AppendInt(dst, int64(v), 10) }
func appendUint(dst []byte, v uint32) []byte { return strconv.AppendUint(dst, uint64(v), 10) }

// appendText writes s as a JSON string, with U+FFFD for each byte that is not
// UTF-8; the error only says that there was one.
func appendText(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			dst, _ = jsontext.AppendQuote(dst, s)
			return dst
		}
	}
	return append(append(append(dst, '"'), s...), '"')
}

func appendBase64(dst []byte, s string) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, []byte(s))
	return append(dst, '"')
}

func quoted[T fmt.Stringer](dst []byte, v T) []byte { return appendText(dst, v.String()) }

func appendLLAddr(dst []byte, a LLAddr) []byte {
	return append(a.append(append(dst, '"')), '"')
}

func appendList(dst []byte, list []string, app func([]byte, string) []byte) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = app(dst, s)
	}
	return append(dst, ']')
}

// appendBits writes the numbers of the bits that are set, as ip does where the host has
// no names for them (/etc/iproute2/protodown_reasons.d).
func appendBits(dst []byte, set uint32) []byte {
	dst = append(dst, '[')
	for first := true; set != 0; set &= set - 1 {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(appendUint(append(dst, '"'), uint32(bits.TrailingZeros32(set))), '"')
	}
	return append(dst, ']')
}

// bitsOf is appendBits' inverse.
func bitsOf(numbers []string) (set uint32, err error) {
	for _, text := range numbers {
		n, err := strconv.ParseUint(text, 10, 5)
		if err != nil {
			return 0, fmt.Errorf("%q is no number of a bit", text)
		}
		set |= 1 << n
	}
	return set, nil
}

func appendAltNames(dst []byte, a AltNames) []byte { return appendList(dst, a.List(), appendText) }

func altNamesOf(names []string) (AltNames, error) { return MakeAltNames(names...), nil }

func appendLinkInfo(dst []byte, i LinkInfo) []byte {
	dst = append(dst, '{')
	key := func(name, value string, app func([]byte, string) []byte) {
		if value == "" {
			return
		}
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = app(append(append(append(dst, '"'), name...), `":`...), value)
	}
	key("info_kind", i.Kind, appendText)
	key("info_data", i.Data, appendRaw)
	key("info_slave_kind", i.SlaveKind, appendText)
	key("info_slave_data", i.SlaveData, appendRaw)
	return append(dst, '}')
}

// appendRaw writes what is JSON already.
func appendRaw(dst []byte, json string) []byte { return append(dst, json...) }

type linkInfoJSON struct {
	Kind      string          `json:"info_kind"`
	Data      json.RawMessage `json:"info_data"`
	SlaveKind string          `json:"info_slave_kind"`
	SlaveData json.RawMessage `json:"info_slave_data"`
}

func linkInfoOf(j linkInfoJSON) (LinkInfo, error) {
	return LinkInfo{Kind: j.Kind, SlaveKind: j.SlaveKind, Data: string(j.Data), SlaveData: string(j.SlaveData)}, nil
}
