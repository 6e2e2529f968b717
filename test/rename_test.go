package test

import (
	"fmt"
	"testing"

	"ifacebridge/schema"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// Fact: a link that is up and moves to another namespace sends a NEWLINK (down),
// then a DELLINK that says where it went; where it comes, a NEWLINK. Its index
// there may be another's here.
func TestMoves(t *testing.T) {
	k, elsewhere := netnstest.Parallel(t), netnstest.New(t)
	s := natstest.Start(t, "")
	r := record(t, s)
	bridge(t, s).Ready()
	a, peer := upPair(t, k, "mover", "stays")

	n := r.Mark()
	must(t, k.Move(a, elsewhere, 4711))
	e := r.Until(n, "moved", func(e *schema.Event) bool { return e.Link.Index == a && e.Kind == schema.Del })
	_, ok := e.Link.NewNetnsID.Get()
	if e.Action != schema.Moved || !ok || e.Link.NewIndex != 4711 || e.Link.Name != "mover" {
		t.Errorf("got %s", e.AppendJSON(nil))
	}
	// The peer's lower link is in another namespace now: an index, and no name.
	e = r.Until(n, "the peer", func(e *schema.Event) bool { return e.Link.Index == peer && e.Link.LowerIndex == 4711 })
	if _, ok := e.Link.LowerNetnsID.Get(); !ok || e.Link.LowerName != "" {
		t.Errorf("got %s", e.AppendJSON(nil))
	}

	n = r.Mark()
	must(t, elsewhere.Move(4711, k, 0))
	e = r.Until(n, "back again", func(e *schema.Event) bool { return e.Link.Name == "mover" })
	if e.Action != schema.Created || e.Kind != schema.New {
		t.Errorf("got %s", e.AppendJSON(nil))
	}
}

// A swap of two names while both links are up, and a name that goes to another
// link in one breath: each link keeps its history, and at no time is anything but the
// order of events needed.
func TestRenameKeepsHistory(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	r := record(t, s)
	bridge(t, s).Ready()
	a, b := upPair(t, k, "one", "two")
	must(t, k.Rename(a, "tmp"))
	must(t, k.Rename(b, "one"))
	must(t, k.Rename(a, "two"))
	r.Until(0, "the swap", func(e *schema.Event) bool { return e.Link.Index == a && e.Link.Name == "two" })
	must(t, k.Delete(a))
	again, err := k.Add("two", a, netnstest.Kind{Name: "ifb"})
	must(t, err)
	r.Until(0, "another link under its name and index", func(e *schema.Event) bool {
		return e.Link.Index == again && e.Action == schema.Created && e.Link.Info.Kind == "ifb"
	})
	var story []string
	for _, e := range r.About(0, a) {
		if e.Action != schema.Updated {
			story = append(story, fmt.Sprint(e.Action, " ", e.Previous.Name, " ", e.Link.Name))
		}
	}
	want := "[created  one renamed one tmp renamed tmp two deleted  two created  two]"
	if got := fmt.Sprint(story); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
