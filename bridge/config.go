package bridge

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
	"github.com/nats-io/nkeys"

	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// Settings are the environment variables as they are set: text, not looked at
// yet. [ParseConfig] makes a [Config] of them. The order, the defaults and the
// descriptions are those that `ifacebridge config` shows.
type Settings struct {
	URL      string `envconfig:"NATS_URL" desc:"servers, comma-separated; unset: the embedded server"`
	Creds    string `envconfig:"NATS_CREDS" desc:"file with a user's JWT and seed"`
	NKey     string `envconfig:"NATS_NKEY" desc:"file with an nkey seed"`
	User     string `envconfig:"NATS_USER" desc:"user name"`
	Password string `envconfig:"NATS_PASSWORD" desc:"password of NATS_USER" secret:"true"`
	Token    string `envconfig:"NATS_TOKEN" desc:"token" secret:"true"`
	CA       string `envconfig:"NATS_CA" desc:"file with the certificate authorities to trust (PEM)"`
	Cert     string `envconfig:"NATS_CERT" desc:"file with the client certificate (PEM)"`
	Key      string `envconfig:"NATS_KEY" desc:"file with the key of NATS_CERT (PEM)"`

	Host      string `envconfig:"IFACE_HOST" desc:"name of this host in subjects and events; unset: the kernel's host name"`
	Prefix    string `envconfig:"IFACE_SUBJECT_PREFIX" default:"iface" desc:"first token or tokens of the subjects"`
	Delivery  string `envconfig:"IFACE_DELIVERY" default:"jetstream" desc:"jetstream: stored, in order, exactly once; core: plain NATS, at least once to the server"`
	Stream    string `envconfig:"IFACE_STREAM" default:"IFACE" desc:"stream, created if it is missing"`
	Bucket    string `envconfig:"IFACE_BUCKET" default:"iface_links" desc:"KV bucket with the current state of every link, created if it is missing"`
	Replicas  string `envconfig:"IFACE_REPLICAS" default:"1" desc:"replicas of a stream and a bucket that we create, 1 to 5"`
	MaxAge    string `envconfig:"IFACE_MAX_AGE" default:"168h" desc:"how long a stream that we create keeps events; 0: for ever"`
	Include   string `envconfig:"IFACE_INCLUDE" desc:"publish only these links: globs over names, kind:<info_kind>, or netns:<glob>, comma-separated; unset: all"`
	Exclude   string `envconfig:"IFACE_EXCLUDE" desc:"do not publish these links, written like IFACE_INCLUDE"`
	Netns     string `envconfig:"IFACE_NETNS" default:"self" desc:"network namespaces to watch, comma-separated: self, names or globs under /run/netns, paths, all"`
	Resync    string `envconfig:"IFACE_RESYNC" default:"5m" desc:"compare with a dump this often, for what the kernel does not announce; 0: never"`
	Coalesce  string `envconfig:"IFACE_COALESCE" default:"0" desc:"fold the events of one link within this time into one"`
	Queue     string `envconfig:"IFACE_QUEUE" default:"65536" desc:"events held while NATS is away, before they are folded link by link"`
	ReadBuf   string `envconfig:"IFACE_RCVBUF" default:"64MiB" desc:"netlink receive buffer to ask for"`
	SpoolDir  string `envconfig:"IFACE_SPOOL_DIR" desc:"keep events that NATS has not confirmed in this directory, across a crash of the bridge too; unset: in memory only"`
	HTTPAddr  string `envconfig:"IFACE_HTTP_ADDR" default:"127.0.0.1:9469" desc:"address of /healthz, /readyz and /metrics; empty: none"`
	Pprof     string `envconfig:"IFACE_PPROF" default:"off" desc:"on: serve Go profiles under /debug/pprof/ on IFACE_HTTP_ADDR, to whoever reaches it"`
	StoreDir  string `envconfig:"IFACE_STORE_DIR" desc:"where the embedded server keeps its streams; unset: ifacebridge in the user's state directory"`
	LogLevel  string `envconfig:"IFACE_LOG_LEVEL" default:"info" desc:"debug, info, warn or error"`
	LogFormat string `envconfig:"IFACE_LOG_FORMAT" default:"text" desc:"text or json"`
}

// A Config is settings that were found good.
type Config struct {
	Servers []string // NATS URLs; empty means the embedded server
	Auth    Auth

	Host, Token string // the host's name, and as a subject token
	Prefix      string
	Delivery    Delivery
	Stream      string
	Bucket      string
	Replicas    int
	MaxAge      time.Duration
	Netns       netlinksrc.Selection
	Filter      Filter
	Resync      time.Duration // 0: never
	Coalesce    time.Duration
	Queue       int    // events
	ReadBuffer  int    // bytes
	SpoolDir    string // "": none
	HTTPAddr    string // "": none
	Pprof       bool   // on it
	StoreDir    string
	LogLevel    string
	LogFormat   string

	Version string // of the program, for those who ask; not a setting
}

// DefaultHTTPAddr is where health and metrics are served unless it is set.
const DefaultHTTPAddr = "127.0.0.1:9469"

// Auth is how to authenticate to NATS: one way at most, and TLS.
type Auth struct {
	CredsFile, NKeyFile       string
	User, Password, Token     string
	CAFile, CertFile, KeyFile string
}

// Delivery is what publishing promises.
type Delivery string

const (
	JetStream Delivery = "jetstream" // stored, in order, exactly once
	Core      Delivery = "core"      // plain NATS, confirmed by flush
)

// A ConfigError lists every mistake in the settings, one a line: the variable,
// the reason, and what is accepted. It holds no secret.
type ConfigError []string

func (e ConfigError) Error() string { return strings.Join(e, "\n") }

// A Variable is one environment variable: what it is for and what it is set to,
// masked when it is a secret.
type Variable struct {
	Name, Default, Description, Value string
	Set                               bool
}

// LoadSettings reads the settings from the process's environment. A variable
// that is set but empty counts as unset, except for IFACE_HOST.
func LoadSettings() (Settings, error) {
	var s Settings
	if err := envconfig.Process("", &s); err != nil {
		return s, err // cannot be: every field is text
	}
	v := reflect.ValueOf(&s).Elem()
	for i := range v.NumField() {
		field := v.Type().Field(i)
		_, set := os.LookupEnv(field.Tag.Get("envconfig"))
		keepsEmpty := set && field.Name == "HTTPAddr"
		if strings.TrimSpace(v.Field(i).String()) == "" && !keepsEmpty {
			v.Field(i).SetString(field.Tag.Get("default"))
		}
	}
	return s, nil
}

// Variables describes every variable, with what it is set to now.
func (s Settings) Variables() []Variable {
	v := reflect.ValueOf(s)
	var list []Variable
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name := tag.Get("envconfig")
		value := v.Field(i).String()
		switch {
		case tag.Get("secret") != "" && value != "":
			value = "(secret)"
		case name == "NATS_URL":
			value = redactURLs(value)
		}
		list = append(list, Variable{
			Name: name, Default: tag.Get("default"), Description: tag.Get("desc"),
			Value: value, Set: os.Getenv(name) != "",
		})
	}
	return list
}

// RedactURLs joins URLs for a person to read, without their passwords and tokens.
func RedactURLs(urls []string) string { return redactURLs(strings.Join(urls, ",")) }

// redactURLs hides passwords and tokens in comma-separated URLs.
func redactURLs(list string) string {
	urls := splitList(list)
	for i, raw := range urls {
		scheme, rest, ok := strings.Cut(raw, "://")
		if !ok {
			scheme, rest = "nats", raw
		}
		if at := strings.LastIndex(rest, "@"); at >= 0 {
			urls[i] = scheme + "://(secret)@" + rest[at+1:]
		}
	}
	return strings.Join(urls, ",")
}

// ParseConfig checks the settings. environ is the environment ("NAME=value"),
// in which it looks for IFACE_* variables that do not exist. The error is a
// [ConfigError].
func ParseConfig(s Settings, environ []string) (Config, error) {
	p := parser{}
	c := Config{
		Servers:    p.servers(s.URL),
		Auth:       Auth{s.Creds, s.NKey, s.User, s.Password, s.Token, s.CA, s.Cert, s.Key},
		Host:       p.host(s.Host, environ),
		Prefix:     p.prefix(s.Prefix),
		Delivery:   Delivery(p.oneOf("IFACE_DELIVERY", s.Delivery, string(JetStream), string(Core))),
		Stream:     p.name("IFACE_STREAM", s.Stream),
		Bucket:     p.name("IFACE_BUCKET", s.Bucket),
		Replicas:   p.number("IFACE_REPLICAS", s.Replicas, 1, 5),
		MaxAge:     p.duration("IFACE_MAX_AGE", s.MaxAge),
		Netns:      p.netns(s.Netns),
		Filter:     Filter{p.patterns("IFACE_INCLUDE", s.Include), p.patterns("IFACE_EXCLUDE", s.Exclude)},
		Resync:     p.duration("IFACE_RESYNC", s.Resync),
		Coalesce:   p.duration("IFACE_COALESCE", s.Coalesce),
		Queue:      p.number("IFACE_QUEUE", s.Queue, 1, 1<<24),
		ReadBuffer: p.size("IFACE_RCVBUF", s.ReadBuf, 4<<10, 1<<30),
		SpoolDir:   s.SpoolDir,
		HTTPAddr:   p.address("IFACE_HTTP_ADDR", s.HTTPAddr),
		Pprof:      p.oneOf("IFACE_PPROF", s.Pprof, "off", "on") == "on",
		StoreDir:   s.StoreDir,
		LogLevel:   p.oneOf("IFACE_LOG_LEVEL", strings.ToLower(s.LogLevel), "debug", "info", "warn", "error"),
		LogFormat:  p.oneOf("IFACE_LOG_FORMAT", s.LogFormat, "text", "json"),
	}
	if c.Host != "" {
		c.Token, _ = schema.HostToken(c.Host) // fails for an empty name only
	}
	if c.Pprof && c.HTTPAddr == "" {
		p.mistake("IFACE_PPROF, IFACE_HTTP_ADDR", "profiles are served on an address, and that is off", "", "IFACE_PPROF=off, or an address")
	}
	p.auth(c.Auth)
	p.unknown(environ)
	if len(p.mistakes) > 0 {
		return Config{}, ConfigError(p.mistakes)
	}
	return c, nil
}

// ParseConnection is ParseConfig for commands that only read from NATS: it
// looks at the NATS_* variables and the names.
func ParseConnection(s Settings, environ []string) (Config, error) {
	s.Host = "unused"
	cfg, err := ParseConfig(s, slices.DeleteFunc(slices.Clone(environ), func(v string) bool { return strings.HasPrefix(v, "IFACE_HOST=") }))
	cfg.Host, cfg.Token = "", ""
	return cfg, err
}

// parser collects mistakes.
type parser struct{ mistakes []string }

func (p *parser) mistake(variable, reason, got, accepted string) {
	m := variable + ": " + reason
	if got != "" {
		m += fmt.Sprintf(" (got %q)", got)
	}
	if accepted != "" {
		m += "; accepted: " + accepted
	}
	p.mistakes = append(p.mistakes, m)
}

func (p *parser) host(name string, environ []string) string {
	const accepted = "any name that is not empty"
	if slices.Contains(environ, "IFACE_HOST=") {
		p.mistake("IFACE_HOST", "is set but empty", "", accepted+", or unset for the kernel's host name")
		return ""
	}
	if name != "" {
		return name
	}
	name, err := os.Hostname()
	if err != nil || name == "" {
		p.mistake("IFACE_HOST", "is unset and the kernel has no host name", "", accepted)
	}
	return name
}

func (p *parser) servers(list string) []string {
	const accepted = "nats://host[:port], tls://, ws:// or wss://, comma-separated"
	var servers []string
	for _, raw := range splitList(list) {
		if !strings.Contains(raw, "://") {
			raw = "nats://" + raw
		}
		u, err := url.Parse(raw)
		var parseErr *url.Error
		switch {
		case errors.As(err, &parseErr):
			// Only the inner error: the outer one quotes the URL with its password.
			p.mistake("NATS_URL", "does not parse: "+withoutQuotes(parseErr.Err.Error()), "", accepted)
		case u.Hostname() == "":
			p.mistake("NATS_URL", "names no host", redactURLs(raw), accepted)
		case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
			p.mistake("NATS_URL", "unknown scheme", u.Scheme, accepted)
		default:
			servers = append(servers, raw)
		}
	}
	return servers
}

// withoutQuotes cuts an error text before what it quotes of its input.
func withoutQuotes(s string) string {
	s, _, _ = strings.Cut(s, `"`)
	return strings.TrimRight(s, ` :`)
}

func splitList(list string) []string {
	var parts []string
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

func (p *parser) prefix(s string) string {
	for token := range strings.SplitSeq(s, ".") {
		if token == "" || strings.ContainsAny(token, "*> \t\r\n") || strings.HasPrefix(s, "$") {
			p.mistake("IFACE_SUBJECT_PREFIX", "is no subject", s, "one or more tokens joined by '.', without wildcards or spaces")
			break
		}
	}
	return s
}

// name is a stream's or bucket's name (the NATS server's rule: no subject syntax,
// no path separators).
func (p *parser) name(variable, s string) string {
	if s == "" || strings.ContainsAny(s, ".*>/\\ \t\r\n") {
		p.mistake(variable, "is no name", s, "letters, digits, '-' and '_'")
	}
	return s
}

func (p *parser) oneOf(variable, s string, accepted ...string) string {
	if !slices.Contains(accepted, s) {
		p.mistake(variable, "unknown value", s, strings.Join(accepted, ", "))
	}
	return s
}

func (p *parser) patterns(variable, list string) []pattern {
	patterns, err := parsePatterns(list)
	if err != nil {
		p.mistake(variable, err.Error(), "", filterAccepted)
	}
	return patterns
}

func (p *parser) netns(list string) netlinksrc.Selection {
	const accepted = "self, all, names or globs under " + netlinksrc.NameDir + ", absolute paths, comma-separated"
	s, err := netlinksrc.ParseSelection(list)
	if err != nil {
		p.mistake("IFACE_NETNS", err.Error(), "", accepted)
	} else if s.OnlySelf() && !s.Self {
		p.mistake("IFACE_NETNS", "names no namespace", list, accepted)
	}
	return s
}

func (p *parser) number(variable, s string, low, high int) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		p.mistake(variable, "is no number in range", s, fmt.Sprintf("%d to %d", low, high))
	}
	return n
}

func (p *parser) duration(variable, s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		p.mistake(variable, "is no duration", s, "0, or a number with a unit such as 300ms, 5m or 168h")
	}
	return d
}

func (p *parser) size(variable, s string, low, high int) int {
	digits, unit := s, 1
	for suffix, factor := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			digits, unit = rest, factor
		}
	}
	n, err := strconv.Atoi(strings.TrimSpace(digits))
	if err != nil || n < 0 || n > high/unit || n*unit < low {
		p.mistake(variable, "is no size in range", s, fmt.Sprintf("bytes, or a number with KiB, MiB or GiB; %d to %d bytes", low, high))
	}
	return n * unit
}

// address is a TCP address to listen on; empty is none.
func (p *parser) address(variable, s string) string {
	if s == "" {
		return s
	}
	_, port, err := net.SplitHostPort(s)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil && port != "" || n == 0 && port != "0" {
		p.mistake(variable, "is no address", s, "host:port, :port for all addresses, or empty for none")
	}
	return s
}

// auth checks that at most one way to authenticate is chosen, and that its files
// are there and hold what they should: a bridge that starts with a file that it
// cannot use would only say so in a loop.
func (p *parser) auth(a Auth) {
	var ways []string
	for _, way := range []struct{ variable, value string }{
		{"NATS_CREDS", a.CredsFile}, {"NATS_NKEY", a.NKeyFile}, {"NATS_USER", a.User}, {"NATS_TOKEN", a.Token},
	} {
		if way.value != "" {
			ways = append(ways, way.variable)
		}
	}
	if len(ways) > 1 {
		p.mistake(strings.Join(ways, ", "), "exclude each other", "", "one way to authenticate")
	}
	if a.Password != "" && a.User == "" {
		p.mistake("NATS_PASSWORD", "is set without NATS_USER", "", "both or none")
	}
	p.file("NATS_CREDS", a.CredsFile, "a file with a user's JWT and seed, as `nsc generate creds` writes it", func(b []byte) bool {
		_, err := nkeys.ParseDecoratedUserNKey(b)
		_, jwtErr := nkeys.ParseDecoratedJWT(b)
		return err == nil && jwtErr == nil
	})
	p.file("NATS_NKEY", a.NKeyFile, "a file with an nkey seed, as `nk -gen user` writes it", func(b []byte) bool {
		_, err := nkeys.ParseDecoratedNKey(b)
		return err == nil
	})
	p.file("NATS_CA", a.CAFile, "a file with certificates (PEM)", x509.NewCertPool().AppendCertsFromPEM)
	if (a.CertFile == "") != (a.KeyFile == "") {
		p.mistake("NATS_CERT, NATS_KEY", "one is set without the other", "", "both or none")
	} else if a.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile); err != nil {
			p.mistake("NATS_CERT, NATS_KEY", err.Error(), "", "a certificate and its key (PEM)")
		}
	}
}

// file checks that a file, if any, can be read and is good.
func (p *parser) file(variable, path, accepted string, good func([]byte) bool) {
	if path == "" {
		return
	}
	b, err := os.ReadFile(path)
	if err != nil {
		p.mistake(variable, err.Error(), "", accepted)
	} else if !good(b) {
		p.mistake(variable, "holds something else", path, accepted)
	}
}

// unknown finds IFACE_* variables that do not exist: a misspelt one would be
// ignored, and its owner believe that it holds.
func (p *parser) unknown(environ []string) {
	var known []string
	for _, v := range (Settings{}).Variables() {
		known = append(known, v.Name)
	}
	for _, pair := range environ {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "IFACE_") && name != "IFACE_TEST_REQUIRE" && !slices.Contains(known, name) {
			var ours []string
			for _, k := range known {
				if strings.HasPrefix(k, "IFACE_") {
					ours = append(ours, k)
				}
			}
			p.mistake(name, "is no variable of ifacebridge", "", strings.Join(ours, ", "))
		}
	}
}
