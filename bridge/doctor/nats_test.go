package doctor

import (
	"slices"
	"testing"

	"ifacebridge/bridge/config"
)

func TestLacks(t *testing.T) {
	cfg, err := config.Parse([]string{"IFACE_HOST=web01", "IFACE_DELIVERY=core"})
	if err != nil {
		t.Fatal(err)
	}
	e := &examination{cfg: cfg}
	needed := e.published(cfg.HostPermissions().Publish)
	want := []string{"iface.web01.new", "iface.web01.del", "ifacebridge.web01.owner", "$SYS.REQ.USER.INFO", "$SRV.INFO.ifacebridge"}
	if !slices.Equal(needed, want) {
		t.Fatalf("needed: got %q, want %q", needed, want)
	}
	for _, tt := range []struct {
		name        string
		allow, deny []string
		want        []string
	}{
		{"everything allowed", nil, nil, nil},
		{"all of it allowed", []string{"iface.web01.*", "ifacebridge.web01.owner", "$SYS.REQ.USER.INFO", "$SRV.>"}, nil, nil},
		{"each event alone allowed", []string{"iface.web01.new", "iface.web01.del", "ifacebridge.*.owner", "$SYS.>", "$SRV.>"}, nil, nil},
		{"events allowed only", []string{"iface.>"}, nil, []string{"ifacebridge.web01.owner", "$SYS.REQ.USER.INFO", "$SRV.INFO.ifacebridge"}},
		{"another host's events", []string{"iface.web02.*", "ifacebridge.>", "$SYS.>", "$SRV.>"}, nil,
			[]string{"iface.web01.new", "iface.web01.del"}},
		{"one denied", nil, []string{"iface.*.del"}, []string{"iface.web01.del"}},
		{"denied in spite of allowed", []string{">"}, []string{"$SRV.>"}, []string{"$SRV.INFO.ifacebridge"}},
	} {
		s := subjects{tt.allow, tt.deny}
		if got := s.lacks(needed); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
