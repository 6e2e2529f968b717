package linktest

import (
	"fmt"
	"strings"
	"testing"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// Describe is a change in a line: "new renamed 3:b [ifname]".
func Describe(c *event.Change) string {
	s := fmt.Sprintf("%v %v %d:%s", c.Kind, c.Action, c.Link.Index, c.Link.Name)
	if c.Action == schema.Updated || c.Action == schema.Renamed {
		s += " " + (schema.Diff(c.Before, c.Link) | c.Restated).String()
	}
	if c.Count > 1 {
		s += fmt.Sprintf(" x%d", c.Count)
	}
	if c.Cause == schema.Resync {
		s += " resync"
	}
	return s
}

// DescribeEvent is [Describe] for an event.
func DescribeEvent(e *schema.Event) string {
	s := fmt.Sprintf("%v %v %d:%s", e.Kind, e.Action, e.Link.Index, e.Link.Name)
	if e.Action == schema.Updated || e.Action == schema.Renamed {
		s += " " + e.Changed.String()
	}
	if e.Coalesced > 1 {
		s += fmt.Sprintf(" x%d", e.Coalesced)
	}
	if e.Cause == schema.Resync {
		s += " resync"
	}
	return s
}

// Expect fails the test when these are not the lines that it wants.
func Expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
