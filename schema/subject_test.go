package schema_test

import (
	"strings"
	"testing"

	"ifacebridge/schema"
)

func TestHostToken(t *testing.T) {
	for name, want := range map[string]string{
		"web01.example.com": "web01_example_com",
		"a_b":               "a=5Fb",
		"a=b":               "a=3Db",
		"*":                 "=2A",
		"ä":                 "=C3=A4",
		"a b\x00":           "a=20b=00",
		"-":                 "-",
	} {
		if got, err := schema.HostToken(name); err != nil || got != want {
			t.Errorf("HostToken(%q): got %q, %v, want %q", name, got, err, want)
		}
	}
	if _, err := schema.HostToken(""); err == nil {
		t.Error("an empty name has a token")
	}
}

func TestHostNameRefusesWhatIsNoToken(t *testing.T) {
	for _, token := range []string{"", "a.b", "=", "=4", "=4a", "=61", "=2E", "=G0", "a b", "ä", "=+1"} {
		if name, err := schema.HostName(token); err == nil {
			t.Errorf("HostName(%q): got %q, want an error", token, name)
		}
	}
}

// Two names never share a token, and a token is one NATS token and a KV key.
func FuzzHostToken(f *testing.F) {
	for _, s := range []string{"web01.example.com", "a_b", "=5F", "*", ">", "\xff", " "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		token, err := schema.HostToken(name)
		if err != nil {
			if name != "" {
				t.Fatal(err)
			}
			return
		}
		if strings.Trim(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=") != "" {
			t.Errorf("token %q", token)
		}
		if back, err := schema.HostName(token); err != nil || back != name {
			t.Errorf("HostName(%q): got %q, %v, want %q", token, back, err, name)
		}
	})
}

// The key of a link in the bucket says what link it is.
func TestLinkKey(t *testing.T) {
	for _, tt := range []struct {
		key  schema.LinkKey
		want string
	}{
		{schema.LinkKey{Index: 3}, "3"},
		{schema.LinkKey{Netns: "blue", Index: 3}, "blue.3"},
		{schema.LinkKey{Netns: "pid:4711", Index: 12}, "pid=3A4711.12"},
		{schema.LinkKey{Netns: "a.b_c", Index: 1}, "a_b=5Fc.1"},
	} {
		got := tt.key.String()
		if back, err := schema.ParseLinkKey(got); got != tt.want || err != nil || back != tt.key {
			t.Errorf("%v: got %q, which is %v, %v; want %q", tt.key, got, back, err, tt.want)
		}
	}
	for _, bad := range []string{"", "x", "blue.", "blue.x", ".3", "a=zz.3", "99999999999"} {
		if k, err := schema.ParseLinkKey(bad); err == nil {
			t.Errorf("%q: got %v", bad, k)
		}
	}
}
