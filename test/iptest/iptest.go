// Package iptest holds links to what `ip -d -j link show` says of them, key by key.
package iptest

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"ifacebridge/schema"
)

// Parse returns the links in the output of `ip -d -j link show`, by index.
func Parse(out []byte) (map[int32]map[string]any, error) {
	var list []map[string]any
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("the output of ip: %w:\n%s", err, out)
	}
	links := map[int32]map[string]any{}
	for _, l := range list {
		links[int32(l["ifindex"].(float64))] = l
	}
	return links, nil
}

// outside are keys that the contract leaves out: what changes without anything having
// happened, and M-DOWN, which is the state of another link.
var outside = []string{
	"stats", "stats64", "seq_nr", "fdb_n_learned",
	"hello_timer", "tcn_timer", "topology_change_timer", "gc_timer",
	"hold_timer", "message_age_timer", "forward_delay_timer",
	"mcast_querier_ipv4_other_timer", "mcast_querier_ipv6_other_timer",
}

// newer are keys that an older ip does not show, or not when they are false. The newest
// does, and so do we.
var newer = []string{
	"num_vf", "netns-immutable", "proto_down_reason", "vfinfo_list", // ip has these for some links
	"external", "vnifilter", "proxy", "rsc", "l2miss", "l3miss", "remcsum_tx", "remcsum_rx", "localbypass", "mcroute", "reserved_bits",
	"coupled_control", "broadcast_neighbor", "actor_port_prio", "churn_actor_state", "churn_partner_state",
	"fdb_max_learned", "mst_enabled", "mdb_offload_fail_notification", "fdb_local_vlan_0", "stp_mode",
	"mcast_querier_state_ipv4", "mcast_querier_state_ipv6",
	"mab", "neigh_vlan_suppress", "neigh_forward_grat", "backup_nhid", "bclim", "scrub", "peer_scrub", "interlink", "version", "inner_proto_inherit",
	"gso_ipv4_max_size", "gro_ipv4_max_size", "tso_max_size", "tso_max_segs",
}

// ours are keys that ip does not have: indexes beside names, bytes beside text, what was
// where a link went.
var ours = []string{
	"link_index", "master_index", "ifname_bytes", "ifalias_bytes", "altnames_bytes", "new_netnsid", "new_ifindex",
	"carrier", "carrier_changes", "carrier_up_count", "carrier_down_count",
	"txqlen", // when it is 0
	"event",  // of an event, and no state
}

// Compare compares links with what ip says, and returns how many values it compared and
// what differs.
func Compare(links map[int32]schema.Link, ip map[int32]map[string]any) (compared int, diffs []string) {
	for index, l := range links {
		if _, ok := ip[index]; !ok {
			diffs = append(diffs, fmt.Sprintf("link %d (%q) is published and not there", index, l.Name))
		}
	}
	for _, index := range slices.Sorted(maps.Keys(ip)) {
		l, ok := links[index]
		if !ok {
			diffs = append(diffs, fmt.Sprintf("link %d (%q) is there and not published", index, ip[index]["ifname"]))
			continue
		}
		n, d := Differences(l, ip[index])
		compared, diffs = compared+n, append(diffs, d...)
	}
	return compared, diffs
}

// Differences compares one link with what ip says of it.
func Differences(l schema.Link, ip map[string]any) (compared int, diffs []string) {
	var published map[string]any
	if err := json.Unmarshal(l.AppendJSON(nil), &published); err != nil {
		return 0, []string{err.Error()}
	}
	if flags, ok := ip["flags"].([]any); ok {
		ip["flags"] = slices.DeleteFunc(flags, func(f any) bool { return f == "M-DOWN" })
	}
	c := comparison{name: l.Name}
	c.objects("", published, ip)
	return c.compared, c.diffs
}

type comparison struct {
	name     string
	asks     bool // it is a slave from which a bond asks for a path, or has asked
	compared int
	diffs    []string
}

func (c *comparison) differ(key string, got, want any) {
	c.diffs = append(c.diffs, fmt.Sprintf("%s of %q: ours %v, ip's %v", key, c.name, got, want))
}

func (c *comparison) objects(path string, got, want map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if !slices.Contains(outside, key) && !empty(want[key]) {
			c.values(path+key, got[key], want[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok && !slices.Contains(newer, key) && !slices.Contains(ours, key) {
			c.differ(path+key, got[key], "nothing")
		}
	}
}

func (c *comparison) values(path string, got, want any) {
	if object, ok := want.(map[string]any); ok {
		c.asks = object["mii_status"] == "GOING_BACK" || object["mii_status"] == "GOING_DOWN"
		inner, _ := got.(map[string]any)
		c.objects(path+".", inner, object)
		return
	}
	if list, ok := want.([]any); ok && path == "xdp.attached" { // objects, with a program each
		inner, _ := got.([]any)
		for i := range list {
			c.values(fmt.Sprint(path, ".", i), append(inner, make([]any, len(list))...)[i], list[i])
		}
		got, want = len(inner), len(list)
	}
	c.compared++
	switch {
	case reflect.DeepEqual(got, want):
	case want == nil && (got == true || got == nil): // a flag that is set (vxlan's gbp), or a value without a name
	case strings.HasSuffix(path, ".prog.name"), strings.HasSuffix(path, ".prog.tag"), strings.HasSuffix(path, ".prog.jited"),
		strings.HasSuffix(path, ".prog.load_time"), strings.HasSuffix(path, ".prog.created_by_uid"), strings.HasSuffix(path, ".prog.btf_id"): // ip asks bpf(2)
	case c.asks && path == "linkinfo.info_slave_data.state", // for a moment
		c.asks && path == "linkinfo.info_slave_data.mii_status":
	case path == "linkinfo.info_data.root_id": // ip 6.1 shows the bridge's own id there
	default:
		c.differ(path, got, want)
	}
}

// empty reports whether ip shows an object that nothing is in, which we leave out.
func empty(v any) bool {
	object, ok := v.(map[string]any)
	if !ok {
		return false
	}
	for _, inner := range object {
		if !empty(inner) {
			return false
		}
	}
	return true
}
