// Package config holds the settings of the bridge, and what follows from them: which
// links are published ([Filter]), and what a NATS user has to be permitted
// ([Permissions]).
//
// The settings are environment variables. They are read from the environment that
// [Parse] is given, never from the process, and a [Config] exists only when all of
// them are valid. A new setting is a row of the table in variables.go, a field of
// Config, and the line of parser.config (parse.go) that checks it.
package config

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// A Config is settings that have been checked.
type Config struct {
	Servers     []string // NATS URLs; empty means the embedded server
	Auth        Auth
	Proxy       string // URL of the proxy to connect through; "": none
	TLSFirst    bool   // TLS before the server's greeting
	NoDiscovery bool   // only the Servers, not those that they advertise
	JSAPI       string // what the subjects of JetStream's API begin with; "": $JS.API
	Inbox       string // prefix of the subjects on which answers are received; "": see InboxPrefix

	Host, Token string // the host's name, and as a subject token; "": it has none yet
	FollowHost  bool   // Host is the kernel's name, which may change
	Labels      schema.Labels
	Prefix      string
	Delivery    Delivery
	Stream      string
	Bucket      string
	HostsBucket string
	Presence    time.Duration // 0: never said
	Replicas    int
	MaxAge      time.Duration // 0: for ever
	MaxBytes    int64         // 0: no limit
	Netns       netlinksrc.Selection
	Filter      Filter
	Resync      time.Duration // 0: never
	Coalesce    time.Duration // 0: not at all
	Queue       QueueLimit
	ReadBuffer  int    // bytes
	SpoolDir    string // "": none
	HTTPAddr    string // "": none
	Pprof       bool   // on HTTPAddr
	StoreDir    string // of the embedded server; "": unset, and the environment names no home
	LogLevel    string
	LogFormat   string

	Version  string // of the program, for those who ask; not a setting
	Operator bool   // for one who forgets hosts, too; not a setting

	context string   // the value of NATS_CONTEXT
	chosen  []string // of the variables for a stream and a bucket that we create, those that are set
}

// Chosen reports whether a variable for a stream and a bucket that we create is set: it is
// what somebody wants, and not only a default.
func (c *Config) Chosen(variable string) bool { return slices.Contains(c.chosen, variable) }

// A QueueLimit is how much may wait for NATS before the changes of one link are folded
// into one: so many events, and events that take so many bytes of memory. A spool takes
// as many, and [SpoolFactor] times the bytes.
type QueueLimit struct{ Events, Bytes int }

// SpoolFactor is how much more an event may take on disk than in memory, where only what has
// changed of a link waits.
const SpoolFactor = 4

// Delivery is what publishing promises.
type Delivery string

const (
	JetStream Delivery = "jetstream" // stored, in order, exactly once
	Core      Delivery = "core"      // plain NATS, confirmed by flush
)

// An Error lists every mistake in the settings, one a line: the variable, the
// reason, and what is accepted. It holds no secret.
type Error []string

func (e Error) Error() string { return strings.Join(e, "\n") }

// Parse reads the settings from an environment, a list of "NAME=value" as
// os.Environ returns one. It checks them all, also that the files which they name
// can be used, and reports IFACE_* variables that do not exist. Besides the
// environment it asks the kernel for the host's name when IFACE_HOST is unset. The
// error is an [Error].
func Parse(environ []string) (Config, error) {
	p := newParser(environ)
	c := p.config()
	c.Host, c.Token, c.FollowHost = p.host()
	return p.result(c)
}

// ParseConnection is [Parse] for commands that only read from NATS: Host and Token
// stay empty, and need not be known.
func ParseConnection(environ []string) (Config, error) {
	p := newParser(environ)
	return p.result(p.config())
}

// WithHost returns the configuration for a host of another name.
func (c Config) WithHost(name string) (Config, error) {
	token, err := schema.HostToken(name)
	if err != nil {
		return c, err
	}
	c.Host, c.Token = name, token
	return c, nil
}

// WebSocket reports whether the servers are reached over WebSockets.
func (c *Config) WebSocket() bool {
	return len(c.Servers) > 0 && strings.HasPrefix(c.Servers[0], "ws")
}

// WebSocketPath is the path at which a proxy has the servers, when they are reached over
// WebSockets and all have the same; else "".
func (c *Config) WebSocketPath() (path string) {
	for i, server := range c.Servers {
		u, err := url.Parse(server)
		if err != nil || !c.WebSocket() || i > 0 && u.Path != path {
			return ""
		}
		path = u.Path
	}
	return path
}

// ForEmbedded returns the configuration for the embedded server at a URL. It is an [Error]
// when there are settings that were made for another server: the one who made them believes
// that it is used.
func (c Config) ForEmbedded(url string) (Config, error) {
	set := c.Auth.set()
	for name, isSet := range map[string]bool{
		"NATS_SOCKS_PROXY": c.Proxy != "", "IFACE_TLS_FIRST": c.TLSFirst, "IFACE_JS_DOMAIN": c.JSAPI != "",
	} {
		if isSet {
			set = append(set, name)
		}
	}
	if len(set) > 0 {
		slices.Sort(set)
		names := strings.Join(set, ", ")
		return c, Error{"NATS_URL: is unset, and " + names + " are not for the embedded server; accepted: " +
			acceptedURLs + ", or " + names + " unset"}
	}
	c.Servers = []string{url}
	return c, nil
}

// InboxPrefix is where answers are received: IFACE_INBOX_PREFIX, or for the bridge of a
// host a prefix of its own, so that its user need not be able to read the answers to
// others. It is "" when there is neither.
func (c *Config) InboxPrefix() string {
	if c.Inbox != "" || c.Token == "" {
		return c.Inbox
	}
	return hostInboxes + "." + c.Token
}

// hostInboxes is what the inboxes of all bridges begin with.
const hostInboxes = "_INBOX.ifacebridge"

// NATSFlags are what the nats command needs, beside what it connects with, to reach the
// JetStream that this configuration has: "" or " --js-domain=hub".
func (c *Config) NATSFlags() string {
	if domain := c.domain(); domain != "" {
		return " --js-domain=" + shellWord(domain)
	}
	if c.JSAPI != "" {
		return " --js-api-prefix=" + shellWord(c.JSAPI)
	}
	return ""
}

// domain is the JetStream domain whose API is used; "" when it is that of the servers, or the
// API has a prefix that is no domain's.
func (c *Config) domain() string {
	domain := strings.TrimSuffix(strings.TrimPrefix(c.JSAPI, "$JS."), ".API")
	if domain == "" || apiOf(domain) != c.JSAPI || strings.Contains(domain, ".") {
		return ""
	}
	return domain
}

// apiOf is what the subjects of the API of a JetStream domain begin with.
func apiOf(domain string) string { return "$JS." + domain + ".API" }

// usualAPI is what the subjects of JetStream's API begin with where nothing else is set.
const usualAPI = "$JS.API"

// HostSubjects are the subjects of all events of the host, as a wildcard.
func (c *Config) HostSubjects() string { return c.Prefix + "." + c.Token + ".*" }

// BucketStream is the name of the stream that a bucket is.
func BucketStream(bucket string) string { return "KV_" + bucket }

// BucketSubject is the subject under which the stream of a bucket has a key.
func BucketSubject(bucket, key string) string { return "$KV." + bucket + "." + key }

// PutSubject is what a put of a bucket's key is published to. Where JetStream is elsewhere,
// so is the subject space of buckets, and puts get there behind its API, as nats.go's
// KeyValue has it.
func (c *Config) PutSubject(bucket, key string) string {
	subject := BucketSubject(bucket, key)
	if c.JSAPI != "" {
		return c.JSAPI + "." + subject
	}
	return subject
}

// API is what the subjects of JetStream's API begin with.
func (c *Config) API() string {
	if c.JSAPI == "" {
		return usualAPI
	}
	return c.JSAPI
}
