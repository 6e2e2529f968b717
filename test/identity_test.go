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
	a, peer, err := k.AddVeth("mover", "stays")
	must(t, err)
	must(t, k.Up(a, peer))

	n := r.Mark()
	must(t, k.Move(a, elsewhere, 4711))
	e := r.Until(n, "moved", func(e *schema.Event) bool { return e.Link.Index == a && e.Kind == schema.Del })
	if _, ok := e.Link.NewNetnsID.Get(); e.Action != schema.Moved || !ok || e.Link.NewIndex != 4711 || e.Link.Name != "mover" {
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
// link in one breath: at no time is anything but the order of events needed.
func TestRenames(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	r := record(t, s)
	bridge(t, s).Ready()
	a, b, err := k.AddVeth("one", "two")
	must(t, err)
	must(t, k.Up(a, b))
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

// IFACE_COALESCE folds what one link does within the time, says of how many
// notifications, and loses none of them.
func TestCoalesce(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a := upLink(t, k)
	r := record(t, s)
	bridge(t, s, "IFACE_COALESCE=300ms")
	n := r.Snapshot()
	const changes = 150 // so many fit into any receive buffer
	for i := range changes {
		must(t, k.SetAlias(a, fmt.Sprint(i)))
	}
	r.Until(0, "the last alias", func(e *schema.Event) bool { return e.Link.Alias == fmt.Sprint(changes-1) && e.Changed.Has("ifalias") })
	told, events := uint64(0), r.Since(n)
	for _, e := range events {
		told += max(e.Coalesced, 1)
	}
	if told != changes || len(events) > changes/2 {
		t.Errorf("%d events stand for %d notifications, want few and %d", len(events), told, changes)
	}
}

// Without folding every notification is an event.
func TestEveryNotificationIsAnEvent(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a := upLink(t, k)
	r := record(t, s)
	bridge(t, s)
	n := r.Snapshot()
	for i := range 1000 {
		must(t, k.SetAlias(a, fmt.Sprint(i)))
		if i%100 == 99 { // so many fit into any receive buffer
			r.Until(0, "the last alias", func(e *schema.Event) bool { return e.Link.Alias == fmt.Sprint(i) })
		}
	}
	for i, e := range r.Since(n) {
		if e.Link.Alias != fmt.Sprint(i) || e.Coalesced != 0 || e.Overruns != 0 {
			t.Fatalf("event %d is %s", i, e.AppendJSON(nil))
		}
	}
}

// IFACE_INCLUDE and IFACE_EXCLUDE: a link renamed out of what is published gets
// its del, one renamed into it its new, both as renamed.
func TestFilters(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	r := record(t, s)
	bridge(t, s, "IFACE_INCLUDE=eth*, kind:bridge", "IFACE_EXCLUDE=eth9*").Ready()
	a, err := k.Add("eth0", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	br, err := k.Add("any", 0, netnstest.Kind{Name: "bridge"})
	must(t, err)
	for _, name := range []string{"eth90", "other", "eth1"} {
		must(t, k.Rename(a, name))
	}
	must(t, k.Delete(a))
	must(t, k.Delete(br))
	r.Until(0, "the bridge deleted", func(e *schema.Event) bool { return e.Link.Index == br && e.Kind == schema.Del })
	var story []string
	for _, e := range r.About(0, a) {
		story = append(story, fmt.Sprint(e.Kind, " ", e.Action, " ", e.Previous.Name, ">", e.Link.Name))
	}
	want := "[new created >eth0 del renamed eth0>eth90 new renamed other>eth1 del deleted >eth1]"
	if got := fmt.Sprint(story); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if lo := r.About(0, 1); len(lo) > 0 {
		t.Error("the loopback is published")
	}
}
