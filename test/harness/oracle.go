package harness

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"ifacebridge/schema"
	"ifacebridge/test/iptest"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// IPLinks is what `ip -d -j link show` says, by index, in a namespace; nil is the
// test's own.
func IPLinks(t testing.TB, in *netnstest.Kernel) map[int32]map[string]any {
	t.Helper()
	cmd := exec.Command(netnstest.Tool(t, "ip"), "-d", "-j", "link", "show")
	var out []byte
	show := func() (err error) { out, err = cmd.Output(); return err }
	if in == nil {
		Must(t, show())
	} else {
		Must(t, in.Do(show))
	}
	return decodeIP(t, out)
}

func decodeIP(t testing.TB, out []byte) map[int32]map[string]any {
	t.Helper()
	links, err := iptest.Parse(out)
	Must(t, err)
	return links
}

// SameAsIP compares all links of a replay with the kernel's, as ip shows them.
func SameAsIP(t testing.TB, links map[int32]schema.Link) (compared int, diffs []string) {
	t.Helper()
	return SameAsIPIn(t, nil, links)
}

// SameAsIPIn is SameAsIP for the links of another namespace; nil is the test's own.
func SameAsIPIn(t testing.TB, in *netnstest.Kernel, links map[int32]schema.Link) (compared int, diffs []string) {
	t.Helper()
	return SameLinks(links, IPLinks(t, in))
}

// SameLinks compares links with what ip says of them.
func SameLinks(links map[int32]schema.Link, kernel map[int32]map[string]any) (compared int, diffs []string) {
	return iptest.Compare(links, kernel)
}

// Settled waits until the replayed stream is the kernel's state, and returns what
// was stored. Every event is there once, in order. More may come that leads back to the
// same state: who counts on that waits until the bridge has nothing left, too.
func Settled(t testing.TB, s *natstest.Server) *Follower {
	t.Helper()
	return SettledIn(t, nil, s)
}

// SettledIn is Settled for the links of another namespace than the test's.
func SettledIn(t testing.TB, in *netnstest.Kernel, s *natstest.Server) *Follower {
	t.Helper()
	f := Follow(t, s)
	var diffs []string
	defer func() {
		if t.Failed() {
			t.Log(first(diffs))
		}
	}()
	f.Until("the stream leads to the kernel's state", func() bool {
		_, diffs = SameAsIPIn(t, in, f.Replay.Links)
		return len(diffs) == 0
	})
	return f
}

// SameInNamespaces waits until a replayed stream is the kernel's state in each
// namespace; nil is the test's own.
func SameInNamespaces(t testing.TB, f *Follower, kernels map[string]*netnstest.Kernel) (compared int) {
	t.Helper()
	var diffs []string
	defer func() {
		if t.Failed() {
			t.Log(first(diffs))
		}
	}()
	f.Until("the stream leads to the kernel's state in every namespace", func() bool {
		compared, diffs = 0, nil
		for name, k := range kernels {
			links := f.Replay.Links
			if name != "" {
				links = f.Replay.Netns[name]
			}
			n, d := SameAsIPIn(t, k, links)
			compared += n
			for _, diff := range d {
				diffs = append(diffs, name+": "+diff)
			}
		}
		for name, links := range f.Replay.Netns {
			if kernels[name] == nil && len(links) > 0 {
				diffs = append(diffs, fmt.Sprintf("%d links in %s, which is not there", len(links), name))
			}
		}
		return len(diffs) == 0
	})
	return compared
}

// first is what is shown of many differences.
func first(diffs []string) string { return strings.Join(diffs[:min(len(diffs), 20)], "\n") }
