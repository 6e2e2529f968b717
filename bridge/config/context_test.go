package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// context returns the path of a context's file with this content.
func context(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What a context holds is what the variables would be set to, the server of the nats command
// included when it names none; a variable wins.
func TestContext(t *testing.T) {
	path := context(t, `{"token": "hunter2", "inbox_prefix": "_MINE", "jetstream_domain": "hub", "tls_first": true,
		"socks_proxy": "socks5://u:hunter2@h:1080", "color_scheme": "red", "description": "d"}`)
	got, err := ParseConnection([]string{"NATS_CONTEXT=" + path, "IFACE_JS_DOMAIN=edge"})
	if err != nil {
		t.Fatal(err)
	}
	if servers := strings.Join(got.Servers, " "); servers != "nats://127.0.0.1:4222" {
		t.Errorf("servers: %s", servers)
	}
	if got.InboxPrefix() != "_MINE" || got.API() != "$JS.edge.API" || !got.TLSFirst || got.Proxy == "" {
		t.Errorf("got %+v", got)
	}
	if flags := got.NATSFlags(); flags != " --js-domain=edge" {
		t.Errorf("flags %q", flags)
	}
	if c, err := got.Auth.Credentials(); err != nil || c != (Credentials{Token: "hunter2"}) {
		t.Errorf("credentials %v, %v", c, err)
	}
	if way := got.Auth.Way(); way != "NATS_TOKEN (of NATS_CONTEXT)" {
		t.Errorf("way %q", way)
	}
	for _, v := range Variables([]string{"NATS_CONTEXT=" + path}) {
		if strings.Contains(v.Value, "hunter2") {
			t.Errorf("%s shows its secret: %s", v.Name, v.Value)
		}
	}
}

func TestContextAPIPrefix(t *testing.T) {
	got, err := ParseConnection([]string{"NATS_CONTEXT=" + context(t, `{"jetstream_api_prefix": "hub.API."}`)})
	if err != nil || got.API() != "hub.API" || got.NATSFlags() != " --js-api-prefix=hub.API" {
		t.Errorf("got %q, %q, %v", got.API(), got.NATSFlags(), err)
	}
	if subject := got.PutSubject("b", "h.1"); subject != "hub.API.$KV.b.h.1" {
		t.Errorf("puts go to %s", subject)
	}
}

// A context may spell out the prefix that there is by default: then buckets are where they
// always are. One that looks like a domain's is a domain's.
func TestContextAPIPrefixAsUsual(t *testing.T) {
	for _, tt := range []struct{ prefix, put, flags string }{
		{"$JS.API", "$KV.b.h.1", ""},
		{"$JS.API.", "$KV.b.h.1", ""},
		{"$JS.hub.API", "$JS.hub.API.$KV.b.h.1", " --js-domain=hub"},
		{"$JS.eu.hub.API", "$JS.eu.hub.API.$KV.b.h.1", " --js-api-prefix='$JS.eu.hub.API'"},
		{"$JS.hub", "$JS.hub.$KV.b.h.1", " --js-api-prefix='$JS.hub'"},
	} {
		c, err := ParseConnection([]string{"NATS_CONTEXT=" + context(t, `{"jetstream_api_prefix": "`+tt.prefix+`"}`)})
		if err != nil {
			t.Fatal(err)
		}
		if put := c.PutSubject("b", "h.1"); put != tt.put || c.NATSFlags() != tt.flags {
			t.Errorf("%s: puts go to %s, the nats command needs %q; want %s, %q",
				tt.prefix, put, c.NATSFlags(), tt.put, tt.flags)
		}
	}
}

// What a context has that would do nothing, or cannot be used, is named.
func TestContextMistakes(t *testing.T) {
	for _, tt := range []struct{ content, want string }{
		{`{"nsc": "nsc://o/a/u"}`, "NATS_CONTEXT: nsc: is not supported; accepted: creds, with the file"},
		{`{"windows_cert_store": "user"}`, "NATS_CONTEXT: windows_cert_store: is not supported"},
		{`{"user": 5}`, "NATS_CONTEXT: is no JSON of a context"},
		{`{"url": "http://h"}`, "NATS_URL (of NATS_CONTEXT): unknown scheme"},
		{`{"creds": "/none/x.creds"}`, "NATS_CREDS (of NATS_CONTEXT): open /none/x.creds: no such file"},
		{`{"user": "u", "password": "op://"}`, "NATS_PASSWORD (of NATS_CONTEXT): op:// is for people who are asked"},
		{`{"jetstream_domain": "a", "jetstream_api_prefix": "b"}`,
			"NATS_CONTEXT: jetstream_domain and jetstream_api_prefix"},
	} {
		_, err := ParseConnection([]string{"NATS_CONTEXT=" + context(t, tt.content)})
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s:\n got %v\nwant %s…", tt.content, err, tt.want)
		}
	}
}

// Secrets may be in other places, and are read again each time.
func TestCredentialsFromElsewhere(t *testing.T) {
	file := context(t, "first\n")
	c, err := ParseConnection([]string{"NATS_URL=h", "NATS_USER=u", "NATS_PASSWORD=file://" + file})
	if err != nil {
		t.Fatal(err)
	}
	for _, password := range []string{"first", "second"} {
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Auth.Credentials(); err != nil || got != (Credentials{User: "u", Password: password}) {
			t.Errorf("got %v, %v", got, err)
		}
	}
	c, err = ParseConnection([]string{"NATS_URL=h", "NATS_TOKEN=data:;base64,aHVudGVyMg=="})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Auth.Credentials(); err != nil || got.Token != "hunter2" {
		t.Errorf("got %v, %v", got, err)
	}
}
