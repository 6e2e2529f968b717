package harness

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"ifacebridge/schema"
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
	var list []map[string]any
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatalf("%v in the output of ip:\n%s", err, out)
	}
	links := map[int32]map[string]any{}
	for _, l := range list {
		links[int32(l["ifindex"].(float64))] = l
	}
	return links
}

// outside are the keys of ip's output that the contract leaves out.
var outside = []string{"stats", "stats64", "xdp", "proto_down", "vfinfo_list", "link_pointtopoint"}

// timers tick without a change.
var timers = []string{"hello_timer", "tcn_timer", "topology_change_timer", "gc_timer"}

// differences compares a link with what ip says of it, key by key, and returns
// how many keys it compared.
func differences(l schema.Link, ip map[string]any) (compared int, diffs []string) {
	var ours map[string]any
	if err := json.Unmarshal(l.AppendJSON(nil), &ours); err != nil {
		return 0, []string{err.Error()}
	}
	// ip prints the bytes of a name as they are, and Go's decoder, like ours, makes
	// U+FFFD of those that are not UTF-8.
	for _, key := range slices.Sorted(maps.Keys(ip)) {
		want := ip[key]
		if want == nil || slices.Contains(outside, key) {
			continue
		}
		got := ours[key]
		switch key {
		case "flags":
			want = slices.DeleteFunc(slices.Clone(want.([]any)), func(f any) bool { return f == "M-DOWN" })
		case "linkinfo":
			n, d := infoDifferences(got, want.(map[string]any))
			compared, diffs = compared+n, append(diffs, d...)
			continue
		}
		compared++
		if !reflect.DeepEqual(got, want) {
			diffs = append(diffs, fmt.Sprintf("%s of %q: ours %v, ip's %v", key, l.Name, got, want))
		}
	}
	return compared, diffs
}

func infoDifferences(got any, want map[string]any) (compared int, diffs []string) {
	ours, _ := got.(map[string]any)
	for _, key := range []string{"info_kind", "info_slave_kind"} {
		compared++
		if ours[key] != want[key] {
			diffs = append(diffs, fmt.Sprintf("linkinfo.%s: ours %v, ip's %v", key, ours[key], want[key]))
		}
	}
	data, _ := want["info_data"].(map[string]any)
	ourData, decoded := ours["info_data"].(map[string]any)
	if !decoded {
		return compared, diffs // a kind that the contract does not have decoded
	}
	for key, v := range data {
		if slices.Contains(timers, key) || v == nil {
			continue
		}
		compared++
		if !reflect.DeepEqual(ourData[key], v) {
			diffs = append(diffs, fmt.Sprintf("info_data.%s: ours %v, ip's %v", key, ourData[key], v))
		}
	}
	for key := range ourData {
		if _, ok := data[key]; !ok && ipShowsAll() {
			diffs = append(diffs, fmt.Sprintf("info_data.%s: ip has no such key", key))
		}
	}
	return compared, diffs
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
	for index, l := range links {
		if _, ok := kernel[index]; !ok {
			diffs = append(diffs, fmt.Sprintf("link %d (%q) is published and not there", index, l.Name))
		}
	}
	for index, ip := range kernel {
		l, ok := links[index]
		if !ok {
			diffs = append(diffs, fmt.Sprintf("link %d (%q) is there and not published", index, ip["ifname"]))
			continue
		}
		n, d := differences(l, ip)
		compared, diffs = compared+n, append(diffs, d...)
	}
	return compared, diffs
}

// Settled waits until the replayed stream is the kernel's state, and returns what
// was stored. Every event is there once, in order.
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
	Eventually(t, "the stream leads to the kernel's state", func() bool {
		f.CatchUp()
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
	Eventually(t, "the stream leads to the kernel's state in every namespace", func() bool {
		f.CatchUp()
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

// ipShowsAll reports whether ip is new enough to show every key of info_data that the
// contract has: 6.15 is. What an older one does not know it is no oracle of.
var ipShowsAll = sync.OnceValue(func() bool {
	out, _ := exec.Command("ip", "-V").Output() // "ip utility, iproute2-6.1.0, libbpf 1.1.2"
	_, version, _ := strings.Cut(string(out), "iproute2-")
	var major, minor int
	n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return n == 2 && (major > 6 || major == 6 && minor >= 15)
})

// first is what is shown of many differences.
func first(diffs []string) string { return strings.Join(diffs[:min(len(diffs), 20)], "\n") }
