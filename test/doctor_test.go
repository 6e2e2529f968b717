package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"golang.org/x/sys/unix"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// permissionsOf returns the block that the program prints for a host.
func permissionsOf(t *testing.T, host string) string {
	t.Helper()
	block, err := exec.Command(harness.Command(t), "permissions", host).Output()
	must(t, err)
	return string(block)
}

// A user that is another host's is refused the subject of its answers, so that whatever the
// bridge asks later goes without one: the log and /readyz name the subject and the remedy all
// the same, however long, and with it the bridge works.
func TestUserOfAnotherHost(t *testing.T) {
	netnstest.Parallel(t)
	conf := func(host string) string {
		return "authorization { users: [ { user: u, password: p, " + permissionsOf(t, host) + " } ] }"
	}
	s := natstest.Start(t, conf("web02"))
	b := bridge(t, s, "NATS_USER=u", "NATS_PASSWORD=p")
	b.Says(`Permissions Violation for Subscription to \"_INBOX.ifacebridge.test.`)
	b.Says("grant what this prints: ifacebridge permissions test")
	eventually(t, "what is asked goes without an answer", func() bool {
		return strings.Contains(b.Output(), "no answer in time")
	})
	for _, text := range []string{
		"publishing fails: ", "NATS refuses a subject to this user: ", `"_INBOX.ifacebridge.test.`,
		"grant what this prints: ifacebridge permissions test",
	} {
		eventually(t, "/readyz has "+text, func() bool {
			_, ready := get(t, "/readyz")
			return strings.Contains(ready, text)
		})
	}
	if strings.Contains(b.Output(), "nats stream add") {
		t.Error("the advice is to create a stream, which is not what is refused")
	}
	s.Configure(conf("test"))
	s.Signal(unix.SIGHUP)
	began := time.Now()
	eventually(t, "it works", func() bool { status, _ := get(t, "/readyz"); return status == 200 })
	t.Logf("it works %v after the subjects were granted", time.Since(began).Round(time.Millisecond))
	if n := strings.Count(b.Output(), "cannot publish"); n > 12 {
		t.Errorf("%d lines of the log say that it cannot publish", n)
	}
}

// Subjects of subscriptions that are granted on the connection on which they were refused work
// from then on: those that the bridge answers on, at the next comparison, and the events, for
// watch. Who is not granted them is not disturbed, and told once.
func TestSubscriptionsAreGranted(t *testing.T) {
	k := netnstest.Parallel(t)
	conf := func(bridge, reader string) string {
		return fmt.Sprintf(`authorization { users: [
			{ user: bridge, password: p, permissions: { subscribe: { deny: [ %s ] } } },
			{ user: reader, password: p, permissions: { subscribe: { deny: [ %s ] } } },
			{ user: admin, password: p } ] }`, bridge, reader)
	}
	const snapshot, links = "ifacebridge.test.snapshot", "ifacebridge.test.links"
	s := natstest.Start(t, conf(snapshot+", "+links, `"iface.*.*"`))
	nc := harness.ConnectTo(t, s.URL, nats.UserInfo("admin", "p"))
	b := bridge(t, s, "NATS_USER=bridge", "NATS_PASSWORD=p", "IFACE_RESYNC=500ms")
	b.Ready()
	const reconnects = "ifacebridge_nats_reconnects_total"
	before := b.Metric(reconnects)
	w := start(t, []string{"NATS_URL=" + s.URL, "NATS_USER=reader", "NATS_PASSWORD=p"}, "watch", "--json")
	w.Says("NATS refuses a subject to this user")
	answers := func(subject string) bool {
		m, err := nc.Request(subject, nil, time.Second)
		return err == nil && m.Header.Get(micro.ErrorCodeHeader) == ""
	}
	refused := func(subject string) int {
		return strings.Count(s.Log(), fmt.Sprintf(`user:bridge" - Subscription Violation - Subject %q`, subject))
	}
	eventually(t, "it subscribes again", func() bool { return refused(snapshot) > 2 && refused(links) > 2 })
	for _, subject := range []string{snapshot, links} {
		if n := strings.Count(b.Output(), fmt.Sprintf(`Subscription to \"%s\"`, subject)); n != 1 || answers(subject) {
			t.Errorf("%s is refused, which is logged %d times", subject, n)
		}
	}
	eventually(t, "what is granted is answered", func() bool { return answers("ifacebridge.test.owner") })
	s.Configure(conf(links, `"iface.*.*"`))
	s.Signal(unix.SIGHUP)
	eventually(t, "the snapshot is told", func() bool { return answers(snapshot) })
	s.Configure(conf("none", "none"))
	s.Signal(unix.SIGHUP)
	eventually(t, "the links are told", func() bool { return answers(links) })
	changes := 0
	eventually(t, "an event is printed", func() bool {
		changes++
		must(t, k.SetAlias(1, fmt.Sprint(changes)))
		return strings.Contains(w.Output(), `"cause":"notification"`)
	})
	if n := b.Metric(reconnects); n != before {
		t.Errorf("it connected again %v times", n-before)
	}
}

// The advice about a refused subject is a command that whoever grants it can paste into a
// shell of another machine, without the bridge's settings: what that prints is what the
// bridge needs with them.
func TestAdviceCanBePasted(t *testing.T) {
	netnstest.Parallel(t)
	conf := func(permissions string) string {
		return "authorization { users: [ { user: u, password: p, " + permissions + " } ] }"
	}
	s := natstest.Start(t, conf(`permissions: { publish: { deny: "eu.iface.*.new" } }`))
	env := []string{"NATS_URL=" + s.URL, "NATS_USER=u", "NATS_PASSWORD=p", "IFACE_HOST=web 01's",
		"IFACE_SUBJECT_PREFIX=eu.iface", "IFACE_STREAM=EU", "IFACE_BUCKET=eu", "IFACE_INBOX_PREFIX=_EU"}
	b := start(t, env)
	b.Says("cannot publish; events are kept until it works again")
	var advice string
	eventually(t, "/readyz has the command", func() bool {
		_, ready := get(t, "/readyz")
		_, fails, _ := strings.Cut(ready, "publishing fails: ")
		fails, _, _ = strings.Cut(fails, "\n")
		_, advice, _ = strings.Cut(fails, "; grant what this prints: ")
		return advice != ""
	})
	b.Says(strings.ReplaceAll(advice, `\`, `\\`) + `"`) // the log has it, too
	paste := func(command string) string {
		shell := exec.Command("/bin/sh", "-c", command)
		shell.Env = []string{"PATH=" + filepath.Dir(harness.Command(t))}
		block, err := shell.Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		return string(block)
	}
	s.Configure(conf(paste(advice)))
	s.Signal(unix.SIGHUP)
	eventually(t, "it works", func() bool { status, _ := get(t, "/readyz"); return status == 200 })
	doctor(t, env, 0)
	if n := strings.Count(b.Output(), "Permissions Violation for"); n > 2 { // where it was refused, and could not publish
		t.Errorf("more was refused:\n%s", b.Output())
	}
}

// A stream of somebody else has the subjects: the bridge cannot create its own, and the
// log, /readyz and doctor tell which remedies there are. With one of them it works.
func TestAnotherStreamHasTheSubjects(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	js := jetStream(t, connect(t, s))
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"iface.>"}})
	must(t, err)
	b := bridge(t, s)
	b.Says("another stream has the subjects (`nats stream ls --subject 'iface.*.*'` shows it): name it in IFACE_STREAM")
	doctor(t, []string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}, 1,
		"FAIL  stream          IFACE is not there, and cannot be created: stream OTHER has its subjects",
		"set IFACE_STREAM=OTHER, or take the subjects from that stream")
	b.Kill()
	bridge(t, s, "IFACE_STREAM=OTHER")
	eventually(t, "events in the other stream", func() bool {
		other, err := js.Stream(t.Context(), "OTHER")
		return err == nil && other.CachedInfo().State.Msgs > 0
	})
}

// doctor says what is wrong and what to do about it, with the status that a script
// needs, and leaves no trace.
func TestDoctor(t *testing.T) {
	t.Parallel()
	users := func(permissions string) string {
		return fmt.Sprintf("authorization { users: [ { user: u, password: s3cr3t-p, %s } ] }", permissions)
	}
	user := []string{"NATS_USER=u", "NATS_PASSWORD=s3cr3t-p"}
	tests := []struct {
		name, conf string
		env        []string
		bridge     bool
		status     int
		says       []string
	}{
		{"all is well", "", nil, true, 0, []string{
			"ok    netlink", "ok    NATS", "ok    stream", "ok    clock", "ok    bucket", "ok    hosts bucket",
			"ok    last event      of this host was stored", "one runs on this machine", `user "" may do everything`}},
		{"nothing there yet", "", nil, false, 0, []string{
			"IFACE is not there; the bridge creates it, if it may", "nats stream add IFACE", "none writes as this host now"}},
		{"a wrong password", users(""), []string{"NATS_USER=u", "NATS_PASSWORD=s3cr3t-wrong"}, false, 5, []string{
			"FAIL  NATS", "Authorization Violation",
			"check NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, or NATS_TOKEN"}},
		{"no JetStream", "jetstream: false", nil, false, 1, []string{
			"FAIL  JetStream", "set IFACE_DELIVERY=core"}},
		{"core needs none", "jetstream: false", []string{"IFACE_DELIVERY=core"}, false, 0, []string{
			"none writes as this host now"}},
		{"a subject is missing", users(`permissions: {
			publish: ["iface.test.new", "$JS.>", "$SYS.REQ.USER.INFO", "$SRV.>"], subscribe: ">" }`), user, false, 5, []string{
			"FAIL  permissions", "ifacebridge permissions test",
			`user "u" may not publish to iface.test.del, publish to ifacebridge.test.owner, ` +
				"publish to $KV.iface_links.test.>"}},
		{"a user of another host", users(permissionsOf(t, "web02")), user, false, 5, []string{
			"FAIL  permissions     the server does not let this user ask for them",
			`Permissions Violation for Subscription to "_INBOX.ifacebridge.test.`,
			"give it what this prints: ifacebridge permissions test", "warn  other bridges   they cannot be asked"}},
		{"a filter for all links", "", []string{"IFACE_INCLUDE=nothing*"}, false, 0, []string{
			`warn  filter          it leaves out every link: "lo"`}},
		{"a filter for some", "", []string{"IFACE_EXCLUDE=veth*"}, false, 0, []string{
			`ok    filter          it leaves out "veth0"; IFACE_INCLUDE and IFACE_EXCLUDE decide`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := netnstest.Parallel(t)
			_, _, err := k.AddVeth("veth0", "eth1")
			must(t, err)
			s := natstest.Start(t, tt.conf)
			var r *harness.Recorder
			if tt.conf == "" {
				r = record(t, s)
			}
			if tt.bridge {
				b := bridge(t, s)
				b.Ready()
				r.Snapshot()
				holds(t, s)
			}
			before := 0
			if r != nil {
				before = r.Mark()
			}
			d := doctor(t, append([]string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}, tt.env...), tt.status, tt.says...)
			if strings.Contains(d.Output(), "s3cr3t") {
				t.Error("a secret is shown")
			}
			if r != nil && r.Mark() != before {
				t.Error("something was published")
			}
		})
	}
	doctor(t, []string{"NATS_URL=nats://127.0.0.1:1", "IFACE_HOST=test"}, 4, "connect: connection refused")
}
