package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

func TestParseDefaults(t *testing.T) {
	got, err := Parse([]string{"IFACE_HOST=web01.example.com", "HOME=/home/u", "PATH=/bin"})
	want := Config{
		Host: "web01.example.com", Token: "web01_example_com", Prefix: "iface", Delivery: JetStream,
		Stream: "IFACE", Replicas: 1, MaxAge: 168 * time.Hour,
		Bucket: "iface_links", HostsBucket: "iface_hosts", Presence: 30 * time.Second,
		Netns: netlinksrc.Selection{Self: true}, Resync: 5 * time.Minute,
		Queue: QueueLimit{65536, 32 << 20}, ReadBuffer: 64 << 20,
		HTTPAddr: "127.0.0.1:9469", StoreDir: "/home/u/.local/state/ifacebridge", LogLevel: "info", LogFormat: "text",
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestParse(t *testing.T) {
	got, err := Parse([]string{
		"NATS_URL= nats://a:4222, tls://b ,c:4333", "IFACE_RCVBUF=64KiB", "IFACE_INCLUDE=eth*, kind:veth ,",
		"IFACE_QUEUE=6", "IFACE_QUEUE=7", "IFACE_RESYNC= ", "IFACE_HTTP_ADDR=", "IFACE_LOG_LEVEL=WARN",
		"IFACE_TEST_SEED=1", "XDG_STATE_HOME=/state", "HOME=/home/u",
	})
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if servers := strings.Join(got.Servers, " "); servers != "nats://a:4222 tls://b nats://c:4333" {
		t.Errorf("servers: %s", servers)
	}
	if got.ReadBuffer != 64<<10 || len(got.Filter.include) != 2 {
		t.Errorf("got %+v", got)
	}
	if got.Queue != (QueueLimit{7, 32 << 20}) {
		t.Errorf("of two values the later counts, as in a process's environment: got %v", got.Queue)
	}
	if got.Host != kernel || got.Resync != 5*time.Minute || got.HTTPAddr != "" {
		t.Errorf("blank is unset, but turns the address off: got %q, %v, %q", got.Host, got.Resync, got.HTTPAddr)
	}
	if got.LogLevel != "warn" || got.StoreDir != "/state/ifacebridge" {
		t.Errorf("got %q, %q", got.LogLevel, got.StoreDir)
	}
}

// What is not in the environment that Parse is given does not count, wherever the
// process has it.
func TestParseReadsNotTheProcess(t *testing.T) {
	t.Setenv("IFACE_STREAM", "PROCESS")
	t.Setenv("IFACE_NO_SUCH", "1")
	t.Setenv("HOME", "/home/process")
	got, err := ParseConnection(nil)
	if err != nil || got.Stream != "IFACE" || got.StoreDir != "" || got.Host != "" || got.InboxPrefix() != "" {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, v := range Variables([]string{"IFACE_QUEUE=7"}) {
		switch {
		case v.Name == "IFACE_STREAM" && v.Value != "IFACE":
			t.Errorf("%s is shown as %s", v.Name, v.Value)
		case v.Name == "IFACE_QUEUE" && v.Value != "7":
			t.Errorf("%s is shown as %s", v.Name, v.Value)
		}
	}
}

const (
	acceptedSecret = "accepted: the secret, or file:// and the path of a file with it"
	acceptedHost   = "accepted: any name that is not empty, or unset for the kernel's host name"
	acceptedNetns  = "self, all, names or globs under /run/netns, absolute paths, comma-separated"
	acceptedGlobs  = "globs over interface names, kind:<info_kind>, or netns:<glob>, comma-separated"
)

// The message is the interface of a failure: what is wrong, why, what is accepted.
func TestParseMistakes(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, set string // set: variables, one a word
		want      string
	}{
		{"an empty host", "IFACE_HOST=",
			"IFACE_HOST: is set but empty; " + acceptedHost},
		{"a URL that does not parse", "NATS_URL=nats://u:hunter2@h:port",
			"NATS_URL: does not parse: invalid port; accepted: " + acceptedURLs},
		{"a URL without a host", "NATS_URL=nats://u:hunter2@:4222",
			`NATS_URL: names no host (got "nats://(secret)@:4222"); accepted: ` + acceptedURLs},
		{"another scheme", "NATS_URL=http://h",
			`NATS_URL: unknown scheme (got "http"); accepted: ` + acceptedURLs},
		{"a missing file", "NATS_CREDS=" + dir + "/none",
			"NATS_CREDS: open " + dir + "/none: no such file or directory; " +
				"accepted: a file with a user's JWT and seed, as `nsc generate creds` writes it"},
		{"a file with something else", "NATS_NKEY=" + empty,
			`NATS_NKEY: has the wrong content (got "` + empty + `"); ` +
				"accepted: a file with an nkey seed, as `nk -gen user` writes it"},
		{"a seed in the place of its file", "NATS_NKEY=SUAD7UIJ52MSR7C5E5W342SBQRD3CUSOXNMALO4COCP7NGNVVP4S6O2GDY",
			"NATS_NKEY: is the secret, not the path of a file; " +
				"accepted: a file with an nkey seed, as `nk -gen user` writes it"},
		{"a token in an empty file", "NATS_TOKEN=file://" + empty,
			"NATS_TOKEN: what it refers to is empty; " + acceptedSecret},
		{"a user in an empty file", "NATS_USER=file://" + empty,
			"NATS_USER: what it refers to is empty; " + acceptedSecret},
		{"a password in an empty file", "NATS_USER=u NATS_PASSWORD=file://" + empty,
			"NATS_PASSWORD: what it refers to is empty; " + acceptedSecret},
		{"a JWT that is none", "NATS_JWT=/run/hunter2.jwt",
			"NATS_JWT: has the wrong content; accepted: a user's JWT, or file:// and the path of a file with it"},
		{"a seed alone", "NATS_SEED=hunter2", "NATS_SEED: is set without NATS_JWT; accepted: both or none"},
		{"a variable of the nats command", "NATS_TIMEOUT=5s",
			"NATS_TIMEOUT: is for the nats command, and does nothing here; accepted: NATS_URL, NATS_CONTEXT, NATS_CREDS, " +
				"NATS_NKEY, NATS_USER, NATS_PASSWORD, NATS_TOKEN, NATS_JWT, NATS_SEED, NATS_CA, NATS_CERT, NATS_KEY, " +
				"NATS_SOCKS_PROXY"},
		{"WebSockets and others", "NATS_URL=ws://a,nats://u:hunter2@b",
			`NATS_URL: WebSockets and others do not go together (got "ws://a,nats://(secret)@b"); accepted: ` + acceptedURLs},
		{"TLS first over WebSockets", "NATS_URL=wss://a IFACE_TLS_FIRST=on",
			"IFACE_TLS_FIRST: is not for WebSockets, where TLS is first always; accepted: off, with wss:// in NATS_URL"},
		{"a domain", "IFACE_JS_DOMAIN=a.b",
			`IFACE_JS_DOMAIN: not the name of a domain (got "a.b"); accepted: one token, without '.', wildcards or spaces`},
		{"an inbox prefix", "IFACE_INBOX_PREFIX=_INBOX.>",
			`IFACE_INBOX_PREFIX: not a subject (got "_INBOX.>"); ` +
				`accepted: one or more tokens joined by '.', without wildcards or spaces`},
		{"a proxy", "NATS_SOCKS_PROXY=ftp://u:hunter2@h",
			`NATS_SOCKS_PROXY: unknown scheme (got "ftp"); ` +
				`accepted: socks5://, socks5h:// or http://, with [user:password@]host[:port]`},
		{"two ways to authenticate", "NATS_USER=u NATS_PASSWORD=hunter2 NATS_TOKEN=hunter3",
			"NATS_USER, NATS_TOKEN: exclude each other; accepted: one way to authenticate"},
		{"a password without a user", "NATS_PASSWORD=hunter2",
			"NATS_PASSWORD: is set without NATS_USER; accepted: both or none"},
		{"a certificate without its key", "NATS_CERT=" + empty,
			"NATS_CERT, NATS_KEY: one is set without the other; accepted: both or none"},
		{"labels", "IFACE_LABELS=site=fra1,Rack=b12,row,hall=,=x,site=fra2",
			`IFACE_LABELS: "Rack=b12": the key has another character than a to z, 0 to 9, '_', '.' and '-'; ` +
				`"row": no value; "hall=": no value; "=x": no key; "site=fra2": the key is there twice; ` +
				"accepted: " + schema.LabelsAccepted},
		{"too many labels", "IFACE_LABELS=a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1,j=1,k=1,l=1,m=1,n=1,o=1,p=1,q=1",
			"IFACE_LABELS: 17 labels, more than 16; accepted: " + schema.LabelsAccepted},
		{"a subject with a wildcard", "IFACE_SUBJECT_PREFIX=a.*",
			`IFACE_SUBJECT_PREFIX: not a subject (got "a.*"); ` +
				`accepted: one or more tokens joined by '.', without wildcards or spaces`},
		{"a delivery", "IFACE_DELIVERY=pigeon",
			`IFACE_DELIVERY: unknown value (got "pigeon"); accepted: jetstream, core`},
		{"a stream", "IFACE_STREAM=a.b",
			`IFACE_STREAM: not a valid name (got "a.b"); accepted: letters, digits, '-' and '_'`},
		{"one bucket for both", "IFACE_BUCKET=b IFACE_HOSTS_BUCKET=b",
			`IFACE_BUCKET, IFACE_HOSTS_BUCKET: are the same bucket (got "b"); accepted: two names`},
		{"a presence", "IFACE_PRESENCE=1ms",
			`IFACE_PRESENCE: too short (got "1ms"); accepted: 0 for never, or 100ms and more`},
		{"a resync", "IFACE_RESYNC=5ms",
			`IFACE_RESYNC: too short (got "5ms"); accepted: 0 for never, or 100ms and more`},
		{"replicas", "IFACE_REPLICAS=six",
			`IFACE_REPLICAS: not a number in range (got "six"); accepted: 1 to 5`},
		{"an age", "IFACE_MAX_AGE=-1h",
			`IFACE_MAX_AGE: not a duration (got "-1h"); accepted: 0, or a number with a unit such as 300ms, 5m or 168h`},
		{"a queue", "IFACE_QUEUE=0",
			`IFACE_QUEUE: not a number or size in range (got "0"); ` +
				"accepted: 1 to 16777216 events, or a size from 64KiB to 1GiB"},
		{"a size", "IFACE_RCVBUF=8MB",
			`IFACE_RCVBUF: not a size in range (got "8MB"); ` +
				"accepted: bytes, or a number with KiB, MiB or GiB; 4096 to 1073741824 bytes"},
		{"a glob", "IFACE_INCLUDE=[",
			`IFACE_INCLUDE: syntax error in pattern (got "["); accepted: ` + acceptedGlobs},
		{"a kind", "IFACE_EXCLUDE=kind:",
			`IFACE_EXCLUDE: kind without a name (got "kind:"); accepted: ` + acceptedGlobs},
		{"a namespace's filter", "IFACE_EXCLUDE=netns:",
			`IFACE_EXCLUDE: netns without a name (got "netns:"); accepted: ` + acceptedGlobs},
		{"a namespace that is no glob", "IFACE_NETNS=self,[",
			`IFACE_NETNS: syntax error in pattern (got "/run/netns/["); accepted: ` + acceptedNetns},
		{"a namespace by a relative path", "IFACE_NETNS=blue,ns/net",
			`IFACE_NETNS: a path that does not begin with '/' (got "ns/net"); accepted: ` + acceptedNetns},
		{"no namespace", "IFACE_NETNS=,",
			`IFACE_NETNS: names no namespace (got ","); accepted: ` + acceptedNetns},
		{"an HTTP address", "IFACE_HTTP_ADDR=localhost",
			`IFACE_HTTP_ADDR: not an address (got "localhost"); ` +
				`accepted: host:port, :port for all addresses, or empty for none`},
		{"profiles without an address", "IFACE_HTTP_ADDR= IFACE_PPROF=on",
			"IFACE_PPROF, IFACE_HTTP_ADDR: profiles are served on an address, and that is off; " +
				"accepted: IFACE_PPROF=off, or an address"},
		{"a log level", "IFACE_LOG_LEVEL=loud",
			`IFACE_LOG_LEVEL: unknown value (got "loud"); accepted: debug, info, warn, error`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(append([]string{"IFACE_HOST=web01"}, strings.Fields(tt.set)...))
			if err == nil || err.Error() != tt.want {
				t.Errorf("\n got %v\nwant %s", err, tt.want)
			}
		})
	}
}

// A name out of a file or a script has a line break at its end, which would be a part of the
// subjects.
func TestParseHost(t *testing.T) {
	const space = "has white space at its ends, or control characters"
	for name, mistake := range map[string]string{
		"web01": "", "web 01's": "", "wéb": "",
		"web01\n": space, " web01": space, "we\tb": space, "w\u009bb": space, "w\xe9b": "is not UTF-8",
	} {
		_, err := Parse([]string{"IFACE_HOST=" + name})
		want := fmt.Sprintf("IFACE_HOST: %s (got %q); %s", mistake, name, acceptedHost)
		if mistake == "" != (err == nil) || err != nil && err.Error() != want {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

// Every mistake is named at once, an unknown variable is one, and a secret is in
// none of them.
func TestParseNamesAllMistakes(t *testing.T) {
	_, err := Parse([]string{"NATS_URL=nats://u:hunter2@h:x", "NATS_PASSWORD=hunter2", "IFACE_QUEUE=hunter",
		"IFACE_QUEU=5", "PATH=/bin", "IFACE_LOG_LEVEL=info", "IFACE_HOST=web01"})
	text := err.Error()
	if lines := strings.Split(text, "\n"); len(lines) != 4 {
		t.Errorf("got %d mistakes, want 4:\n%s", len(lines), text)
	}
	if !strings.Contains(text, "IFACE_QUEU: unknown variable; accepted: IFACE_HOST, ") {
		t.Errorf("got %s", text)
	}
	if strings.Contains(text, "hunter2") {
		t.Errorf("a secret is shown:\n%s", text)
	}
}

// Neither the table of the settings nor the mistakes in them show a secret, whatever way it came.
func TestVariablesMaskSecrets(t *testing.T) {
	const (
		data = "data:;base64,aHVudGVyMg=="
		seed = "SUAD7UIJ52MSR7C5E5W342SBQRD3CUSOXNMALO4COCP7NGNVVP4S6O2GDY"
		pem  = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n"
	)
	context := context(t, `{"creds": "`+data+`"}`)
	for _, tt := range []struct{ variable, value, want string }{
		{"NATS_URL", "nats://u:hunter2@h,tls://hunter2@i:1,hunter2@j",
			"nats://(secret)@h,tls://(secret)@i:1,nats://(secret)@j"},
		{"NATS_URL", "nats://u:hun,ter2@h", "(does not parse),nats://(secret)@h"},
		{"NATS_URL", "h,127.0.0.1:4222, nats://[::1]:4222", "h,127.0.0.1:4222,nats://[::1]:4222"},
		{"NATS_SOCKS_PROXY", "socks5://u:hun,ter2@h:1080", "socks5://(secret)@h:1080"},
		{"NATS_SOCKS_PROXY", "socks5://u:hunter2", "(does not parse)"},
		{"NATS_PASSWORD", "hunter2", "(secret)"},
		{"NATS_TOKEN", "hunter2", "(secret)"},
		{"NATS_CREDS", "/etc/hunter.creds", "/etc/hunter.creds"},
		{"NATS_CREDS", data, "(secret)"},
		{"NATS_CREDS", " " + data, "(secret)"},
		{"NATS_NKEY", data, "(secret)"},
		{"NATS_NKEY", seed, "(secret)"},
		{"NATS_KEY", pem, "(secret)"},
		{"NATS_USER", data, "(secret)"},
	} {
		environ := []string{"IFACE_HOST=web01", "NATS_CERT=/none", tt.variable + "=" + tt.value}
		for _, v := range Variables(environ) {
			if v.Name == tt.variable && v.Value != tt.want {
				t.Errorf("%s=%s is shown as %q, want %q", v.Name, tt.value, v.Value, tt.want)
			}
		}
		_, err := Parse(environ)
		for _, secret := range []string{"hunter2", "hun,", "ter2", data, seed} {
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s=%s: a secret is in the mistakes: %v", tt.variable, tt.value, err)
			}
		}
	}
	for _, v := range Variables([]string{"NATS_CONTEXT=" + context}) {
		if strings.Contains(v.Value, data) {
			t.Errorf("%s shows the context's secret: %s", v.Name, v.Value)
		}
	}
}

// The command has what decides on the subjects, and nothing else.
func TestPermissionsCommand(t *testing.T) {
	for want, environ := range map[string][]string{
		"ifacebridge permissions web01.example.com": {"IFACE_HOST=web01.example.com", "NATS_URL=h", "IFACE_RESYNC=1s"},
		"ifacebridge permissions 'web 01'\\''s'":    {"IFACE_HOST=web 01's"},
		"ifacebridge permissions -- -x":             {"IFACE_HOST=-x"},
		"IFACE_JS_DOMAIN=hub IFACE_INBOX_PREFIX=_X IFACE_SUBJECT_PREFIX=eu.iface IFACE_STREAM=EU " +
			"IFACE_HOSTS_BUCKET=h ifacebridge permissions x": {
			"IFACE_HOST=x", "NATS_URL=h", "IFACE_JS_DOMAIN=hub", "IFACE_INBOX_PREFIX=_X",
			"IFACE_SUBJECT_PREFIX=eu.iface", "IFACE_STREAM=EU", "IFACE_HOSTS_BUCKET=h",
			"IFACE_BUCKET=eu_iface_links"},
		"IFACE_DELIVERY=core ifacebridge permissions x": {"IFACE_HOST=x", "IFACE_DELIVERY=core", "IFACE_STREAM=S"},
		"IFACE_PRESENCE=0 ifacebridge permissions x":    {"IFACE_HOST=x", "IFACE_PRESENCE=0"},
	} {
		c, err := Parse(environ)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.PermissionsCommand(); got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
		if c.Host, c.Token = "", ""; !strings.HasSuffix(c.PermissionsCommand(), "ifacebridge permissions --viewer") {
			t.Errorf("of a reader: %s", c.PermissionsCommand())
		}
		if c.Operator = true; !strings.HasSuffix(c.PermissionsCommand(), "ifacebridge permissions --operator") {
			t.Errorf("of an operator: %s", c.PermissionsCommand())
		}
	}
	file := context(t, `{"jetstream_api_prefix": "hub.API"}`)
	c, err := Parse([]string{"IFACE_HOST=x", "NATS_CONTEXT=" + file})
	if got, want := c.PermissionsCommand(), "NATS_CONTEXT="+file+" ifacebridge permissions x"; err != nil || got != want {
		t.Errorf("\n got %s, %v\nwant %s", got, err, want)
	}
}
