package main

import (
	"strings"
	"testing"

	"ifacebridge/schema"
)

// No control, bidirectional or zero-width character reaches a terminal, and two names that
// differ look different.
func TestPrintable(t *testing.T) {
	const bad = "\x1b\u009b\u202e\u200b\u2066\ufeff\x7f\u00ad\u00a0\u034f\u2028\u3164\ufe0f\U000e0100\u2800"
	for _, text := range []string{
		"a\x1b[2J", "a\u009bK", "a\u202eb", "a\u200bb", "a\u2066b", "a\ufeffb", "a\x7f", "a\xff", "a\u00adb",
		"a\u00a0b", "a\u034fb", "a\u2028b", "a\u3164b", "a\ufe0fb", "a\U000e0100b", "a\u2800b",
	} {
		got := printable(text)
		if got == text || strings.ContainsAny(got, bad) {
			t.Errorf("%q is shown as %q", text, got)
		}
	}
	for _, text := range []string{"eth0", "ü", "e\u0301", "a b", "日本"} {
		if got := printable(text); got != text {
			t.Errorf("%q is shown as %q", text, got)
		}
	}
}

// Of a value's JSON only those characters are replaced: its quotes stay.
func TestVisible(t *testing.T) {
	if got := visible("{\"x\":\"a\u202eb\u200b\x1b\"}"); got != `{"x":"a\u202eb\u200b\x1b"}` {
		t.Errorf("got %s", got)
	}
}

// What matters of a link is in one line, and of settings that change those that do.
func TestNotesAndSummary(t *testing.T) {
	slave := func(state, status string) schema.LinkInfo {
		return schema.LinkInfo{Kind: "veth", SlaveKind: "bond",
			SlaveData: `{"state":"` + state + `","mii_status":"` + status + `","queue_id":0}`}
	}
	for want, l := range map[string]schema.Link{
		"": {Info: schema.LinkInfo{Kind: "veth"}},
		"  port-state=BACKUP  port-mii_status=UP": {Info: slave("BACKUP", "UP")},
		"  table=4294967295":                      {Info: schema.LinkInfo{Kind: "vrf", Data: `{"table":4294967295}`}},
		"  remote=192.0.2.1":                      {Info: schema.LinkInfo{Kind: "gre", Data: `{"remote":"192.0.2.1"}`}},
		`  remote=a\u202eb  xdp  protodown`: {XDP: `{"mode":2}`, ProtoDown: true,
			Info: schema.LinkInfo{Data: `{"remote":"a\u202eb"}`}},
	} {
		if got := notes(&l); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	before, after := schema.Link{Info: slave("ACTIVE", "UP")}, schema.Link{Info: slave("BACKUP", "DOWN")}
	e := schema.Event{Action: schema.Updated, Link: after, Previous: before, Changed: schema.Diff(&before, &after)}
	if got, want := summary(&e), "updated  port-mii_status UP → DOWN  port-state ACTIVE → BACKUP"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	e.Previous.Info = schema.LinkInfo{Kind: "veth"}
	if got, want := summary(&e), "updated  info_slave_kind none → bond"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
