package config

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"ifacebridge/schema"
)

// Permissions are the subjects that a NATS user has to be allowed on a server.
type Permissions struct {
	Publish, Subscribe []string
	DenySubscribe      []string // of those in Subscribe, what it may not
	Responses          bool     // may answer the requests that it receives
}

// HostPermissions are what the bridge of a host needs, and no more: its own events,
// its own keys of the bucket, its own query endpoint, answers in an inbox of its own,
// and what creates the stream and the bucket when they are missing (which cannot
// change those that exist).
func (c *Config) HostPermissions() Permissions {
	service := schema.ServiceName
	p := Permissions{
		Publish: []string{
			c.HostSubjects(), schema.OwnerSubjectUnder(c.Prefix, c.Token),
			"$SYS.REQ.USER.INFO", "$SRV.INFO." + service,
		},
		Subscribe: []string{
			c.InboxPrefix() + ".>", schema.QuerySubjectUnder(c.Prefix, c.Token), schema.OwnerSubjectUnder(c.Prefix, c.Token),
			schema.SnapshotSubjectUnder(c.Prefix, c.Token), "$SRV.*", "$SRV.*." + service, "$SRV.*." + service + ".*",
		},
		Responses: true,
	}
	if c.Delivery == JetStream {
		api, kv := c.API(), BucketStream(c.Bucket)
		p.Publish = append(p.Publish,
			c.PutSubject(c.Bucket, c.Token+".>"),
			api+".INFO", api+".STREAM.NAMES",
			api+".STREAM.CREATE."+c.Stream, api+".STREAM.INFO."+c.Stream, api+".STREAM.MSG.GET."+c.Stream,
			api+".STREAM.CREATE."+kv, api+".STREAM.INFO."+kv,
			api+".DIRECT.GET."+kv,
		)
		if c.Presence > 0 {
			hosts := BucketStream(c.HostsBucket)
			p.Publish = append(p.Publish, c.PutSubject(c.HostsBucket, c.Token),
				api+".STREAM.CREATE."+hosts, api+".STREAM.INFO."+hosts)
		}
	}
	return p
}

// AllHostsPermissions are what the bridges of all hosts need that share one user. Whoever
// has that user's secret can write as any of the hosts.
func (c *Config) AllHostsPermissions() Permissions {
	all := *c
	all.Token = "*"
	return all.HostPermissions()
}

// ViewerPermissions are what a consumer of all hosts needs: it can change nothing, and read
// no answers to bridges; with an inbox prefix of its own, only answers to itself.
func (c *Config) ViewerPermissions() Permissions {
	p := Permissions{
		Publish:   []string{schema.QuerySubjectUnder(c.Prefix, "*"), "$SRV.>"},
		Subscribe: []string{c.Prefix + ".>"},
	}
	if c.Inbox != "" {
		p.Subscribe = append(p.Subscribe, c.Inbox+".>")
	} else {
		p.Subscribe, p.DenySubscribe = append(p.Subscribe, "_INBOX.>"), []string{hostInboxes + ".>"}
	}
	if c.Delivery == JetStream {
		api := c.API()
		for _, stream := range []string{c.Stream, BucketStream(c.Bucket), BucketStream(c.HostsBucket)} {
			p.Publish = append(p.Publish,
				api+".STREAM.INFO."+stream, api+".STREAM.MSG.GET."+stream,
				api+".DIRECT.GET."+stream, api+".DIRECT.GET."+stream+".>",
				api+".CONSUMER.CREATE."+stream, api+".CONSUMER.CREATE."+stream+".>",
				api+".CONSUMER.INFO."+stream+".*", api+".CONSUMER.DELETE."+stream+".*",
				api+".CONSUMER.MSG.NEXT."+stream+".*", "$JS.ACK."+stream+".>", "$JS.FC."+stream+".>")
		}
		p.Publish = append(p.Publish, api+".INFO", api+".STREAM.NAMES")
	}
	return p
}

// OperatorPermissions are what one needs who reads all hosts and forgets those that will not
// come back: their dels, and their keys of the buckets. Whoever has that user's secret can
// write as any of the hosts.
func (c *Config) OperatorPermissions() Permissions {
	p := c.ViewerPermissions()
	p.Publish = append(p.Publish, schema.OwnerSubjectUnder(c.Prefix, "*"), schema.SnapshotSubjectUnder(c.Prefix, "*"),
		schema.Subject(c.Prefix, "*", schema.Del))
	if c.Delivery == JetStream {
		p.Publish = append(p.Publish, c.PutSubject(c.Bucket, ">"), c.PutSubject(c.HostsBucket, "*"))
	}
	return p
}

// PermissionsCommand is the command that prints what the user of this configuration needs,
// for any shell: with the host's name, and with those settings that decide on its subjects
// and are not as they are by default, since whoever grants permissions does so elsewhere.
func (c *Config) PermissionsCommand() string {
	var command strings.Builder
	set := func(name, value, standard string) {
		if value != standard {
			command.WriteString(name + "=" + shellWord(value) + " ")
		}
	}
	if domain := c.domain(); domain != "" {
		set("IFACE_JS_DOMAIN", domain, "")
	} else if c.JSAPI != "" {
		set("NATS_CONTEXT", c.context, "") // no variable has a prefix
	}
	set("IFACE_INBOX_PREFIX", c.Inbox, "")
	set("IFACE_SUBJECT_PREFIX", c.Prefix, schema.DefaultPrefix)
	set("IFACE_DELIVERY", string(c.Delivery), string(JetStream))
	if c.Delivery == JetStream {
		set("IFACE_STREAM", c.Stream, variableOf("IFACE_STREAM").standard)
		set("IFACE_BUCKET", c.Bucket, schema.LinksBucket(c.Prefix))
		set("IFACE_HOSTS_BUCKET", c.HostsBucket, schema.HostsBucket(c.Prefix))
		if c.Presence == 0 {
			set("IFACE_PRESENCE", "0", "")
		}
	}
	command.WriteString("ifacebridge permissions ")
	switch {
	case c.Operator:
		command.WriteString("--operator")
	case c.Host == "":
		command.WriteString("--viewer")
	case strings.HasPrefix(c.Host, "-"):
		command.WriteString("-- " + shellWord(c.Host))
	default:
		command.WriteString(shellWord(c.Host))
	}
	return command.String()
}

var plainWord = regexp.MustCompile(`^[\w@%+=:,./-]+$`)

// shellWord is a text as one word of a shell's command.
func shellWord(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return quoted(text)
}

// quoted is a text in the quotes of a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// String returns the permissions as a block of a nats-server configuration.
func (p Permissions) String() string {
	var b strings.Builder
	list := func(name string, subjects, denied []string) {
		fmt.Fprintf(&b, "  %s: { allow: [\n", name)
		for _, s := range subjects {
			fmt.Fprintf(&b, "    %q\n", s)
		}
		b.WriteString("  ]")
		for _, s := range denied {
			fmt.Fprintf(&b, ", deny: %q", s)
		}
		b.WriteString(" }\n")
	}
	b.WriteString("permissions: {\n")
	list("publish", p.Publish, nil)
	list("subscribe", p.Subscribe, p.DenySubscribe)
	if p.Responses {
		b.WriteString("  allow_responses: true\n")
	}
	b.WriteString("}")
	return b.String()
}

// NSC returns the nsc command that adds a user with the permissions to the account
// that nsc has selected.
func (p Permissions) NSC(user string) string {
	var b strings.Builder
	b.WriteString("nsc add user --name " + quoted(user))
	for _, s := range p.Publish {
		b.WriteString(" \\\n  --allow-pub " + quoted(s))
	}
	for _, s := range p.Subscribe {
		b.WriteString(" \\\n  --allow-sub " + quoted(s))
	}
	for _, s := range p.DenySubscribe {
		b.WriteString(" \\\n  --deny-sub " + quoted(s))
	}
	if p.Responses {
		b.WriteString(" \\\n  --allow-pub-response")
	}
	return b.String()
}

// NetnsAdvice is what to do about a network namespace that IFACE_NETNS selects and that
// cannot be watched because of err; "" when nothing is known.
func NetnsAdvice(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "entering a namespace needs CAP_SYS_ADMIN, finding those of other users' processes CAP_SYS_PTRACE"
	case errors.Is(err, fs.ErrNotExist):
		return "it is watched as soon as it is there"
	}
	return ""
}
