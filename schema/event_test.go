package schema_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"ifacebridge/schema"
	"ifacebridge/test/schematest"
)

var update = flag.Bool("update", false, "write the golden files")

// The golden files are what consumers see: each is an event as published.
func TestGolden(t *testing.T) {
	for name, event := range goldenEvents(t) {
		t.Run(name, func(t *testing.T) {
			got := append(event.AppendJSON(nil), '\n')
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
			schematest.Validate(t, got)

			var back schema.Event
			if err := json.Unmarshal(got, &back); err != nil {
				t.Fatal(err)
			}
			if again := append(back.AppendJSON(nil), '\n'); !bytes.Equal(again, want) {
				t.Errorf("decoded and encoded again:\n%swant:\n%s", again, want)
			}
			event.Previous = schema.Link{}.With(event.Changed, &event.Previous) // which has nothing else
			if back != event {
				t.Errorf("decoded: got %+v, want %+v", back, event)
			}
		})
	}
}

func goldenEvents(t testing.TB) map[string]schema.Event {
	mac, _ := schema.MakeLLAddr([]byte{2, 0x42, 0xac, 0x11, 0, 2}, 1)
	eth0 := schema.Link{
		Index: 3, Name: "eth0", Flags: 0x11043, Type: 1, Address: mac, Qdisc: "mq",
		MTU: schema.Some[uint32](1500), TxQLen: schema.Some[uint32](0), OperState: schema.Some(schema.OperUp),
		LinkMode: schema.Some(schema.LinkMode(0)), Group: schema.Some[uint32](0), Carrier: schema.Some(true),
		AddrGenMode: schema.Some(schema.AddrGenMode(2)), Parent: schema.Parent{Bus: "pci", Dev: "0000:00:1f.6"},
	}
	down := eth0
	down.Flags, down.OperState = 0x1003, schema.Some(schema.OperDown)
	port := schema.Link{
		Index: 9, Name: "veth1", Flags: 0x1003, Type: 1, LowerIndex: 2, LowerNetnsID: schema.Some[int32](0),
		MasterIndex: 7, MasterName: "br0", Info: schema.LinkInfo{Kind: "veth", SlaveKind: "bridge"},
	}
	free := port
	free.MasterIndex, free.MasterName, free.Info.SlaveKind = 0, "", ""
	odd := schema.Link{
		Index: 12, Name: "a\xff", Flags: 0, Type: 0xFFFE, Alias: "say \"hi\"\\\n\xe2\x80\xa8<&>\xc3",
		Alt: schema.MakeAltNames("plain", "b\xfe"),
	}
	tunnelAddr, _ := schema.MakeLLAddr([]byte{192, 0, 2, 1}, 768)
	tunnel := schema.Link{Index: 4, Name: "tunl0", Flags: 0x80, Type: 768, Address: tunnelAddr, LowerNetnsID: schema.Some[int32](-1)}
	tunnel6 := schema.Link{Index: 5, Name: "ip6tnl1", Flags: 0x91, Type: 769, PointToPoint: true}
	tunnel6.Address, _ = schema.MakeLLAddr(netip.MustParseAddr("2001:db8:10:20:30:4:5:6").AsSlice(), 769)
	tunnel6.Broadcast, _ = schema.MakeLLAddr(netip.MustParseAddr("20:11:12:13:14:15:16:17").AsSlice(), 769)
	moved6 := tunnel6
	moved6.Broadcast, _ = schema.MakeLLAddr(netip.MustParseAddr("20:11:12:13:14:15:16:18").AsSlice(), 769)
	gone := eth0
	gone.NewNetnsID, gone.NewIndex = schema.Some[int32](0), 12

	base := schema.Event{
		Host: "web01.example.com", BootID: "b5a3e0f2-8f6e-4b0e-9a55-0e5c3d0a7c11", Epoch: "6f1c0d5be0a24f0ab6f2b6d35a1f9d10",
		Seq: 42, Time: time.Date(2026, 11, 23, 10, 0, 0, 123456780, time.UTC), Kind: schema.New, Cause: schema.Notification,
	}
	with := func(change func(*schema.Event)) schema.Event { e := base; change(&e); return e }
	return map[string]schema.Event{
		"existing": with(func(e *schema.Event) {
			e.Action, e.Cause, e.Snapshot, e.Link = schema.Existing, schema.SnapshotCause, schema.Snapshot{Pos: 3, Of: 7}, eth0
		}),
		"created": with(func(e *schema.Event) { e.Action, e.Link = schema.Created, odd }),
		"updated": with(func(e *schema.Event) {
			e.Action, e.Link, e.Previous, e.Changed = schema.Updated, eth0, down, schema.Diff(&down, &eth0)
		}),
		"labelled": with(func(e *schema.Event) {
			e.Action, e.Link, e.OwnNetnsInode = schema.Created, port, 4026531840
			e.Labels, _ = schema.ParseLabels("site=fra1,rack=b12,note=a \"b\"")
		}),
		"updated-without-a-change": with(func(e *schema.Event) { e.Action, e.Link = schema.Updated, tunnel }),
		"updated-tunnel": with(func(e *schema.Event) { // addresses that look like hardware addresses
			e.Action, e.Link, e.Previous, e.Changed = schema.Updated, tunnel6, moved6, schema.Diff(&moved6, &tunnel6)
		}),
		"updated-coalesced": with(func(e *schema.Event) {
			e.Action, e.Link, e.Previous, e.Changed = schema.Updated, free, port, schema.Diff(&port, &free)
			e.Coalesced, e.Overruns, e.Cause, e.Netns = 17, 2, schema.Resync, "blue"
		}),
		"renamed": with(func(e *schema.Event) {
			other := odd
			other.Name = "a\xfe"
			e.Action, e.Link, e.Previous, e.Changed = schema.Renamed, other, odd, schema.Diff(&odd, &other)
			e.Truncated, _ = schema.Fields("altnames", "altnames_bytes")
			e.Link = e.Link.Without(e.Truncated)
		}),
		"deleted": with(func(e *schema.Event) { e.Kind, e.Action, e.Link = schema.Del, schema.Deleted, port }),
		"moved":   with(func(e *schema.Event) { e.Kind, e.Action, e.Link = schema.Del, schema.Moved, gone }),
		"netns-existing": with(func(e *schema.Event) {
			e.Action, e.Cause, e.Snapshot, e.Link = schema.Existing, schema.SnapshotCause, schema.Snapshot{Pos: 1, Of: 2, More: 4}, port
			e.Netns, e.NetnsInode = "blue", 4026532281
		}),
		"netns-moved": with(func(e *schema.Event) {
			e.Kind, e.Action, e.Link = schema.Del, schema.Moved, gone
			e.Counterpart = schema.Counterpart{Netns: "blue", NetnsInode: 4026532281, Index: 12}
		}),
		"netns-created": with(func(e *schema.Event) {
			e.Action, e.Link, e.Netns, e.NetnsInode = schema.Created, port, "blue", 4026532281
			e.Counterpart = schema.Counterpart{Index: 3}
		}),
		"netns-renamed": with(func(e *schema.Event) {
			e.Action, e.Link, e.Previous, e.Cause = schema.Renamed, port, schema.Link{}, schema.Resync
			e.Netns, e.NetnsInode, e.NetnsPrevious = "pid:4711", 4026532281, "blue"
		}),
	}
}

// Absent is not zero: every field of an event and of its links comes back as it was,
// whether it is absent, zero, or anything else.
func TestRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 2000 {
		want := randomEvent(r)
		b := want.AppendJSON(nil)
		var got schema.Event
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, b)
		}
		if got != want {
			t.Fatalf("seed %d: the links differ in %v and %v\n%+v\n%+v\n%s", seed,
				schema.Diff(&got.Link, &want.Link), schema.Diff(&got.Previous, &want.Previous), got, want, b)
		}
	}
}

// randomEvent is one with a link and a previous one as [schema.Event] wants them.
func randomEvent(r *rand.Rand) schema.Event {
	labels, _ := schema.ParseLabels([]string{"", "site=fra1,note=ü\"\\"}[r.IntN(2)])
	e := schema.Event{
		Host: "web01", BootID: "boot", OwnNetnsInode: randomNumber(r), Labels: labels,
		Epoch: "epoch", Seq: randomNumber(r), Time: time.Unix(r.Int64N(1<<32), r.Int64N(1e9)).UTC(),
		Kind: schema.Kind(1 + r.IntN(2)), Action: schema.Action(1 + r.IntN(6)), Cause: schema.Cause(1 + r.IntN(4)),
		Overruns: randomNumber(r),
		Link:     randomLink(r), Netns: randomText(r), NetnsInode: randomNumber(r), NetnsPrevious: randomText(r),
	}
	if r.IntN(2) == 0 {
		e.Coalesced = 2 + randomNumber(r)/2
	}
	if r.IntN(2) == 0 {
		e.Snapshot = schema.Snapshot{Pos: r.Uint32(), Of: 1, More: r.Uint32N(2)}
	}
	if r.IntN(2) == 0 {
		e.Counterpart = schema.Counterpart{Netns: "blue", NetnsInode: randomNumber(r), Index: 1 + r.Int32N(9)}
	}
	if e.Action != schema.Updated && e.Action != schema.Renamed {
		return e
	}
	other := randomLink(r)
	old := e.Link.With(randomKeys(r), &other)
	e.Changed = schema.Diff(&e.Link, &old)
	e.Previous = schema.Link{}.With(e.Changed, &old)
	if e.Truncated = randomKeys(r) &^ mustKeep; r.IntN(2) == 0 {
		e.Truncated = 0
	}
	e.Link, e.Previous = e.Link.Without(e.Truncated), e.Previous.Without(e.Truncated)
	return e
}

// mustKeep are keys that every link has, whatever is left out of it.
var mustKeep, _ = schema.Fields("ifindex", "ifname", "ifname_bytes", "flags", "link_type")

// ofType are the keys of which the values go by the link's type.
var ofType, _ = schema.Fields("link_type", "address", "broadcast", "permaddr")

// randomKeys are a few keys.
func randomKeys(r *rand.Rand) schema.FieldSet {
	keys := schema.FieldSet(r.Uint64()&r.Uint64()&r.Uint64()) & schema.AllKeys
	if keys&ofType != 0 {
		keys |= ofType
	}
	return keys
}

func randomNumber(r *rand.Rand) uint64 { return []uint64{0, 1, 1500, 1<<32 - 1, 1<<64 - 1}[r.IntN(5)] }

func randomText(r *rand.Rand) string {
	return []string{"", "eth0", "\"", "\\", "\x01", "<&>", "\u2028", "ü", "a*b>", "\ufffd"}[r.IntN(10)]
}

// randomLink fills every field of a link at random, by reflection, so that a
// field that is added is tested too.
func randomLink(r *rand.Rand) schema.Link {
	var l schema.Link
	fill(r, reflect.ValueOf(&l).Elem())
	bytes := func() string { return randomText(r) + []string{"", "\xff", "\xfe"}[r.IntN(3)] }
	object := func() string { return []string{"", "{}", `{"id":5,"group":"<&>"}`}[r.IntN(3)] }
	l.Name, l.Alias, l.Alt = "x"+bytes(), bytes(), ""
	if r.IntN(2) == 0 {
		l.Alt = schema.MakeAltNames("one"+bytes(), "two"+bytes())
	}
	l.Info.Data, l.Info.SlaveData, l.XDP, l.VFs = object(), object(), object(), object()
	if l.Flags&schema.FlagUp == 0 {
		l.Flags &^= schema.FlagRunning // the kernel does not send it on a link that is down
	}
	if r.IntN(2) == 0 { // often enough one of those whose addresses are IP addresses
		l.Type = []schema.LinkType{768, 769, 776, 778, 823}[r.IntN(5)]
	}
	for _, a := range []*schema.LLAddr{&l.Address, &l.Broadcast, &l.PermAddress} {
		*a = randomAddress(r, l.Type)
	}
	return l
}

// randomAddress is one of a link of this type. Where IPv6 addresses are expected there is none of
// eight bytes.
func randomAddress(r *rand.Rand, t schema.LinkType) schema.LLAddr {
	sizes := []int{0, 1, 4, 6, 16, 20, 32, 8}
	if t == 769 || t == 823 {
		sizes = sizes[:7]
	}
	raw := make([]byte, sizes[r.IntN(len(sizes))])
	shape := r.IntN(3)
	for i := range raw {
		switch raw[i] = byte(r.Uint32()); {
		case shape == 1 && i%2 == 0: // two digits in each group of an IPv6 address, or one
			raw[i] = 0
		case shape == 2 && r.IntN(2) == 0:
			raw[i] = byte(r.IntN(16))
		}
	}
	a, _ := schema.MakeLLAddr(raw, t)
	return a
}

// fill gives a value, and what is in it, values that are not like each other.
func fill(r *rand.Rand, v reflect.Value) {
	switch f := v.Addr().Interface().(type) {
	case *schema.LLAddr:
		return
	case *schema.Opt[uint32]:
		*f = maybe(r, uint32(randomNumber(r)))
		return
	case *schema.Opt[int32]:
		*f = maybe(r, int32(randomNumber(r)))
		return
	case *schema.Opt[bool]:
		*f = maybe(r, r.IntN(2) == 0)
		return
	case *schema.Opt[schema.OperState]:
		*f = maybe(r, schema.OperState(r.IntN(256)))
		return
	case *schema.Opt[schema.LinkMode]:
		*f = maybe(r, schema.LinkMode(r.IntN(256)))
		return
	case *schema.Opt[schema.AddrGenMode]:
		*f = maybe(r, schema.AddrGenMode(r.IntN(256)))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i))
		}
	case reflect.String:
		v.SetString(randomText(r))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int32:
		v.SetInt(int64(r.Int32N(3)))
	case reflect.Uint16, reflect.Uint32:
		v.SetUint(r.Uint64() >> (64 - v.Type().Bits()))
	default:
		panic("a field of type " + v.Type().String())
	}
}

func maybe[T comparable](r *rand.Rand, v T) schema.Opt[T] {
	if r.IntN(3) == 0 {
		return schema.Opt[T]{}
	}
	return schema.Some(v)
}

// Diff, which compares many keys at once, finds what looking at each finds.
func TestDiffFindsEveryKey(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	besides, _ := schema.Fields("link", "master")
	for range 2000 {
		a, other := randomLink(r), randomLink(r)
		b := a.With(randomKeys(r), &other)
		var want schema.FieldSet
		for _, name := range schema.AllKeys.Names() {
			key, _ := schema.Fields(name)
			differs := a.With(key, &b) != a
			if strings.HasSuffix(name, "_bytes") { // there only when the string beside it is not UTF-8
				differs = a.Value(name) != b.Value(name)
			}
			if differs && key&besides == 0 {
				want |= key
			}
		}
		if got := schema.Diff(&a, &b); got != want {
			t.Fatalf("seed %d: got %v, want %v", seed, got, want)
		}
	}
}

// An event that is made of a link's form and what has changed is the event that is made
// of the two links, whatever was made before. Values of several changes may be merged.
func TestEncoderAppendsChanges(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	links := []schema.Link{randomLink(r), randomLink(r)}
	links[0].Reason, links[1].Reason = "", "" // it belongs to one event
	var forms [2]schema.Form
	var encoder schema.Encoder
	for i := range links {
		forms[i].Set(&links[i])
	}
	at := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	for n := range 5000 {
		i := r.IntN(2)
		e := schema.Event{
			Host: "web01", Epoch: "epoch", Seq: uint64(n + 1), Time: at, Kind: schema.New, Action: schema.Updated, Cause: schema.Notification,
			Previous: links[i],
		}
		at = at.Add(time.Duration(r.Int64N(int64(time.Second / 2))))
		names, _ := schema.Fields("link", "master") // of other links, which are not of the diff
		var sum schema.FieldSet
		var values []byte
		for range 1 + r.IntN(3) {
			before, from := links[i], randomLink(r)
			links[i] = links[i].With(randomKeys(r), &from)
			changed := schema.Diff(&before, &links[i]) | names
			values = schema.MergeValues(nil, sum, values, changed, links[i].AppendValues(nil, changed))
			sum |= changed
		}
		e.Link, e.Changed = links[i], schema.Diff(&e.Previous, &links[i])
		if got := forms[i].Diff(sum, values); got != e.Changed {
			t.Fatalf("seed %d: got %v, want %v", seed, got, e.Changed)
		}
		want := e.AppendJSON([]byte("before"))
		withoutLinks := e
		withoutLinks.Link, withoutLinks.Previous = schema.Link{}, schema.Link{}
		got, link := encoder.AppendChange([]byte("before"), &withoutLinks, &forms[i], sum, values)
		if !bytes.Equal(got, want) {
			t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, got, want)
		}
		if got := got[link : len(got)-1]; !bytes.Equal(got, e.Link.AppendJSON(nil)) {
			t.Fatalf("seed %d: the link is %s", seed, got)
		}
		links[i].Reason = ""
	}
}

// Diff says exactly what differs, but for the names of other links.
func TestDiff(t *testing.T) {
	a := schema.Link{Index: 1, Name: "a\xff", MasterIndex: 3, MasterName: "br0"}
	tests := []struct {
		name   string
		change func(*schema.Link)
		want   []string
	}{
		{"nothing", func(*schema.Link) {}, []string{}},
		{"a master's name", func(l *schema.Link) { l.MasterName = "br1" }, []string{}},
		{"the master", func(l *schema.Link) { l.MasterIndex, l.MasterName = 4, "br1" }, []string{"master_index"}},
		{"absent to zero", func(l *schema.Link) { l.MTU = schema.Some[uint32](0) }, []string{"mtu"}},
		{"one byte that is not UTF-8", func(l *schema.Link) { l.Name = "a\xfe" }, []string{"ifname", "ifname_bytes"}},
		{"to a name that is UTF-8", func(l *schema.Link) { l.Name = "a" }, []string{"ifname", "ifname_bytes"}},
		{"an alias that is", func(l *schema.Link) { l.Alias = "x" }, []string{"ifalias"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := a
			tt.change(&b)
			if got := schema.Diff(&a, &b).Names(); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// Within v1 fields are added: a decoder must not stumble over one.
func TestNewerWriter(t *testing.T) {
	var e schema.Event
	err := json.Unmarshal([]byte(`{"schema":"iface.v1","epoch":"e","seq":1,"time":"2026-11-23T10:00:00Z","event":"new","action":"updated",
		"cause":"notification","overruns":0,"changed":["mtu","hyperspeed"],"previous":{"mtu":1,"hyperspeed":2},"new_thing":{},
		"link":{"ifindex":1,"ifname":"a","flags":["UP","800000"],"link_type":"[4711]","operstate":"11","hyperspeed":3}}`), &e)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Changed.Names(); !reflect.DeepEqual(got, []string{"mtu"}) {
		t.Errorf("changed: got %q", got)
	}
	if got := e.Link.OperState.Or(0); got != 11 {
		t.Errorf("operstate: got %d, want 11", got)
	}
}

func TestBadEvents(t *testing.T) {
	for in, want := range map[string]string{
		`{`:                     "unexpected end of JSON input",
		`{"schema":"iface.v2"}`: `event: schema: not iface.v1 (got "iface.v2")`,
		`{"schema":"iface.v1","action":"exploded"}`:        `event: action: unknown value "exploded"`,
		`{"schema":"iface.v1","link":{"flags":["WAT"]}}`:   `event: link: flags: unknown flag "WAT"`,
		`{"schema":"iface.v1","link":{"address":"zz:zz"}}`: `event: link: address: "zz:zz" is no link-layer address`,
	} {
		var e schema.Event
		err := json.Unmarshal([]byte(in), &e)
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", in, err, want)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	e := goldenEvents(nil)["updated"]
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendJSON(buf[:0])
	}
}

func BenchmarkDiff(b *testing.B) {
	e := goldenEvents(nil)["updated"]
	b.ReportAllocs()
	for b.Loop() {
		schema.Diff(&e.Link, &e.Previous)
	}
}

// A link is read however its JSON is written.
func TestLinkReadsAnyJSON(t *testing.T) {
	for text, want := range map[string]schema.Link{
		`{"ifname_bytes":"Yf8=","ifname":"a\ufffd"}`:              {Name: "a\xff"},
		`{"if\u006eame":"x", "ifalias":"say \"hi\""}`:             {Name: "x", Alias: `say "hi"`},
		"{\"mtu\":1,\n\"mtu\":1500 , \"new\":{\"in\":[2]}}":       {MTU: schema.Some[uint32](1500)},
		`{"flags":[ "BROADCAST" , "LOOPBACK" ],"operstate":null}`: {Flags: 0xA},
		"{\"ifname\":\"a\xff\"}":                                  {Name: "a\ufffd"},
		`null`:                                                    {},
	} {
		var got schema.Link
		if err := got.UnmarshalJSON([]byte(text)); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{``, `{`, `{"mtu":1}x`, `{"mtu":1} {}`, `[]`, `"x"`, `{"mtu"}`, `{"mtu":-1}`, `{"ifname":1}`, `{"flags":["UP",1]}`, `{"altnames":"x"}`} {
		if err := new(schema.Link).UnmarshalJSON([]byte(text)); err == nil {
			t.Errorf("%s: it was taken", text)
		}
	}
}

func BenchmarkUnmarshalJSON(b *testing.B) {
	data := goldenEvents(b)["updated"]
	text := data.AppendJSON(nil)
	b.ReportAllocs()
	for b.Loop() {
		var e schema.Event
		if err := e.UnmarshalJSON(text); err != nil {
			b.Fatal(err)
		}
	}
}
