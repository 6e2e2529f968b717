package bridge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// defaults are the settings of an empty environment.
func defaults(t *testing.T, change func(*Settings)) Settings {
	t.Helper()
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "IFACE_") || strings.HasPrefix(name, "NATS_") {
			t.Setenv(name, "")
		}
	}
	s, err := LoadSettings()
	if err != nil {
		t.Fatal(err)
	}
	s.Host = "web01.example.com"
	if change != nil {
		change(&s)
	}
	return s
}

func TestParseConfigDefaults(t *testing.T) {
	got, err := ParseConfig(defaults(t, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Servers) != 0 || got.Token != "web01_example_com" || got.Prefix != "iface" || got.Delivery != JetStream ||
		got.Stream != "IFACE" || got.Replicas != 1 || got.MaxAge != 168*time.Hour || got.Queue != 65536 ||
		got.ReadBuffer != 64<<20 || got.Resync != 5*time.Minute || got.Coalesce != 0 || got.LogLevel != "info" || got.LogFormat != "text" {
		t.Errorf("got %+v", got)
	}
}

func TestParseConfig(t *testing.T) {
	got, err := ParseConfig(defaults(t, func(s *Settings) {
		s.URL = " nats://a:4222, tls://b ,c:4333"
		s.ReadBuf, s.Queue, s.Include = "64KiB", "7", "eth*, kind:veth ,"
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(got.Servers, " ") != "nats://a:4222 tls://b nats://c:4333" || got.ReadBuffer != 64<<10 || got.Queue != 7 || len(got.Filter.include) != 2 {
		t.Errorf("got %+v", got)
	}
}

// The message is the interface of a failure: what is wrong, why, what is accepted.
func TestParseConfigMistakes(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		change  func(*Settings)
		environ []string
		want    string
	}{
		{"an empty host", nil, []string{"IFACE_HOST="}, `IFACE_HOST: is set but empty; accepted: any name that is not empty, or unset for the kernel's host name`},
		{"a URL that does not parse", func(s *Settings) { s.URL = "nats://u:hunter2@h:port" }, nil,
			`NATS_URL: does not parse: invalid port; accepted: nats://host[:port], tls://, ws:// or wss://, comma-separated`},
		{"a URL without a host", func(s *Settings) { s.URL = "nats://u:hunter2@:4222" }, nil,
			`NATS_URL: names no host (got "nats://(secret)@:4222"); accepted: nats://host[:port], tls://, ws:// or wss://, comma-separated`},
		{"another scheme", func(s *Settings) { s.URL = "http://h" }, nil,
			`NATS_URL: unknown scheme (got "http"); accepted: nats://host[:port], tls://, ws:// or wss://, comma-separated`},
		{"a missing file", func(s *Settings) { s.Creds = dir + "/none" }, nil,
			"NATS_CREDS: open " + dir + "/none: no such file or directory; accepted: a file with a user's JWT and seed, as `nsc generate creds` writes it"},
		{"a file with something else", func(s *Settings) { s.NKey = empty }, nil,
			`NATS_NKEY: holds something else (got "` + empty + "\"); accepted: a file with an nkey seed, as `nk -gen user` writes it"},
		{"two ways to authenticate", func(s *Settings) { s.User, s.Password, s.Token = "u", "hunter2", "hunter3" }, nil,
			`NATS_USER, NATS_TOKEN: exclude each other; accepted: one way to authenticate`},
		{"a password without a user", func(s *Settings) { s.Password = "hunter2" }, nil, `NATS_PASSWORD: is set without NATS_USER; accepted: both or none`},
		{"a certificate without its key", func(s *Settings) { s.Cert = empty }, nil, `NATS_CERT, NATS_KEY: one is set without the other; accepted: both or none`},
		{"a subject with a wildcard", func(s *Settings) { s.Prefix = "a.*" }, nil,
			`IFACE_SUBJECT_PREFIX: is no subject (got "a.*"); accepted: one or more tokens joined by '.', without wildcards or spaces`},
		{"a delivery", func(s *Settings) { s.Delivery = "pigeon" }, nil, `IFACE_DELIVERY: unknown value (got "pigeon"); accepted: jetstream, core`},
		{"a stream", func(s *Settings) { s.Stream = "a.b" }, nil, `IFACE_STREAM: is no name (got "a.b"); accepted: letters, digits, '-' and '_'`},
		{"replicas", func(s *Settings) { s.Replicas = "six" }, nil, `IFACE_REPLICAS: is no number in range (got "six"); accepted: 1 to 5`},
		{"an age", func(s *Settings) { s.MaxAge = "-1h" }, nil, `IFACE_MAX_AGE: is no duration (got "-1h"); accepted: 0, or a number with a unit such as 300ms, 5m or 168h`},
		{"a queue", func(s *Settings) { s.Queue = "0" }, nil, `IFACE_QUEUE: is no number in range (got "0"); accepted: 1 to 16777216`},
		{"a size", func(s *Settings) { s.ReadBuf = "8MB" }, nil, `IFACE_RCVBUF: is no size in range (got "8MB"); accepted: bytes, or a number with KiB, MiB or GiB; 4096 to 1073741824 bytes`},
		{"a glob", func(s *Settings) { s.Include = "[" }, nil, `IFACE_INCLUDE: syntax error in pattern (got "["); accepted: globs over interface names, kind:<info_kind>, or netns:<glob>, comma-separated`},
		{"a kind", func(s *Settings) { s.Exclude = "kind:" }, nil, `IFACE_EXCLUDE: kind without a name (got "kind:"); accepted: globs over interface names, kind:<info_kind>, or netns:<glob>, comma-separated`},
		{"a namespace that is no glob", func(s *Settings) { s.Netns = "self,[" }, nil, `IFACE_NETNS: syntax error in pattern (got "/run/netns/["); accepted: self, all, names or globs under /run/netns, absolute paths, comma-separated`},
		{"a namespace by a relative path", func(s *Settings) { s.Netns = "blue,ns/net" }, nil, `IFACE_NETNS: a path that does not begin with '/' (got "ns/net"); accepted: self, all, names or globs under /run/netns, absolute paths, comma-separated`},
		{"no namespace", func(s *Settings) { s.Netns = " , " }, nil, `IFACE_NETNS: names no namespace (got " , "); accepted: self, all, names or globs under /run/netns, absolute paths, comma-separated`},
		{"a namespace's filter", func(s *Settings) { s.Exclude = "netns:" }, nil, `IFACE_EXCLUDE: netns without a name (got "netns:"); accepted: globs over interface names, kind:<info_kind>, or netns:<glob>, comma-separated`},
		{"an HTTP address", func(s *Settings) { s.HTTPAddr = "localhost" }, nil, `IFACE_HTTP_ADDR: is no address (got "localhost"); accepted: host:port, :port for all addresses, or empty for none`},
		{"a log level", func(s *Settings) { s.LogLevel = "loud" }, nil, `IFACE_LOG_LEVEL: unknown value (got "loud"); accepted: debug, info, warn, error`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseConfig(defaults(t, tt.change), tt.environ)
			if err == nil || err.Error() != tt.want {
				t.Errorf("\n got %v\nwant %s", err, tt.want)
			}
		})
	}
}

// Every mistake is named at once, an unknown variable is one, and a secret is in
// none of them.
func TestParseConfigNamesAllMistakes(t *testing.T) {
	_, err := ParseConfig(defaults(t, func(s *Settings) {
		s.URL, s.Password, s.Queue = "nats://u:hunter2@h:x", "hunter2", "hunter"
	}), []string{"IFACE_QUEU=5", "PATH=/bin", "IFACE_LOG_LEVEL=info"})
	text := err.Error()
	if lines := strings.Split(text, "\n"); len(lines) != 4 {
		t.Errorf("got %d mistakes, want 4:\n%s", len(lines), text)
	}
	if !strings.Contains(text, "IFACE_QUEU: is no variable of ifacebridge; accepted: IFACE_HOST, ") {
		t.Errorf("got %s", text)
	}
	if strings.Contains(text, "hunter2") {
		t.Errorf("a secret is shown:\n%s", text)
	}
}

func TestVariablesMaskSecrets(t *testing.T) {
	s := defaults(t, func(s *Settings) {
		s.URL, s.Password, s.Token = "nats://u:hunter2@h,tls://hunter2@i:1,hunter2@j", "hunter2", "hunter2"
	})
	for _, v := range s.Variables() {
		if strings.Contains(v.Value, "hunter2") {
			t.Errorf("%s shows its secret: %s", v.Name, v.Value)
		}
		if v.Name == "NATS_URL" && v.Value != "nats://(secret)@h,tls://(secret)@i:1,nats://(secret)@j" {
			t.Errorf("NATS_URL is shown as %s", v.Value)
		}
	}
}
