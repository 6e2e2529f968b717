package track

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// What the kernel says, and what it means. Fact: an attribute that a full message
// does not have is gone (an alias, the last altname). Fact: wireless sends partial
// messages, in which absent means nothing. Fact: an index is given to another link.
func TestTable(t *testing.T) {
	swap := []*netlinksrc.Message{
		newMsg(link(2, "a")),
		newMsg(link(3, "b")),
		newMsg(link(2, "tmp")),
		newMsg(link(3, "a")),
		newMsg(link(2, "b")),
	}
	tests := []struct {
		name     string
		filter   config.Filter
		messages []*netlinksrc.Message
		want     []string
	}{
		{
			name:     "life",
			messages: []*netlinksrc.Message{newMsg(link(2, "a")), newMsg(link(2, "a", mtu(9))), delMsg(link(2, "a"))},
			want:     []string{"new created 2:a", "new updated 2:a [mtu]", "del deleted 2:a"},
		},
		{
			name:     "announced without a change",
			messages: []*netlinksrc.Message{newMsg(link(2, "a")), newMsg(link(2, "a"))},
			want:     []string{"new created 2:a"},
		},
		{name: "the next event counts what changed nothing",
			messages: []*netlinksrc.Message{
				newMsg(link(2, "a")),
				newMsg(link(2, "a")),
				newMsg(link(2, "a")),
				newMsg(link(2, "a", mtu(9))),
				newMsg(link(2, "a", mtu(9))),
				delMsg(link(2, "a")),
			},
			want: []string{"new created 2:a", "new updated 2:a [mtu] x3", "del deleted 2:a x2"}},
		{name: "why a link is announced is news each time, and no state",
			messages: []*netlinksrc.Message{
				newMsg(link(2, "a")),
				newMsg(link(2, "a", reason("NOTIFY PEERS"))),
				newMsg(link(2, "a", reason("NOTIFY PEERS"))),
				newMsg(link(2, "a")),
				newMsg(link(2, "a", mtu(9))),
			},
			want: []string{
				"new created 2:a",
				"new updated 2:a [event]",
				"new updated 2:a [event]",
				"new updated 2:a [mtu] x2",
			}},
		{name: "what a bridge says of its port",
			messages: []*netlinksrc.Message{
				newMsg(link(2, "a", port(`{"state":"disabled"}`))),
				portMsg(2, `{"state":"blocking"}`),
				portMsg(2, `{"state":"blocking"}`),
				newMsg(link(2, "a", port(`{"state":"blocking"}`))),
			},
			want: []string{"new created 2:a", "new updated 2:a [linkinfo]"}},
		{name: "what a bridge says of a port that has left it, or that nobody knows",
			messages: []*netlinksrc.Message{
				newMsg(link(2, "a")),
				portMsg(2, `{"state":"blocking"}`),
				portMsg(3, `{"state":"blocking"}`),
				delMsg(link(2, "a")),
			},
			want: []string{"new created 2:a", "del deleted 2:a x2"}},
		{name: "a bond that asks for a path has each slave send in turn",
			messages: []*netlinksrc.Message{
				newMsg(link(9, "bond", bond(100))),
				newMsg(link(2, "a", slave(9, "ACTIVE", "UP"))),
				newMsg(link(3, "b", slave(9, "BACKUP", "UP"))),
				newMsg(link(2, "a", slave(9, "BACKUP", "DOWN"))),
				newMsg(link(3, "b", slave(9, "BACKUP", "DOWN"))),
				newMsg(link(2, "a", slave(9, "ACTIVE", "GOING_BACK"))),
				newMsg(link(2, "a", slave(9, "ACTIVE", "GOING_DOWN"))),
				newMsg(link(2, "a", slave(9, "BACKUP", "GOING_DOWN"))),
				newMsg(link(3, "b", slave(9, "BACKUP", "GOING_BACK"))),
				newMsg(link(3, "b", slave(9, "ACTIVE", "GOING_BACK"))),
				newMsg(link(2, "a", slave(9, "ACTIVE", "UP"))),
			},
			want: []string{"new created 9:bond", "new created 2:a", "new created 3:b",
				"new updated 2:a [linkinfo]", "new updated 3:b [linkinfo]", "new updated 2:a [linkinfo] x4"}},
		{name: "a slave that waits until it may be used again",
			messages: []*netlinksrc.Message{
				newMsg(link(9, "bond", bond(0))),
				newMsg(link(2, "a", slave(9, "BACKUP", "GOING_BACK"))),
				newMsg(link(2, "a", slave(9, "ACTIVE", "GOING_BACK"))),
			},
			want: []string{"new created 9:bond", "new created 2:a", "new updated 2:a [linkinfo]"}},
		{name: "a notification does not take back what dumps say of virtual functions",
			messages: []*netlinksrc.Message{
				newMsg(link(2, "a", functions)),
				newMsg(link(2, "a")),
				newMsg(link(2, "a", mtu(9))),
			},
			want: []string{"new created 2:a", "new updated 2:a [mtu] x2"}},
		{
			name:     "a full message is the state: an alias that is gone",
			messages: []*netlinksrc.Message{newMsg(link(2, "a", alias("x"))), newMsg(link(2, "a"))},
			want:     []string{"new created 2:a", "new updated 2:a [ifalias]"},
		},
		{name: "a partial message is merged", messages: []*netlinksrc.Message{
			newMsg(link(2, "a", alias("x"))),
			partialMsg(schema.Link{Index: 2, Name: "a", Type: 1, Flags: 0x1002}),
			partialMsg(schema.Link{Index: 2, Name: "b", Type: 1, Flags: 0x1002}),
		},
			want: []string{"new created 2:a", "new renamed 2:b [ifname] x2"}},
		{
			name: "a partial message makes no link",
			messages: []*netlinksrc.Message{
				partialMsg(link(2, "a")),
				newMsg(link(2, "a")),
				delMsg(link(2, "a")),
				partialMsg(link(2, "a")),
			},
			want: []string{"new created 2:a", "del deleted 2:a"},
		},
		{
			name:     "gone twice",
			messages: []*netlinksrc.Message{newMsg(link(2, "a")), delMsg(link(2, "a")), delMsg(link(2, "a"))},
			want:     []string{"new created 2:a", "del deleted 2:a"},
		},
		{
			name:     "an index is reused",
			messages: []*netlinksrc.Message{newMsg(link(2, "a")), delMsg(link(2, "a")), newMsg(link(2, "b"))},
			want:     []string{"new created 2:a", "del deleted 2:a", "new created 2:b"},
		},
		{name: "a swap of two names", messages: swap,
			want: []string{
				"new created 2:a",
				"new created 3:b",
				"new renamed 2:tmp [ifname]",
				"new renamed 3:a [ifname]",
				"new renamed 2:b [ifname]",
			}},
		{
			name:     "names that differ in one byte",
			messages: []*netlinksrc.Message{newMsg(link(2, "a\xff")), newMsg(link(2, "a\xfe"))},
			want:     []string{"new created 2:a\xff", "new renamed 2:a\xfe [ifname ifname_bytes]"},
		},
		{name: "moved", messages: []*netlinksrc.Message{newMsg(link(2, "a")), delMsg(link(2, "a", movedTo(0, 7)))},
			want: []string{"new created 2:a", "del moved 2:a"}},
		{name: "renamed out of the filter and in", filter: including("eth*"),
			messages: []*netlinksrc.Message{
				newMsg(link(2, "eth0")),
				newMsg(link(2, "x0")),
				newMsg(link(2, "x0", mtu(9))),
				newMsg(link(2, "eth1", mtu(9))),
			},
			want: []string{"new created 2:eth0", "del renamed 2:x0 [ifname]", "new renamed 2:eth1 [ifname]"}},
		{name: "filtered from birth to death", filter: excluding("kind:veth"),
			messages: []*netlinksrc.Message{
				newMsg(link(2, "a", kind("veth"))),
				newMsg(link(2, "b", kind("veth"))),
				delMsg(link(2, "b")),
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := NewTable(tt.filter, event.Namespace{})
			var got []string
			for _, m := range tt.messages {
				table.Apply(m, 0, func(c *event.Change) { got = append(got, describe(c)) })
			}
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// What was lost between two looks at a link, as far as it can be told.
func TestTableCompares(t *testing.T) {
	known := link(2, "a", kind("veth"), ups(3))
	tests := []struct {
		name string
		dump schema.Link
		want []string
	}{
		{"nothing", known, nil},
		{
			"what the kernel does not announce",
			link(2, "a", kind("veth"), ups(3), alias("x")),
			[]string{"new updated 2:a [ifalias] resync"},
		},
		{"a rename", link(2, "b", kind("veth"), ups(3)), []string{"new renamed 2:b [ifname] resync"}},
		{"a link that is new", link(3, "c"), []string{"new created 3:c resync"}},
		{
			"another hardware type",
			link(2, "a", kind("veth"), ups(3), hardware(unix.ARPHRD_IEEE80211_RADIOTAP)),
			[]string{"new updated 2:a [link_type] resync"},
		},
		{
			"another kind under the index",
			link(2, "a", kind("bridge"), ups(3)),
			[]string{"del deleted 2:a resync", "new created 2:a resync"},
		},
		{
			"a carrier that came less often",
			link(2, "a", kind("veth"), ups(0)),
			[]string{"del deleted 2:a resync", "new created 2:a resync"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := NewTable(config.Filter{}, event.Namespace{})
			table.Apply(newMsg(known), 0, func(*event.Change) {})
			var got []string
			table.compare(&tt.dump, time.Unix(2, 0), 0, func(c *event.Change) { got = append(got, describe(c)) })
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// Names of other links are those of the moment, also of links that are not
// published, and resolve in one namespace only.
func TestTableNames(t *testing.T) {
	table := NewTable(excluding("br*"), event.Namespace{})
	var got schema.Link
	emit := func(c *event.Change) { got = *c.Link; c.LinkNames.Put(&got) }
	table.Apply(newMsg(link(7, "br0")), 0, emit)
	table.Apply(newMsg(link(2, "a", master(7), func(l *schema.Link) { l.LowerIndex = 7 })), 0, emit)
	if got.MasterName != "br0" || got.LowerName != "br0" {
		t.Errorf("got master %q and lower link %q", got.MasterName, got.LowerName)
	}
	table.Apply(newMsg(link(7, "br1")), 0, emit)
	table.Apply(
		newMsg(
			link(2, "a", master(7), func(l *schema.Link) { l.LowerIndex, l.LowerNetnsID = 7, schema.Some[int32](0) }),
		),
		0,
		emit,
	)
	if got.MasterName != "br1" || got.LowerName != "" {
		t.Errorf("got master %q and, of a link elsewhere, %q", got.MasterName, got.LowerName)
	}
	table.Apply(
		newMsg(
			link(
				3,
				"vx",
				func(l *schema.Link) { l.Info = schema.LinkInfo{Kind: "vxlan", Data: `{"id":1,"link":2}`} },
			),
		),
		0,
		emit,
	)
	if got.Info.Data != `{"id":1,"link":"a"}` {
		t.Errorf("got %s", got.Info.Data)
	}
}

// A name that was not known yet, or is another now, is said when the table is
// compared with the kernel; once.
func TestTableRestatesNames(t *testing.T) {
	table := NewTable(config.Filter{}, event.Namespace{})
	silent := func(*event.Change) {}
	lower := func(i int32) func(*schema.Link) { return func(l *schema.Link) { l.LowerIndex = i } }
	table.Apply(newMsg(link(2, "veth1", lower(3))), 0, silent)
	table.Apply(newMsg(link(3, "veth0", lower(2))), 0, silent)
	table.Apply(newMsg(link(7, "br0")), 0, silent)
	table.Apply(newMsg(link(4, "port", master(7))), 0, silent)
	table.Apply(newMsg(link(7, "br1")), 0, silent)
	for _, want := range [][]string{
		{"new updated 2:veth1 [link_index] resync", "new updated 4:port [master_index] resync"},
		nil,
	} {
		var got []string
		table.Restate(time.Unix(1, 0), 0, func(c *event.Change) { got = append(got, describe(c)) })
		expect(t, got, want...)
	}
}

// A snapshot is complete, in order, and says where it ends.
func TestTableSnapshot(t *testing.T) {
	table := NewTable(excluding("b"), event.Namespace{})
	for i, name := range []string{"c", "b", "a"} {
		table.Apply(newMsg(link(int32(9-i), name)), 0, func(*event.Change) {})
	}
	var got []string
	table.Snapshot(0, time.Now(), 0, func(c *event.Change) {
		got = append(got, fmt.Sprintf("%s %d/%d", describe(c), c.Snapshot.Pos, c.Snapshot.Of))
	})
	if want := "new existing 7:a 1/2\nnew existing 9:c 2/2"; strings.Join(got, "\n") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Whatever messages come, replaying the emitted changes gives the table's links.
func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
	f.Fuzz(func(t *testing.T, script []byte) {
		table := NewTable(excluding("x*"), event.Namespace{})
		replayed := map[int32]string{}
		generation := map[int32]uint64{}
		emit := func(c *event.Change) {
			_, there := replayed[c.ID.Index]
			created := c.Action == schema.Created || c.Action == schema.Renamed && !c.WasThere
			if c.Action == schema.Created && c.WasThere {
				t.Fatalf("%s of a link that was there", describe(c))
			}
			if c.Kind == schema.New && created == there || c.Kind == schema.Del && !there {
				t.Fatalf("%s of a link that is there: %v", describe(c), there)
			}
			if there && generation[c.ID.Index] != c.ID.Generation {
				t.Fatalf("%s changes its generation", describe(c))
			}
			delete(replayed, c.ID.Index)
			if c.Kind == schema.New {
				replayed[c.ID.Index], generation[c.ID.Index] = string(c.Link.AppendJSON(nil)), c.ID.Generation
			}
		}
		names := []string{"a", "b", "x1", "a\xff"}
		for i := 0; i+1 < len(script); i += 2 {
			op, arg := script[i], script[i+1]
			l := link(int32(arg%4+1), names[arg>>2%4], mtu(uint32(arg>>4)), ups(uint32(op>>4)))
			switch op % 5 {
			case 0, 1:
				table.Apply(newMsg(l), 0, emit)
			case 2:
				table.Apply(delMsg(l), 0, emit)
			case 3:
				table.Apply(partialMsg(l), 0, emit)
			case 4:
				table.compare(&l, time.Time{}, 0, emit)
			}
		}
		want := 0
		for _, e := range table.links {
			if e.published {
				want++
				if got := replayed[e.link.Index]; got != string(e.link.AppendJSON(nil)) {
					t.Fatalf("link %d: replayed %s, the table has %s", e.link.Index, got, e.link.AppendJSON(nil))
				}
			}
		}
		if len(replayed) != want {
			t.Fatalf("replayed %d links, the table has %d", len(replayed), want)
		}
	})
}
