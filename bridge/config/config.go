// Package config holds the settings of the bridge, and what follows from them: which
// links are published ([Filter]), and what a NATS user has to be permitted
// ([Permissions]).
//
// The settings are environment variables. They are read from the environment that
// [Parse] is given, never from the process, and a [Config] exists only when all of
// them are valid. A new setting is a row of the table in variables.go, a field of
// Config, and the line of
// parser.config (parse.go) that checks it.
package config

import (
	"strings"
	"time"

	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// A Config is settings that have been checked.
type Config struct {
	Servers []string // NATS URLs; empty means the embedded server
	Auth    Auth

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
	Netns       netlinksrc.Selection
	Filter      Filter
	Resync      time.Duration // 0: never
	Coalesce    time.Duration // 0: not at all
	Queue       int           // events
	ReadBuffer  int           // bytes
	SpoolDir    string        // "": none
	HTTPAddr    string        // "": none
	Pprof       bool          // on HTTPAddr
	StoreDir    string        // of the embedded server; "": unset, and the environment names no home
	LogLevel    string
	LogFormat   string

	Version string // of the program, for those who ask; not a setting
}

// Auth is how to authenticate to NATS: by at most one of credentials, nkey, user and
// token, and to TLS.
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
	p := parser{env: newEnvironment(environ)}
	c := p.config()
	c.Host, c.Token, c.FollowHost = p.host()
	return p.result(c)
}

// ParseConnection is [Parse] for commands that only read from NATS: Host and Token
// stay empty, and need not be known.
func ParseConnection(environ []string) (Config, error) {
	p := parser{env: newEnvironment(environ)}
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

// InboxPrefix is where the bridge of this host receives answers: a prefix of its
// own, so that its user need not be able to read the answers to others. It is ""
// when there is no host.
func (c *Config) InboxPrefix() string {
	if c.Token == "" {
		return ""
	}
	return "_INBOX.ifacebridge." + c.Token
}
