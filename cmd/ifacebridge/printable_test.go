package main

import (
	"strings"
	"testing"
)

// No control, bidirectional or zero-width character reaches a terminal, and two names that
// differ look different.
func TestPrintable(t *testing.T) {
	for _, text := range []string{"a\x1b[2J", "a\u009bK", "a\u202eb", "a\u200bb", "a\u2066b", "a\ufeffb", "a\x7f", "a\xff", "a\u00adb"} {
		got := printable(text)
		if got == text || strings.ContainsAny(got, "\x1b\u009b\u202e\u200b\u2066\ufeff\x7f\u00ad") {
			t.Errorf("%q is shown as %q", text, got)
		}
	}
	for _, text := range []string{"eth0", "ü", "a b", "日本"} {
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
