package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// A parser makes a Config of an environment, and collects all mistakes on the way.
type parser struct {
	env      environment
	mistakes []string
}

// mistake notes that a variable is wrong.
func (p *parser) mistake(variable, reason, got, accepted string) {
	p.note(&settingError{p.env.written(variable), reason, got, accepted})
}

func newParser(environ []string) *parser {
	env, err := newEnvironment(environ)
	p := &parser{env: env}
	p.note(err)
	return p
}

// note notes an error about a setting, if it is one.
func (p *parser) note(err error) {
	if err != nil {
		p.mistakes = append(p.mistakes, err.Error())
	}
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
		Proxy:       p.proxy(),
		TLSFirst:    p.flag("IFACE_TLS_FIRST"),
		NoDiscovery: !p.flag("IFACE_DISCOVERY"),
		JSAPI:       p.jetStreamAPI(),
		Inbox:       p.subject("IFACE_INBOX_PREFIX"),
		Labels:      p.labels(),
		Prefix:      p.subject("IFACE_SUBJECT_PREFIX"),
		Delivery:    Delivery(p.oneOf("IFACE_DELIVERY", string(JetStream), string(Core))),
		Stream:      p.name("IFACE_STREAM"),
		Bucket:      p.name("IFACE_BUCKET"),
		HostsBucket: p.name("IFACE_HOSTS_BUCKET"),
		Presence:    p.interval("IFACE_PRESENCE"),
		Replicas:    p.number("IFACE_REPLICAS", 1, 5),
		MaxAge:      p.duration("IFACE_MAX_AGE"),
		MaxBytes:    p.size("IFACE_MAX_BYTES", 0, 1<<60),
		Netns:       p.netns(),
		Filter:      Filter{p.patterns("IFACE_INCLUDE"), p.patterns("IFACE_EXCLUDE")},
		Resync:      p.interval("IFACE_RESYNC"),
		Coalesce:    p.duration("IFACE_COALESCE"),
		Queue:       p.queue(),
		ReadBuffer:  int(p.size("IFACE_RCVBUF", 4<<10, 1<<30)),
		SpoolDir:    p.env.get("IFACE_SPOOL_DIR"),
		HTTPAddr:    p.address("IFACE_HTTP_ADDR"),
		Pprof:       p.flag("IFACE_PPROF"),
		StoreDir:    p.storeDir(),
		LogLevel:    p.oneOf("IFACE_LOG_LEVEL", "debug", "info", "warn", "error"),
		LogFormat:   p.oneOf("IFACE_LOG_FORMAT", "text", "json"),
		context:     p.env.vars["NATS_CONTEXT"],
		chosen:      p.env.chosen(),
	}
	if c.TLSFirst && c.WebSocket() {
		p.mistake("IFACE_TLS_FIRST", "is not for WebSockets, where TLS is first always", "", "off, with wss:// in NATS_URL")
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

// interval is how often something is done; 0 is never. More often than ten times a second
// is a mistake in the unit, and would be all that a bridge does.
func (p *parser) interval(variable string) time.Duration {
	const least = 100 * time.Millisecond
	d := p.duration(variable)
	if 0 < d && d < least {
		p.mistake(variable, "too short", d.String(), fmt.Sprintf("0 for never, or %v and more", least))
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
	name, set := p.env.vars["IFACE_HOST"]
	reason, got := "", ""
	switch trimmed := strings.TrimSpace(name); {
	case !set:
	case trimmed == "":
		reason = "is set but empty"
	case trimmed != name || strings.ContainsFunc(name, unicode.IsControl): // of a file, or by mistake
		reason, got = "has white space at its ends, or control characters", name
	case !utf8.ValidString(name): // events could not have it
		reason, got = "is not UTF-8", name
	}
	if reason != "" {
		p.mistake("IFACE_HOST", reason, got, accepted+", or unset for the kernel's host name")
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

const acceptedURLs = "nats://host[:port], tls://, ws:// or wss://, comma-separated"

func (p *parser) servers() []string {
	const accepted = acceptedURLs
	var servers []string
	sockets := 0 // URLs of WebSockets
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
			sockets += strings.Count(u.Scheme, "ws")
		}
	}
	if sockets > 0 && sockets < len(servers) {
		p.mistake("NATS_URL", "WebSockets and others do not go together", RedactURLs(servers), accepted)
	}
	return servers
}

// withoutQuotes cuts an error text before what it quotes of its input.
func withoutQuotes(s string) string {
	s, _, _ = strings.Cut(s, `"`)
	return strings.TrimRight(s, ` :`)
}

// subject is what subjects begin with; "" when it is unset.
func (p *parser) subject(variable string) string {
	s := p.env.get(variable)
	if s != "" && (strings.HasPrefix(s, "$") || !isSubject(s)) {
		p.mistake(variable, "not a subject", s, "one or more tokens joined by '.', without wildcards or spaces")
	}
	return s
}

// isSubject reports whether s is a subject without wildcards.
func isSubject(s string) bool {
	for token := range strings.SplitSeq(s, ".") {
		if token == "" || strings.ContainsAny(token, "*> \t\r\n") {
			return false
		}
	}
	return true
}

// jetStreamAPI is what the subjects of JetStream's API begin with; "" when it is as usual.
func (p *parser) jetStreamAPI() string {
	domain, prefix := p.env.get("IFACE_JS_DOMAIN"), strings.TrimSuffix(p.env.context[apiPrefix], ".")
	switch {
	case strings.Contains(domain, ".") || domain != "" && !isSubject(domain):
		p.mistake("IFACE_JS_DOMAIN", "not the name of a domain", domain, "one token, without '.', wildcards or spaces")
	case domain != "":
		return apiOf(domain)
	case prefix == usualAPI: // spelled out
		return ""
	case prefix != "" && !isSubject(prefix):
		p.mistake("NATS_CONTEXT", apiPrefix+": not a subject", prefix, "tokens joined by '.', without wildcards or spaces")
	}
	return prefix
}

// proxy is the proxy to connect through, as a URL; "" when there is none.
func (p *parser) proxy() string {
	const accepted = "socks5://, socks5h:// or http://, with [user:password@]host[:port]"
	raw := p.env.get("NATS_SOCKS_PROXY")
	if raw == "" {
		return ""
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "":
		p.mistake("NATS_SOCKS_PROXY", "is no URL", RedactURLs([]string{raw}), accepted)
	case !slices.Contains([]string{"socks5", "socks5h", "http"}, u.Scheme):
		p.mistake("NATS_SOCKS_PROXY", "unknown scheme", u.Scheme, accepted)
	}
	return raw
}

// flag is whether something is on.
func (p *parser) flag(variable string) bool {
	switch s := strings.ToLower(p.env.get(variable)); s {
	case "on", "true", "yes", "1":
		return true
	case "off", "false", "no", "0":
	default:
		p.mistake(variable, "unknown value", s, "on, off")
	}
	return false
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
func (p *parser) size(variable string, low, high int64) int64 {
	s := p.env.get(variable)
	n, ok := parseSize(s, low, high)
	if !ok {
		p.mistake(variable, "not a size in range", s,
			fmt.Sprintf("bytes, or a number with KiB, MiB or GiB; %d to %d bytes", low, high))
	}
	return n
}

// parseSize returns a number of bytes, with or without a unit, if it is in that range.
func parseSize(s string, low, high int64) (n int64, ok bool) {
	digits, unit := s, int64(1)
	for suffix, factor := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			digits, unit = rest, factor
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
	if err != nil || n < 0 || n > high/unit || n*unit < low {
		return 0, false
	}
	return n * unit, true
}

const (
	// eventRoom is how many bytes a queue that is bounded by a number of events has for each.
	// Most events take half of that, one that has all of a link more.
	eventRoom = 512

	// minQueueBytes is how many bytes such a queue has at least.
	minQueueBytes = 32 << 20

	maxQueueEvents = 1 << 24
)

// queue is a number of events, or a size in bytes with its unit.
func (p *parser) queue() QueueLimit {
	s := p.env.get("IFACE_QUEUE")
	if n, err := strconv.Atoi(s); err == nil && n >= 1 && n <= maxQueueEvents {
		return QueueLimit{Events: n, Bytes: int(min(max(int64(n)*eventRoom, minQueueBytes), math.MaxInt))}
	}
	n, ok := parseSize(s, 64<<10, 1<<30)
	if !ok || !strings.HasSuffix(s, "iB") { // a number that is no number of events
		p.mistake("IFACE_QUEUE", "not a number or size in range", s,
			fmt.Sprintf("1 to %d events, or a size from 64KiB to 1GiB", maxQueueEvents))
	}
	return QueueLimit{Events: math.MaxInt, Bytes: int(n)}
}

// address is a TCP address to listen on; empty is none.
func (p *parser) address(variable string) string {
	s := p.env.get(variable)
	if s == "" {
		return s
	}
	_, port, err := net.SplitHostPort(s)
	_, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil {
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
	if state := p.env.vars["XDG_STATE_HOME"]; state != "" {
		return filepath.Join(state, "ifacebridge")
	}
	if home := p.env.vars["HOME"]; home != "" {
		return filepath.Join(home, ".local", "state", "ifacebridge")
	}
	return ""
}

// auth checks that at most one way to authenticate is chosen, and that its files
// can be read and hold what they should: a bridge that started with a file it
// cannot use would only report that over and over.
func (p *parser) auth() Auth {
	set := func(variable string) bool { return p.env.get(variable) != "" }
	a := Auth{p.env}
	if len(a.set()) == 0 {
		return Auth{}
	}
	if chosen := waysOf(p.env.vars); len(chosen) > 1 {
		p.mistake(strings.Join(chosen, ", "), "exclude each other", "", "one way to authenticate")
	} else {
		_, err := a.Credentials()
		p.note(err)
	}
	for with, alone := range map[string]string{"NATS_USER": "NATS_PASSWORD", "NATS_JWT": "NATS_SEED"} {
		if set(alone) && !set(with) {
			p.mistake(alone, "is set without "+with, "", "both or none")
		}
	}
	if a.HasCA() {
		_, err := a.RootCAs()
		p.note(err)
	}
	if set("NATS_CERT") != set("NATS_KEY") {
		p.mistake("NATS_CERT, NATS_KEY", "one is set without the other", "", "both or none")
	} else if a.HasCertificate() {
		_, err := a.Certificate()
		p.note(err)
	}
	return a
}

// theirs are variables that the nats command has and this program has not.
var theirs = []string{"NATS_COLOR", "NATS_TABLE_FORMAT", "NATS_TIMEOUT"}

// unknown finds variables that would be ignored while their owner believes that they are
// in force: IFACE_* that do not exist, and those of the nats command that are not for this
// program. Those that begin with IFACE_TEST_ are for this repository's tests. Other
// variables that begin with NATS_ are nobody's business here: Kubernetes sets some.
func (p *parser) unknown() {
	ours := map[string][]string{} // by prefix
	for _, v := range variables {
		prefix, _, _ := strings.Cut(v.name, "_")
		ours[prefix] = append(ours[prefix], v.name)
	}
	for _, name := range slices.Sorted(maps.Keys(p.env.vars)) {
		switch {
		case slices.Contains(theirs, name):
			p.mistake(name, "is for the nats command, and does nothing here", "", strings.Join(ours["NATS"], ", "))
		case strings.HasPrefix(name, "IFACE_TEST_") || !strings.HasPrefix(name, "IFACE_"):
		case !slices.Contains(ours["IFACE"], name):
			p.mistake(name, "unknown variable", "", strings.Join(ours["IFACE"], ", "))
		}
	}
}
