package test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/micro"
	"golang.org/x/sys/unix"

	"ifacebridge/fleet"
	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// What an operator says of a host is in everything that is published of it: each event,
// those for what went while the bridge was down and those of a spool included, the answer
// to a query, the service. watch and links show the hosts that have a label, and no others.
func TestHostsHaveLabels(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	nc := connect(t, s)
	veth, _, err := k.AddVeth("veth0", "veth1")
	must(t, err)
	spool := "IFACE_SPOOL_DIR=" + t.TempDir()
	b := bridge(t, s, "IFACE_LABELS=site=fra1,rack=b12", spool)
	eventually(t, "the snapshot is stored", func() bool { return len(harness.Bucket(t, s, "iface_links")) == 3 })
	watch := func(labels ...string) *process {
		return start(t, []string{"NATS_URL=" + s.URL}, append([]string{"watch", "--json", "--since", "10m"}, labels...)...)
	}
	fra1, ber2 := watch("--label", "site=fra1", "--label", "rack=b12"), watch("--label", "site=ber2")
	must(t, k.SetUint32(veth, unix.IFLA_MTU, 1400))
	fra1.Says(`"mtu":1400`)
	fra1.Says(`"labels":{"site":"fra1","rack":"b12"}`)

	want, err := schema.ParseLabels("site=fra1,rack=b12")
	must(t, err)
	eventually(t, "an answer with the labels", func() bool {
		answer, err := fleet.Query(t.Context(), nc, "test")
		return err == nil && answer.Labels == want
	})
	reply, err := nc.Request("$SRV.INFO.ifacebridge", nil, harness.Patience)
	must(t, err)
	var info micro.Info
	must(t, json.Unmarshal(reply.Data, &info))
	if info.Metadata["labels"] != "site=fra1,rack=b12" {
		t.Errorf("the service has %v", info.Metadata)
	}

	// A crash, with events in the spool; the next run has another rack.
	confirmed(t, b)
	s.Kill()
	must(t, k.SetUint32(veth, unix.IFLA_MTU, 1300))
	eventually(t, "it is on disk", func() bool { return b.Metric("ifacebridge_spool_events") > 0 })
	b.Kill()
	must(t, k.Delete(veth))
	s.Start()
	b = bridge(t, s, "IFACE_LABELS=site=fra1,rack=b13", spool)
	b.Says("published what an earlier run had left")
	eventually(t, "the links are those of the kernel", func() bool {
		return len(harness.Bucket(t, s, "iface_links")) == 1
	})
	events := harness.Stored(t, nc, "IFACE")
	harness.ReplayAll(t, events)
	first, racks := events[0].Epoch, map[string]int{}
	for _, e := range events {
		rack, _ := e.Labels.Get("rack")
		racks[rack+" "+e.Kind.String()]++
		if (rack == "b12") != (e.Epoch == first) || !e.Labels.Has(mustLabels(t, "site=fra1")) {
			t.Errorf("%s of epoch %s has labels %q", e.Action, e.Epoch, e.Labels)
		}
	}
	if racks["b13 del"] != 2 || racks["b12 new"] < 5 {
		t.Errorf("events by rack: %v", racks)
	}
	if out := ber2.Output(); strings.Contains(out, `"schema"`) {
		t.Errorf("watch shows what has another label:\n%s", out)
	}

	for _, tt := range []struct {
		label string
		lines int
	}{{"site=fra1", 1}, {"rack=b13,site=fra1", 1}, {"rack=b12", 0}, {"site=fra", 0}} {
		l := ends(t, func() *process {
			return start(t, []string{"NATS_URL=" + s.URL}, "links", "--json", "--label", tt.label)
		}, 0)
		labelled := strings.Count(l.Output(), `"labels":{"site":"fra1","rack":"b13"}`)
		if labelled != tt.lines || strings.Count(l.Output(), "\n") != tt.lines {
			t.Errorf("links --label %s:\n%s", tt.label, l.Output())
		}
	}
}

func mustLabels(t *testing.T, text string) schema.Labels {
	t.Helper()
	labels, err := schema.ParseLabels(text)
	must(t, err)
	return labels
}
