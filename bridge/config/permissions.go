package config

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"ifacebridge/schema"
)

// Permissions are the subjects that a NATS user has to be allowed on a server.
type Permissions struct {
	Publish, Subscribe []string
	Responses          bool // may answer the requests that it receives
}

// HostPermissions are what the bridge of a host needs, and no more: its own events,
// its own keys of the bucket, its own query endpoint, answers in an inbox of its own,
// and what creates the stream and the bucket when they are missing (which cannot
// change those that exist).
func (c *Config) HostPermissions() Permissions {
	service := schema.ServiceName
	p := Permissions{
		Publish: []string{
			c.Prefix + "." + c.Token + ".*", schema.OwnerSubject(c.Token), "$SYS.REQ.USER.INFO", "$SRV.INFO." + service,
		},
		Subscribe: []string{
			c.InboxPrefix() + ".>", schema.QuerySubject(c.Token), schema.OwnerSubject(c.Token),
			"$SRV.*", "$SRV.*." + service, "$SRV.*." + service + ".*",
		},
		Responses: true,
	}
	if c.Delivery == JetStream {
		kv := "KV_" + c.Bucket
		p.Publish = append(p.Publish,
			"$KV."+c.Bucket+"."+c.Token+".>",
			"$JS.API.INFO",
			"$JS.API.STREAM.CREATE."+c.Stream, "$JS.API.STREAM.INFO."+c.Stream, "$JS.API.STREAM.MSG.GET."+c.Stream,
			"$JS.API.STREAM.CREATE."+kv, "$JS.API.STREAM.INFO."+kv,
			"$JS.API.DIRECT.GET."+kv,
		)
		if c.Presence > 0 {
			hosts := "KV_" + c.HostsBucket
			p.Publish = append(p.Publish, "$KV."+c.HostsBucket+"."+c.Token,
				"$JS.API.STREAM.CREATE."+hosts, "$JS.API.STREAM.INFO."+hosts)
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

// ViewerPermissions are what a consumer of all hosts needs: it can change nothing.
func (c *Config) ViewerPermissions() Permissions {
	p := Permissions{
		Publish:   []string{schema.QuerySubject("*"), "$SRV.>"},
		Subscribe: []string{c.Prefix + ".>", "_INBOX.>"},
	}
	if c.Delivery == JetStream {
		for _, stream := range []string{c.Stream, "KV_" + c.Bucket, "KV_" + c.HostsBucket} {
			p.Publish = append(p.Publish,
				"$JS.API.STREAM.INFO."+stream, "$JS.API.STREAM.MSG.GET."+stream,
				"$JS.API.DIRECT.GET."+stream, "$JS.API.DIRECT.GET."+stream+".>",
				"$JS.API.CONSUMER.CREATE."+stream, "$JS.API.CONSUMER.CREATE."+stream+".>",
				"$JS.API.CONSUMER.INFO."+stream+".*", "$JS.API.CONSUMER.DELETE."+stream+".*",
				"$JS.API.CONSUMER.MSG.NEXT."+stream+".*", "$JS.ACK."+stream+".>", "$JS.FC."+stream+".>")
		}
		p.Publish = append(p.Publish, "$JS.API.INFO", "$JS.API.STREAM.NAMES")
	}
	return p
}

// String returns the permissions as a block of a nats-server configuration.
func (p Permissions) String() string {
	var b strings.Builder
	list := func(name string, subjects []string) {
		fmt.Fprintf(&b, "  %s: { allow: [\n", name)
		for _, s := range subjects {
			fmt.Fprintf(&b, "    %q\n", s)
		}
		b.WriteString("  ] }\n")
	}
	b.WriteString("permissions: {\n")
	list("publish", p.Publish)
	list("subscribe", p.Subscribe)
	if p.Responses {
		b.WriteString("  allow_responses: true\n")
	}
	b.WriteString("}")
	return b.String()
}

// NSC returns the nsc command that adds a user with the permissions to the account
// that nsc has selected.
func (p Permissions) NSC(user string) string {
	quoted := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	var b strings.Builder
	b.WriteString("nsc add user --name " + quoted(user))
	for _, s := range p.Publish {
		b.WriteString(" \\\n  --allow-pub " + quoted(s))
	}
	for _, s := range p.Subscribe {
		b.WriteString(" \\\n  --allow-sub " + quoted(s))
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
