package config

import (
	"net/url"
	"slices"
	"strings"

	"ifacebridge/schema"
)

// A Variable is one environment variable: what it is for, and what it is set to.
type Variable struct {
	Name, Default, Description string

	// Value is what is set, or else the default. It is for people to read: secrets
	// are masked.
	Value string
}

// DefaultHTTPAddr is where health and metrics are served unless IFACE_HTTP_ADDR is
// set.
const DefaultHTTPAddr = "127.0.0.1:9469"

// variable is a row of the table below.
type variable struct {
	name, standard string // standard: the default
	description    string

	secret    bool // never shown
	secretURL bool // shown without the secrets in it
	list      bool // comma-separated; otherwise a comma may stand in the secret of a URL
	noUnset   bool // set but empty differs from unset
	created   bool // it is about a stream and buckets that we create

	ofPrefix func(prefix string) string // the default under another prefix; nil: it is the same
}

// variables are all that there are, in the order in which `ifacebridge config`
// prints them.
var variables = []variable{
	{name: "NATS_URL", secretURL: true, list: true,
		description: "servers, comma-separated; unset: the embedded server, where the build has one"},
	{name: "NATS_CONTEXT",
		description: "context of the nats command, by name, or the path of its file; a variable beside it wins"},
	{name: "NATS_CREDS",
		description: "file with a user's JWT and seed"},
	{name: "NATS_NKEY",
		description: "file with an nkey seed"},
	{name: "NATS_USER",
		description: "user name"},
	{name: "NATS_PASSWORD", secret: true,
		description: "password of NATS_USER"},
	{name: "NATS_TOKEN", secret: true,
		description: "token"},
	{name: "NATS_JWT", secret: true,
		description: "a user's JWT"},
	{name: "NATS_SEED", secret: true,
		description: "seed of the nkey in NATS_JWT"},
	{name: "NATS_CA",
		description: "file with the certificate authorities to trust (PEM)"},
	{name: "NATS_CERT",
		description: "file with the client certificate (PEM)"},
	{name: "NATS_KEY",
		description: "file with the key of NATS_CERT (PEM)"},
	{name: "NATS_SOCKS_PROXY", secretURL: true,
		description: "proxy to connect through: socks5://[user:password@]host[:port], or http:// for one with CONNECT"},

	{name: "IFACE_HOST", noUnset: true,
		description: "name of this host in subjects and events; unset: the kernel's host name"},
	{name: "IFACE_LABELS",
		description: "where or what this host is, in every event: key=value, comma-separated, at most 16"},
	{name: "IFACE_SUBJECT_PREFIX", standard: schema.DefaultPrefix,
		description: "first token or tokens of the subjects"},
	{name: "IFACE_DELIVERY", standard: string(JetStream),
		description: "jetstream: stored, in order, exactly once; core: plain NATS, at least once to the server"},
	{name: "IFACE_STREAM", standard: "IFACE",
		description: "stream, created if it is missing"},
	{name: "IFACE_BUCKET", standard: schema.LinksBucket(schema.DefaultPrefix), ofPrefix: schema.LinksBucket,
		description: "KV bucket with the current state of every link, created if it is missing"},
	{name: "IFACE_HOSTS_BUCKET", standard: schema.HostsBucket(schema.DefaultPrefix), ofPrefix: schema.HostsBucket,
		description: "KV bucket of the hosts that are there, created if it is missing"},
	{name: "IFACE_PRESENCE", standard: "30s",
		description: "say in that bucket this often that this host is there; after three times that it is silent; 0: never"},
	{name: "IFACE_REPLICAS", standard: "1", created: true,
		description: "replicas of a stream and a bucket that we create, 1 to 5"},
	{name: "IFACE_MAX_AGE", standard: "168h", created: true,
		description: "how long a stream that we create keeps events; 0: for ever"},
	{name: "IFACE_MAX_BYTES", standard: "0", created: true,
		description: "size of a stream, and of each bucket, that we create; 0: no limit"},
	{name: "IFACE_TLS_FIRST", standard: "off",
		description: "on: TLS before the server's greeting, for a server with handshake_first"},
	{name: "IFACE_DISCOVERY", standard: "on",
		description: "off: connect to the servers of NATS_URL only, not to those that they advertise"},
	{name: "IFACE_INBOX_PREFIX",
		description: "prefix of the subjects on which answers are received; " +
			"unset: _INBOX.ifacebridge.<host> for a bridge, _INBOX for a reader"},
	{name: "IFACE_JS_DOMAIN",
		description: "JetStream domain that the stream and the bucket are in; unset: the one of the servers of NATS_URL"},
	{name: "IFACE_INCLUDE",
		description: "publish only these links: globs over names, kind:<info_kind>, or netns:<glob>, " +
			"comma-separated; unset: all"},
	{name: "IFACE_EXCLUDE",
		description: "do not publish these links, written like IFACE_INCLUDE"},
	{name: "IFACE_NETNS", standard: "self",
		description: "network namespaces to watch, comma-separated: self, names or globs under /run/netns, paths, all"},
	{name: "IFACE_RESYNC", standard: "5m",
		description: "compare with a dump this often, for what the kernel does not announce; 0: never"},
	{name: "IFACE_COALESCE", standard: "0",
		description: "fold the events of one link within this time into one"},
	{name: "IFACE_QUEUE", standard: "65536",
		description: "how much waits while NATS is away, before it is folded link by link: " +
			"events (and 512 bytes for each), or a size such as 32MiB"},
	{name: "IFACE_RCVBUF", standard: "64MiB",
		description: "netlink receive buffer to ask for"},
	{name: "IFACE_SPOOL_DIR",
		description: "keep events that NATS has not confirmed in this directory, across a crash of the bridge too; " +
			"unset: in memory only"},
	{name: "IFACE_HTTP_ADDR", standard: DefaultHTTPAddr, noUnset: true,
		description: "address of /healthz, /readyz and /metrics; empty: none"},
	{name: "IFACE_PPROF", standard: "off",
		description: "on: serve Go profiles under /debug/pprof/ on IFACE_HTTP_ADDR, to whoever reaches it"},
	{name: "IFACE_STORE_DIR",
		description: "where the embedded server keeps its streams, if the build has one; " +
			"unset: ifacebridge in the user's state directory"},
	{name: "IFACE_LOG_LEVEL", standard: "info",
		description: "debug, info, warn or error"},
	{name: "IFACE_LOG_FORMAT", standard: "text",
		description: "text or json"},
}

// An environment is what variables are set to.
type environment struct {
	vars    map[string]string // the environment variables that are set
	context map[string]string // what the context that NATS_CONTEXT names has for those that are not
}

// newEnvironment takes a list of "NAME=value"; of two with one name the later counts. The
// error is about the context.
func newEnvironment(environ []string) (environment, error) {
	env := environment{vars: map[string]string{}}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		env.vars[name] = value
	}
	err := env.loadContext()
	return env, err
}

// value returns what a variable is set to, or its default. One that is set but
// blank counts as unset, unless its table entry says otherwise.
func (e environment) value(v *variable) string {
	value, set := e.vars[v.name]
	switch {
	case strings.TrimSpace(value) != "" || set && v.noUnset:
		return value
	case e.context[v.name] != "":
		return e.context[v.name]
	case v.ofPrefix != nil:
		return v.ofPrefix(e.get("IFACE_SUBJECT_PREFIX"))
	}
	return v.standard
}

// chosen returns the names of the variables for what we create that are set.
func (e environment) chosen() (names []string) {
	for _, v := range variables {
		if v.created && strings.TrimSpace(e.vars[v.name]) != "" {
			names = append(names, v.name)
		}
	}
	return names
}

// get returns the value of the variable of that name, which is in the table.
func (e environment) get(name string) string { return e.value(variableOf(name)) }

func variableOf(name string) *variable {
	i := slices.IndexFunc(variables, func(v variable) bool { return v.name == name })
	return &variables[i]
}

// written is where the value of a variable was written, for people to find it.
func (e environment) written(name string) string {
	if strings.TrimSpace(e.vars[name]) == "" && e.context[name] != "" {
		return name + " (of NATS_CONTEXT)"
	}
	return name
}

// Variables describes every variable, with its value in an environment as
// os.Environ returns one. It checks nothing.
func Variables(environ []string) []Variable {
	env, _ := newEnvironment(environ)
	list := make([]Variable, len(variables))
	for i := range variables {
		v := &variables[i]
		list[i] = Variable{v.name, v.standard, v.description, v.shown(env.value(v))}
	}
	return list
}

// shown is a value for people to read.
func (v *variable) shown(value string) string {
	switch {
	case value == "":
		return ""
	case v.secret, isSecret(value):
		return "(secret)"
	case v.secretURL && v.list:
		return RedactURLs(splitList(value))
	case v.secretURL:
		return RedactURLs([]string{value})
	}
	return value
}

// RedactURLs joins the URLs of servers for people to read, without their passwords
// and tokens. Of what does not parse nothing is shown: a part of a password may stand in
// the place of a port.
func RedactURLs(urls []string) string {
	redacted := make([]string, len(urls))
	for i, raw := range urls {
		redacted[i] = raw
		scheme, rest, ok := strings.Cut(raw, "://")
		if !ok {
			scheme, rest = "nats", raw
		}
		if at := strings.LastIndex(rest, "@"); at >= 0 {
			redacted[i] = scheme + "://(secret)@" + rest[at+1:]
		} else if _, err := url.Parse(scheme + "://" + rest); err != nil {
			redacted[i] = "(does not parse)"
		}
	}
	return strings.Join(redacted, ",")
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
