package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// A bridge beside a leaf node stores in the hub: where the leaf has no JetStream, and where it
// has one of its own, by the name of the hub's domain or by the prefix of its API. What the
// leaf has stays empty, and the readers beside it read the hub.
func TestJetStreamDomain(t *testing.T) {
	t.Parallel()
	const domain, byContext = "IFACE_JS_DOMAIN=hub", "context"
	for _, tt := range []struct{ name, leaf, setting string }{
		{"a leaf without", "jetstream: disabled", domain},
		{"a leaf with its own", `jetstream { store_dir: %q, domain: leaf }`, domain},
		{"a leaf with its own, by a prefix", `jetstream { store_dir: %q, domain: leaf }`, byContext},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := netnstest.Parallel(t)
			upLink(t, k)
			port := natstest.FreePort(t)
			hub := natstest.Start(t, fmt.Sprintf("server_name: hub\njetstream { store_dir: %q, domain: hub }\n"+
				"leafnodes { listen: \"127.0.0.1:%d\" }", t.TempDir(), port))
			conf := tt.leaf
			if strings.Contains(conf, "%q") {
				conf = fmt.Sprintf(conf, t.TempDir())
			}
			leaf := natstest.Start(t, fmt.Sprintf("server_name: leaf\n%s\n"+
				"leafnodes { remotes: [ { url: \"nats://127.0.0.1:%d\" } ] }", conf, port))
			env := []string{"NATS_URL=" + leaf.URL, "IFACE_HOST=test", tt.setting, "IFACE_PRESENCE=1s"}
			if tt.setting == byContext {
				env = []string{"IFACE_HOST=test", "NATS_CONTEXT=" + natsContext(t, t.TempDir()+"/leaf.json",
					map[string]any{"url": leaf.URL, "jetstream_api_prefix": "$JS.hub.API"})}
			}
			b := start(t, env)
			b.Ready()
			settled(t, hub)
			holds(t, hub)
			if strings.Contains(tt.leaf, "domain") {
				js := jetStream(t, connect(t, leaf))
				if info, err := js.AccountInfo(context.Background()); err != nil || info.Streams != 0 {
					t.Errorf("the leaf has %+v, %v", info, err)
				}
			}
			ends(t, func() *process { return start(t, env, "links") }, 0, "veth0")
			start(t, env, "watch", "--since", "1h").Says(`"ifname":"veth0"`)
			doctor(t, env, 0, "ok    stream", "ok    bucket")

			wrong := start(t, append(env, "IFACE_JS_DOMAIN=nowhere", "IFACE_HOST=other", "IFACE_HTTP_ADDR="))
			wrong.Says("name the domain that has it in IFACE_JS_DOMAIN")
			doctor(t, append(env, "IFACE_JS_DOMAIN=nowhere"), 1, "name the domain that has it in IFACE_JS_DOMAIN")
		})
	}
}

// Two regions whose hosts have the same names, under two prefixes on the same servers: each
// has a query, an owner, presence and a bucket of its own, by the prefix alone.
func TestTwoPrefixesDoNotMeet(t *testing.T) {
	k := netnstest.Parallel(t)
	upLink(t, k)
	s := natstest.Start(t, "")
	nc := connect(t, s)
	env := func(region string) []string {
		return []string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "IFACE_SUBJECT_PREFIX=" + region + ".iface",
			"IFACE_STREAM=" + region, "IFACE_PRESENCE=1s"}
	}
	bridges := map[string]*process{}
	for i, region := range []string{"eu", "us"} {
		address := fmt.Sprint("IFACE_HTTP_ADDR=127.0.0.1:", 9469+i)
		bridges[region] = start(t, append(env(region), address))
		bridges[region].Ready()
	}
	for region, b := range bridges {
		eventually(t, region+" is in its bucket", func() bool { return len(bucketOf(t, nc, region+"_iface_links")) == 3 })
		eventually(t, region+" answers", func() bool {
			reply, err := nc.Request(schema.QuerySubjectUnder(region+".iface", "test"), nil, time.Second)
			return err == nil && strings.Contains(string(reply.Data), `"veth0"`)
		})
		links := ends(t, func() *process { return start(t, env(region), "links", "test") }, 0)
		if strings.Count(links.Output(), "\n") != 3 {
			t.Errorf("links:\n%s", links.Output())
		}
		doctor(t, env(region), 0, "one runs on this machine")
		if strings.Contains(b.Output(), "standing by") {
			t.Errorf("%s stands by for the other", region)
		}
	}
	doctor(t, append(env("us"), "IFACE_BUCKET=eu_iface_links"), 1, "name another bucket in IFACE_BUCKET")
	doctor(t, append(env("us"), "IFACE_HOSTS_BUCKET=eu_iface_hosts"), 1,
		"FAIL  hosts bucket    bucket eu_iface_hosts is that of the hosts under the prefix eu.iface",
		"name another bucket in IFACE_HOSTS_BUCKET")
	third := start(t, append(env("us"), "IFACE_HOST=third", "IFACE_HTTP_ADDR=",
		"IFACE_BUCKET=eu_iface_links", "IFACE_HOSTS_BUCKET=eu_iface_hosts"))
	third.Says("bucket eu_iface_links is that of the hosts under the prefix eu.iface")
	bridges["us"].Kill()
	if n := len(bucketOf(t, nc, "eu_iface_links")); n != 3 {
		t.Errorf("%d links of eu are left", n)
	}
	if _, err := nc.Request(schema.QuerySubject("test"), nil, harness.Patience); err != nats.ErrNoResponders {
		t.Errorf("under the default prefix: %v", err)
	}
}

// Whoever has the permissions of a viewer does not hear the answers to others: not those to
// bridges, and with an inbox prefix of their own none but theirs, with which the commands
// work.
func TestInboxesAreOnesOwn(t *testing.T) {
	netnstest.Parallel(t)
	permissions := func(env []string, args ...string) string {
		cmd := exec.Command(harness.Command(t), append([]string{"permissions"}, args...)...)
		cmd.Env = env
		out, err := cmd.Output()
		must(t, err)
		return string(out)
	}
	const prefix = "IFACE_INBOX_PREFIX="
	s := natstest.Start(t, fmt.Sprintf(`authorization { users: [
		{ user: test, password: p, %s }
		{ user: mine, password: p, %s }
		{ user: viewer, password: p, %s }
		{ user: alice, password: p, %s }
		{ user: admin, password: p }
	] }`, permissions(nil, "test"), permissions([]string{prefix + "_MINE"}, "mine"), permissions(nil, "--viewer"),
		permissions([]string{prefix + "_INBOX_alice"}, "--viewer")))
	heard := map[string]chan *nats.Msg{}
	for _, user := range []string{"viewer", "admin", "alice"} {
		nc := harness.ConnectTo(t, s.URL, nats.UserInfo(user, "p"),
			nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		heard[user] = make(chan *nats.Msg, 1000)
		for _, subject := range []string{"_INBOX.>", "_INBOX.ifacebridge.>", "_INBOX.ifacebridge.test.>", "_MINE.>"} {
			_, err := nc.ChanSubscribe(subject, heard[user])
			must(t, err)
		}
		harness.Flush(t, nc)
	}
	as := func(user, host, inbox string) []string {
		env := []string{"NATS_URL=" + s.URL, "NATS_USER=" + user, "NATS_PASSWORD=p", "IFACE_HOST=" + host}
		if inbox != "" {
			env = append(env, prefix+inbox)
		}
		return env
	}
	bridges := []*process{
		start(t, as("test", "test", "")),
		start(t, append(as("mine", "mine", "_MINE"), "IFACE_HTTP_ADDR=")),
	}
	for _, b := range bridges {
		b.Says("read the links of this host")
	}
	admin := harness.ConnectTo(t, s.URL, nats.UserInfo("admin", "p"), nats.CustomInboxPrefix("_ADMIN"))
	eventually(t, "both are in the bucket", func() bool { return len(bucketOf(t, admin, "iface_links")) == 2 })
	doctor(t, as("mine", "mine", "_MINE"), 0)
	for user, inbox := range map[string]string{"viewer": "", "alice": "_INBOX_alice"} {
		links := ends(t, func() *process { return start(t, as(user, "x", inbox), "links") }, 0)
		if strings.Count(links.Output(), " lo ") != 2 {
			t.Errorf("links of %s:\n%s", user, links.Output())
		}
		start(t, as(user, "x", inbox), "watch", "--since", "1h").Says(`"ifname":"lo"`)
	}
	eventually(t, "answers are heard", func() bool { return len(heard["admin"]) > 0 })
	for _, user := range []string{"viewer", "alice"} {
		for len(heard[user]) > 0 {
			m := <-heard[user]
			if strings.HasPrefix(m.Subject, "_INBOX.ifacebridge.") || user == "alice" || strings.HasPrefix(m.Subject, "_MINE.") {
				t.Errorf("%s hears %s", user, m.Subject)
			}
		}
	}
	for _, b := range bridges {
		if strings.Contains(b.Output(), "ermissions") {
			t.Errorf("something was refused to a bridge:\n%s", b.Output())
		}
	}
}

// A bridge whose account imports another one's JetStream, under a prefix: it publishes and
// stores there.
func TestJetStreamOfAnotherAccount(t *testing.T) {
	k := netnstest.Parallel(t)
	upLink(t, k)
	s := natstest.Start(t, fmt.Sprintf("jetstream { store_dir: %q }\n", t.TempDir())+`accounts {
		HUB: { jetstream: enabled, users: [ { user: hub, password: p } ], exports: [
			{ service: "$JS.API.>", response_type: stream }, { service: "$KV.>" }, { service: "iface.>" } ] }
		SITE: { users: [ { user: site, password: p } ], imports: [
			{ service: { account: HUB, subject: "$JS.API.>" }, to: "hub.API.>" }
			{ service: { account: HUB, subject: "$KV.>" }, to: "hub.API.$KV.>" }
			{ service: { account: HUB, subject: "iface.>" } } ] }
	}`)
	env := []string{"IFACE_HOST=test", "NATS_CONTEXT=" + natsContext(t, t.TempDir()+"/site.json", map[string]any{
		"url": s.URL, "user": "site", "password": "p", "jetstream_api_prefix": "hub.API"})}
	b := start(t, env)
	eventually(t, "ready", func() bool { return b.Metric("ifacebridge_ready") == 1 })
	hub := harness.ConnectTo(t, s.URL, nats.UserInfo("hub", "p"))
	eventually(t, "the hub's account has the links", func() bool { return len(bucketOf(t, hub, "iface_links")) == 3 })
	if n := len(stored(t, hub, "IFACE")); n < 3 {
		t.Errorf("the hub's account has %d events", n)
	}
	doctor(t, env, 0, "ok    stream")
	ends(t, func() *process {
		return start(t, []string{"NATS_URL=" + s.URL, "NATS_USER=hub", "NATS_PASSWORD=p"}, "links")
	}, 0, "veth0")
}

// Readers in an account that imports what docs/servers.md says, with the context that stands there,
// read all that those of the hosts' account do: the bucket, the stream, the bridges' answers, and
// events as they come; and they can change nothing.
func TestReadersOfAnotherAccount(t *testing.T) {
	k := netnstest.Parallel(t)
	link := upLink(t, k)
	page, err := os.ReadFile("../docs/servers.md")
	must(t, err)
	_, section, _ := strings.Cut(string(page), "### Readers in an account of their own")
	_, conf, _ := strings.Cut(section, "```\n")
	conf, _, _ = strings.Cut(conf, "```")
	s := natstest.Start(t, fmt.Sprintf("jetstream { store_dir: %q }\n", t.TempDir())+conf)
	file := codeBlocks(section, "json")[0]
	file = strings.Replace(file, "nats://nats.example.com", s.URL, 1)
	reader := []string{"NATS_CONTEXT=" + write(t, t.TempDir()+"/reader.json", []byte(file))}
	hosts := []string{"NATS_URL=" + s.URL, "NATS_USER=bridges", "NATS_PASSWORD=bridges"}
	b := start(t, append(hosts, "IFACE_HOST=test", "IFACE_PRESENCE=1s"))
	start(t, append(hosts, "IFACE_HOST=core", "IFACE_DELIVERY=core", "IFACE_HTTP_ADDR="))
	eventually(t, "ready", func() bool { return b.Metric("ifacebridge_ready") == 1 })

	live := start(t, reader, "watch")
	live.Says("connected to NATS")
	past := start(t, reader, "watch", "--since", "1h")
	past.Says(`"ifname":"veth0"`)
	links := func(what string, per int, silent string) {
		t.Helper()
		eventually(t, what, func() bool {
			p := start(t, reader, "links")
			status, n := p.Wait(), 0
			for line := range strings.Lines(p.Output()) {
				if strings.HasPrefix(line, "test  ") && strings.Contains(line, silent) || strings.HasPrefix(line, "core  ") {
					n++
				}
			}
			return status == 0 && n == per
		})
	}
	links("links prints those of both hosts", 6, "")
	changes := 0
	eventually(t, "both see a change", func() bool { // they begin to hear a moment after they are connected
		changes++
		must(t, k.SetAlias(link, fmt.Sprint("seen ", changes)))
		return strings.Contains(live.Output(), `"ifalias":"seen `) && strings.Contains(past.Output(), `"ifalias":"seen `)
	})
	for _, w := range []*process{live, past} {
		if status := stop(w); status != 0 {
			t.Errorf("watch: exit status %d", status)
		}
		for line := range strings.Lines(w.Output()) {
			if strings.Contains(line, "level=WARN") && !strings.Contains(line, "no answer in time") {
				t.Errorf("watch complains: %s", line)
			}
		}
	}
	b.Kill()
	links("links has those of the silent host from the buckets", 6, "silent since")

	nc := harness.ConnectTo(t, s.URL, nats.UserInfo("reader", "reader"), nats.CustomInboxPrefix("_INBOX_readers"))
	for _, subject := range []string{
		"iface.test.new", "$KV.iface_links.test.1", "hosts.API.$KV.iface_links.test.1",
		"hosts.API.STREAM.DELETE.IFACE", "hosts.API.STREAM.PURGE.IFACE", "hosts.API.STREAM.UPDATE.IFACE",
	} {
		if _, err := nc.Request(subject, []byte("{}"), harness.Patience); err != nats.ErrNoResponders {
			t.Errorf("a reader's request on %s: %v", subject, err)
		}
	}
}
