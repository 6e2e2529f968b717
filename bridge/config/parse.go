package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// A parser makes a Config of an environment, and collects all mistakes on the way.
type parser struct {
	env      environment
	mistakes []string
}

// mistake notes that a variable is wrong: "variable: reason (got value); accepted: …".
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

// result returns c when there were no mistakes.
func (p *parser) result(c Config) (Config, error) {
	if len(p.mistakes) > 0 {
		return Config{}, Error(p.mistakes)
	}
	return c, nil
}

// config is everything but the name of the host.
func (p *parser) config() Config {
	p.unknown()
	c := Config{
		Servers:     p.servers(),
		Auth:        p.auth(),
		Labels:      p.labels(),
		Prefix:      p.prefix(),
		Delivery:    Delivery(p.oneOf("IFACE_DELIVERY", string(JetStream), string(Core))),
		Stream:      p.name("IFACE_STREAM"),
		Bucket:      p.name("IFACE_BUCKET"),
		HostsBucket: p.name("IFACE_HOSTS_BUCKET"),
		Presence:    p.presence(),
		Replicas:    p.number("IFACE_REPLICAS", 1, 5),
		MaxAge:      p.duration("IFACE_MAX_AGE"),
		Netns:       p.netns(),
		Filter:      Filter{p.patterns("IFACE_INCLUDE"), p.patterns("IFACE_EXCLUDE")},
		Resync:      p.duration("IFACE_RESYNC"),
		Coalesce:    p.duration("IFACE_COALESCE"),
		Queue:       p.number("IFACE_QUEUE", 1, 1<<24),
		ReadBuffer:  p.size("IFACE_RCVBUF", 4<<10, 1<<30),
		SpoolDir:    p.env.get("IFACE_SPOOL_DIR"),
		HTTPAddr:    p.address("IFACE_HTTP_ADDR"),
		Pprof:       p.oneOf("IFACE_PPROF", "off", "on") == "on",
		StoreDir:    p.storeDir(),
		LogLevel:    p.oneOf("IFACE_LOG_LEVEL", "debug", "info", "warn", "error"),
		LogFormat:   p.oneOf("IFACE_LOG_FORMAT", "text", "json"),
	}
	if c.Pprof && c.HTTPAddr == "" {
		p.mistake("IFACE_PPROF, IFACE_HTTP_ADDR", "profiles are served on an address, and that is off", "",
			"IFACE_PPROF=off, or an address")
	}
	if c.HostsBucket == c.Bucket {
		p.mistake("IFACE_BUCKET, IFACE_HOSTS_BUCKET", "are the same bucket", c.Bucket, "two names")
	}
	return c
}

// presence is how often a host says that it is there. A server counts in seconds how long
// that is good for.
func (p *parser) presence() time.Duration {
	const name, least = "IFACE_PRESENCE", 100 * time.Millisecond
	d := p.duration(name)
	if 0 < d && d < least {
		p.mistake(name, "too short", d.String(), fmt.Sprintf("0 for never, or %v and more", least))
	}
	return d
}

// IsPlaceholder reports whether a host is called so before it is named: many are, and
// they must not be taken for one.
func IsPlaceholder(name string) bool {
	return slices.Contains([]string{"", "localhost", "localhost.localdomain", "(none)"}, name)
}

// host is the name of this host, and its token, and whether they are the kernel's. They
// are empty while the kernel has no name of its own for it.
func (p *parser) host() (name, token string, follow bool) {
	const accepted = "any name that is not empty"
	name, set := p.env["IFACE_HOST"]
	if set && strings.TrimSpace(name) == "" {
		p.mistake("IFACE_HOST", "is set but empty", "", accepted+", or unset for the kernel's host name")
		return "", "", false
	}
	if !set {
		var err error
		if name, err = os.Hostname(); err != nil {
			p.mistake("IFACE_HOST", "is unset and the kernel has no host name", "", accepted)
		}
		if IsPlaceholder(name) {
			return "", "", true
		}
	}
	token, _ = schema.HostToken(name) // fails for an empty name only
	return name, token, !set
}

func (p *parser) servers() []string {
	const accepted = "nats://host[:port], tls://, ws:// or wss://, comma-separated"
	var servers []string
	for _, raw := range splitList(p.env.get("NATS_URL")) {
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
			p.mistake("NATS_URL", "names no host", RedactURLs([]string{raw}), accepted)
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

func (p *parser) prefix() string {
	const name, accepted = "IFACE_SUBJECT_PREFIX", "one or more tokens joined by '.', without wildcards or spaces"
	s := p.env.get(name)
	for token := range strings.SplitSeq(s, ".") {
		if token == "" || strings.ContainsAny(token, "*> \t\r\n") || strings.HasPrefix(s, "$") {
			p.mistake(name, "not a subject", s, accepted)
			break
		}
	}
	return s
}

// name is a stream's or bucket's name (the NATS server's rule: no subject syntax,
// no path separators).
func (p *parser) name(variable string) string {
	s := p.env.get(variable)
	if strings.ContainsAny(s, ".*>/\\ \t\r\n") {
		p.mistake(variable, "not a valid name", s, "letters, digits, '-' and '_'")
	}
	return s
}

// oneOf is one of the accepted words, in whatever case it is written.
func (p *parser) oneOf(variable string, accepted ...string) string {
	s := p.env.get(variable)
	word := strings.ToLower(s)
	if !slices.Contains(accepted, word) {
		p.mistake(variable, "unknown value", s, strings.Join(accepted, ", "))
	}
	return word
}

func (p *parser) labels() schema.Labels {
	labels, err := schema.ParseLabels(p.env.get("IFACE_LABELS"))
	if err != nil {
		p.mistake("IFACE_LABELS", strings.ReplaceAll(err.Error(), "\n", "; "), "", schema.LabelsAccepted)
	}
	return labels
}

func (p *parser) patterns(variable string) []pattern {
	patterns, err := parsePatterns(p.env.get(variable))
	if err != nil {
		p.mistake(variable, err.Error(), "", filterAccepted)
	}
	return patterns
}

func (p *parser) netns() netlinksrc.Selection {
	const accepted = "self, all, names or globs under " + netlinksrc.NameDir + ", absolute paths, comma-separated"
	list := p.env.get("IFACE_NETNS")
	s, err := netlinksrc.ParseSelection(list)
	if err != nil {
		p.mistake("IFACE_NETNS", err.Error(), "", accepted)
	} else if s.OnlySelf() && !s.Self {
		p.mistake("IFACE_NETNS", "names no namespace", list, accepted)
	}
	return s
}

func (p *parser) number(variable string, low, high int) int {
	s := p.env.get(variable)
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		p.mistake(variable, "not a number in range", s, fmt.Sprintf("%d to %d", low, high))
	}
	return n
}

func (p *parser) duration(variable string) time.Duration {
	s := p.env.get(variable)
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		p.mistake(variable, "not a duration", s, "0, or a number with a unit such as 300ms, 5m or 168h")
	}
	return d
}

// size is a number of bytes.
func (p *parser) size(variable string, low, high int) int {
	s := p.env.get(variable)
	digits, unit := s, 1
	for suffix, factor := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			digits, unit = rest, factor
		}
	}
	n, err := strconv.Atoi(strings.TrimSpace(digits))
	if err != nil || n < 0 || n > high/unit || n*unit < low {
		p.mistake(variable, "not a size in range", s,
			fmt.Sprintf("bytes, or a number with KiB, MiB or GiB; %d to %d bytes", low, high))
	}
	return n * unit
}

// address is a TCP address to listen on; empty is none.
func (p *parser) address(variable string) string {
	s := p.env.get(variable)
	if s == "" {
		return s
	}
	_, port, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil && port != "" || n == 0 && port != "0" {
		p.mistake(variable, "not an address", s, "host:port, :port for all addresses, or empty for none")
	}
	return s
}

// storeDir is IFACE_STORE_DIR, or else ifacebridge in the user's state directory
// (XDG Base Directory Specification), if there is one.
func (p *parser) storeDir() string {
	if dir := p.env.get("IFACE_STORE_DIR"); dir != "" {
		return dir
	}
	if state := p.env["XDG_STATE_HOME"]; state != "" {
		return filepath.Join(state, "ifacebridge")
	}
	if home := p.env["HOME"]; home != "" {
		return filepath.Join(home, ".local", "state", "ifacebridge")
	}
	return ""
}

// auth checks that at most one way to authenticate is chosen, and that its files
// can be read and hold what they should: a bridge that started with a file it
// cannot use would only report that over and over.
func (p *parser) auth() Auth {
	a := Auth{
		CredsFile: p.env.get("NATS_CREDS"),
		NKeyFile:  p.env.get("NATS_NKEY"),
		User:      p.env.get("NATS_USER"),
		Password:  p.env.get("NATS_PASSWORD"),
		Token:     p.env.get("NATS_TOKEN"),
		CAFile:    p.env.get("NATS_CA"),
		CertFile:  p.env.get("NATS_CERT"),
		KeyFile:   p.env.get("NATS_KEY"),
	}
	var ways []string
	for _, variable := range []string{"NATS_CREDS", "NATS_NKEY", "NATS_USER", "NATS_TOKEN"} {
		if p.env.get(variable) != "" {
			ways = append(ways, variable)
		}
	}
	if len(ways) > 1 {
		p.mistake(strings.Join(ways, ", "), "exclude each other", "", "one way to authenticate")
	}
	if a.Password != "" && a.User == "" {
		p.mistake("NATS_PASSWORD", "is set without NATS_USER", "", "both or none")
	}
	p.file("NATS_CREDS", "a file with a user's JWT and seed, as `nsc generate creds` writes it", isCreds)
	p.file("NATS_NKEY", "a file with an nkey seed, as `nk -gen user` writes it", isSeed)
	p.file("NATS_CA", "a file with certificates (PEM)", x509.NewCertPool().AppendCertsFromPEM)
	p.certificate(a.CertFile, a.KeyFile)
	return a
}

func isCreds(content []byte) bool {
	_, err := nkeys.ParseDecoratedUserNKey(content)
	_, jwtErr := nkeys.ParseDecoratedJWT(content)
	return err == nil && jwtErr == nil
}

func isSeed(content []byte) bool {
	_, err := nkeys.ParseDecoratedNKey(content)
	return err == nil
}

func (p *parser) certificate(certFile, keyFile string) {
	const both = "NATS_CERT, NATS_KEY"
	if (certFile == "") != (keyFile == "") {
		p.mistake(both, "one is set without the other", "", "both or none")
	} else if certFile != "" {
		if _, err := tls.LoadX509KeyPair(certFile, keyFile); err != nil {
			p.mistake(both, err.Error(), "", "a certificate and its key (PEM)")
		}
	}
}

// file checks that the file that a variable names, if any, can be read and has the
// right content.
func (p *parser) file(variable, accepted string, good func(content []byte) bool) {
	path := p.env.get(variable)
	if path == "" {
		return
	}
	content, err := os.ReadFile(path)
	if err != nil {
		p.mistake(variable, err.Error(), "", accepted)
	} else if !good(content) {
		p.mistake(variable, "has the wrong content", path, accepted)
	}
}

// unknown finds IFACE_* variables that do not exist: a misspelt one would be
// ignored, while its owner believes that it is in force. Those that begin with
// IFACE_TEST_ are for this repository's tests.
func (p *parser) unknown() {
	var ours []string
	for _, v := range variables {
		if strings.HasPrefix(v.name, "IFACE_") {
			ours = append(ours, v.name)
		}
	}
	var strangers []string
	for name := range p.env {
		if strings.HasPrefix(name, "IFACE_") && !strings.HasPrefix(name, "IFACE_TEST_") && !slices.Contains(ours, name) {
			strangers = append(strangers, name)
		}
	}
	slices.Sort(strangers)
	for _, name := range strangers {
		p.mistake(name, "unknown variable", "", strings.Join(ours, ", "))
	}
}
