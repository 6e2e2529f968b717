package test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// Fact: a rename, an MTU, an address, an alias, an altname send one NEWLINK each,
// and a removed altname is simply absent. The life of a veth pair, as events: what each step of it is called, what it
// changes, and what was there before. In both deliveries.
func TestLifeOfALink(t *testing.T) {
	t.Parallel()
	for _, delivery := range []string{"jetstream", "core"} {
		t.Run(delivery, func(t *testing.T) {
			k := netnstest.Parallel(t)
			s := natstest.Start(t, "")
			r := record(t, s)
			b := bridge(t, s, "IFACE_DELIVERY="+delivery)
			r.Snapshot()

			n := r.Mark()
			a, peer, err := k.AddVeth("veth0", "veth1")
			must(t, err)
			for _, index := range []int32{peer, a} {
				e := r.Until(n, "created", func(e *schema.Event) bool { return e.Link.Index == index })
				if e.Action != schema.Created || e.Kind != schema.New || e.Link.Info.Kind != "veth" {
					t.Errorf("got %s of a %s", e.Action, e.Link.Info.Kind)
				}
			}
			br, err := k.Add("br0", 0, netnstest.Kind{Name: "bridge"})
			must(t, err)
			must(t, k.Up(peer))

			steps := []struct {
				name   string
				do     func() error
				action schema.Action
				// changed has to be in one event; before and after are what that says.
				changed       string
				before, after func(*schema.Link) any
				want          [2]any
			}{
				{"up", func() error { return k.Up(a) }, schema.Updated, "flags", flagUp, flagUp, [2]any{false, true}},
				{"renamed", func() error { return k.Rename(a, "front") }, schema.Renamed, "ifname", name, name, [2]any{"veth0", "front"}},
				{"alias", func() error { return k.SetAlias(a, "to the \"rack\"") }, schema.Updated, "ifalias", alias, alias, [2]any{"", "to the \"rack\""}},
				{"altname", func() error { return k.AddAltName(a, "frontend") }, schema.Updated, "altnames", altnames, altnames, [2]any{0, 1}},
				{"altname removed", func() error { return k.DeleteAltName(a, "frontend") }, schema.Updated, "altnames", altnames, altnames, [2]any{1, 0}},
				{"MTU", func() error { return k.SetUint32(a, unix.IFLA_MTU, 1400) }, schema.Updated, "mtu", mtu, mtu, [2]any{uint32(1500), uint32(1400)}},
				{"address", func() error { return k.SetBytes(a, unix.IFLA_ADDRESS, []byte{2, 0, 0, 0, 0, 1}) }, schema.Updated, "address", nil, address, [2]any{nil, "02:00:00:00:00:01"}},
				{"enslaved", func() error { return k.SetUint32(a, unix.IFLA_MASTER, uint32(br)) }, schema.Updated, "master_index", master, master, [2]any{int32(0), br}},
				{"released", func() error { return k.SetUint32(a, unix.IFLA_MASTER, 0) }, schema.Updated, "master_index", master, master, [2]any{br, int32(0)}},
			}
			for _, step := range steps {
				n := r.Mark()
				must(t, step.do())
				e := r.Until(n, step.name, func(e *schema.Event) bool { return e.Link.Index == a && e.Changed.Has(step.changed) })
				if e.Action != step.action || e.Kind != schema.New || e.Cause != schema.Notification {
					t.Errorf("%s: got %v %v, cause %v", step.name, e.Kind, e.Action, e.Cause)
				}
				if got := step.after(&e.Link); got != step.want[1] {
					t.Errorf("%s: link has %v, want %v", step.name, got, step.want[1])
				}
				if step.before != nil {
					if got := step.before(&e.Previous); got != step.want[0] {
						t.Errorf("%s: previous has %v, want %v", step.name, got, step.want[0])
					}
				}
			}

			// Fact: enslaved, the name of the master is there; deleted while enslaved, the
			// kernel sends two DELLINKs, and there is one del for each end.
			n = r.Mark()
			must(t, k.SetUint32(a, unix.IFLA_MASTER, uint32(br)))
			e := r.Until(n, "enslaved again", func(e *schema.Event) bool { return e.Link.Index == a && e.Link.MasterIndex == br })
			if e.Link.MasterName != "br0" {
				t.Errorf("the master is called %q", e.Link.MasterName)
			}
			n = r.Mark()
			must(t, k.Delete(a))
			must(t, k.Delete(br))
			r.Until(n, "the bridge deleted", func(e *schema.Event) bool { return e.Link.Index == br && e.Kind == schema.Del })
			for _, index := range []int32{a, peer, br} {
				dels := slices.DeleteFunc(r.About(n, index), func(e schema.Event) bool { return e.Kind != schema.Del })
				if len(dels) != 1 || dels[0].Action != schema.Deleted {
					t.Errorf("link %d: got %d del events", index, len(dels))
				}
			}

			allConfirmed(t, b)
			b.Signal(unix.SIGTERM)
			if status := b.Wait(); status != 0 {
				t.Errorf("exit status %d", status)
			}
			replayed := replayAll(t, r.Since(0))
			if names := linkNames(replayed.Links); !reflect.DeepEqual(names, []string{"lo"}) {
				t.Errorf("a consumer still has %q", names)
			}
			if delivery == "jetstream" {
				want := len(stored(t, r.Conn, "IFACE"))
				eventually(t, fmt.Sprintf("%d events are stored, and so many were published", want), func() bool { return r.Mark() == want })
			}
			if strings.Contains(b.Output(), "level=ERROR") || strings.Contains(b.Output(), "level=WARN msg=\"cannot") {
				t.Errorf("complaints in the log:\n%s", b.Output())
			}
		})
	}
}

func flagUp(l *schema.Link) any   { return l.Flags&schema.FlagUp != 0 }
func name(l *schema.Link) any     { return l.Name }
func alias(l *schema.Link) any    { return l.Alias }
func altnames(l *schema.Link) any { return len(l.Alt.List()) }
func mtu(l *schema.Link) any      { return l.MTU.Or(0) }
func address(l *schema.Link) any  { return l.Address.String() }
func master(l *schema.Link) any   { return l.MasterIndex }

func linkNames(links map[int32]schema.Link) []string {
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	slices.Sort(names)
	return names
}
