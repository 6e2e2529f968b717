package config

import (
	"slices"
	"testing"

	"ifacebridge/schema"
)

func TestInContainer(t *testing.T) {
	var (
		lo   = schema.Link{Name: "lo", Type: 772}
		card = schema.Link{Name: "eth0", Type: 1}
		veth = schema.Link{Name: "eth0", Type: 1, LowerIndex: 7, LowerNetnsID: schema.Some[int32](0),
			Info: schema.LinkInfo{Kind: "veth"}}
		pair = schema.Link{Name: "veth0", Type: 1, LowerIndex: 8, Info: schema.LinkInfo{Kind: "veth"}}
		// A fallback tunnel, which the kernel makes in every namespace.
		tunnel = schema.Link{Name: "tunl0", Type: 768, LowerNetnsID: schema.Some[int32](-1),
			Info: schema.LinkInfo{Kind: "ipip"}}
	)
	for _, tt := range []struct {
		name  string
		links []*schema.Link
		want  bool
	}{
		{"a container's", []*schema.Link{&lo, &tunnel, &veth}, true},
		{"a host with containers", []*schema.Link{&lo, &card, &veth}, false},
		{"a host without a network", []*schema.Link{&lo, &tunnel}, false},
		{"a namespace with a pair of its own", []*schema.Link{&lo, &pair}, false},
		{"nothing", nil, false},
	} {
		if got := InContainer(slices.Values(tt.links)); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}
