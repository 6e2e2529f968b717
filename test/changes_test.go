package test

import (
	"fmt"
	"testing"

	"ifacebridge/schema"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

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
