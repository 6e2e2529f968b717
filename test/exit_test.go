package test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// Those who ask NATS tell by their exit status that nobody answers (4) from that they are
// not permitted (5), from a wrong setting (2), and from that there is nothing (1).
func TestExitStatuses(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, fmt.Sprintf(`authorization { users: [
		{ user: admin, password: p }
		{ user: viewer, password: p, %s }
		{ user: nobody, password: p, permissions: { publish: "nothing", subscribe: "_INBOX.>" } }
	] }`, permissionsOf(t, "--viewer")))
	as := func(user string) []string {
		return []string{"NATS_URL=" + s.URL, "NATS_USER=" + user, "NATS_PASSWORD=p"}
	}
	stores := start(t, append(as("admin"), "IFACE_HOST=stores"))
	frozen := start(t, append(as("admin"), "IFACE_HOST=frozen", "IFACE_DELIVERY=core", "IFACE_HTTP_ADDR="))
	for _, host := range []string{"stores", "frozen"} {
		eventually(t, "links prints "+host, func() bool { return start(t, as("admin"), "links", host).Wait() == 0 })
	}
	frozen.Signal(unix.SIGSTOP)
	mute, err := net.Listen("tcp", "127.0.0.1:0") // by the kernel, and nobody speaks
	must(t, err)
	defer mute.Close()
	closed := []string{"NATS_URL=nats://127.0.0.1:1"}
	silent := []string{"NATS_URL=nats://" + mute.Addr().String()}
	wrong := append(as("admin"), "NATS_PASSWORD=wrong")
	const denied = "Permissions Violation for "
	cases := []struct {
		what   string
		env    []string
		args   string
		status int
		says   string
	}{
		{"a viewer", as("viewer"), "links stores", 0, "stores  lo  "},
		{"a host that is named twice", as("viewer"), "links stores stores", 0, "stores  lo  "},
		{"nothing is known", as("viewer"), "links elsewhere", 1, "no links are known of elsewhere"},
		{"its bridge stands still", as("viewer"), "links frozen", 4,
			"the bridge of frozen did not answer: no answer in time"},
		{"some are known", as("viewer"), "links stores elsewhere", 1, "stores  lo  "},
		{"nobody listens", closed, "links", 4, "cannot reach NATS at nats://127.0.0.1:1 within 5s: "},
		{"nobody speaks", silent, "links", 4, "cannot reach NATS at nats://127.0.0.1:"},
		{"a wrong password", wrong, "links", 5, "Authorization Violation; check NATS_CREDS"},
		{"no permission", as("nobody"), "links", 5, denied},
		{"no permission to know of a host", as("nobody"), "links elsewhere", 5, denied},
		{"a wrong setting", append(as("viewer"), "IFACE_QUEUE=x"), "links", 2, "IFACE_QUEUE: "},

		{"a viewer", as("viewer"), "watch", 0, "connected to NATS"},
		{"a viewer of the past", as("viewer"), "watch --since 1h", 0, `"ifname":"lo"`},
		{"of a host that is named twice", as("viewer"), "watch stores --host stores --since 1h", 0, `"ifname":"lo"`},
		{"there is no stream", append(as("admin"), "IFACE_STREAM=NONE"), "watch --since 1h", 1,
			"cannot follow the fleet; retrying"},
		{"nobody listens", closed, "watch", 4, "connect: connection refused"},
		{"nobody speaks", silent, "watch", 4, "cannot connect to NATS; retrying"},
		{"a wrong password", wrong, "watch", 5, "Authorization Violation"},
		{"no permission", as("nobody"), "watch", 5, denied},
		{"a wrong setting", append(as("viewer"), "IFACE_QUEUE=x"), "watch", 2, "IFACE_QUEUE: "},

		{"all is well", append(as("admin"), "IFACE_HOST=stores"), "doctor", 0, "ok    stream"},
		{"nobody listens", append(closed, "IFACE_HOST=stores"), "doctor", 4, "FAIL  NATS"},
		{"nobody speaks", append(silent, "IFACE_HOST=stores"), "doctor", 4, "FAIL  NATS"},
		{"a wrong password", append(wrong, "IFACE_HOST=stores"), "doctor", 5, "FAIL  NATS"},
		{"no permission", append(as("nobody"), "IFACE_HOST=stores"), "doctor", 5, "FAIL  permissions"},
		{"a wrong setting", append(as("admin"), "IFACE_QUEUE=x"), "doctor", 2, "IFACE_QUEUE: "},

		{"nobody listens", closed, "forget stores", 4, "cannot reach NATS"},
		{"a wrong password", wrong, "forget stores", 5, "Authorization Violation"},
		{"its bridge runs", as("admin"), "forget stores", 1, "stores is not forgotten: "},
	}
	running := make([]*process, len(cases))
	for i, tt := range cases {
		running[i] = start(t, tt.env, strings.Fields(tt.args)...)
	}
	for i, tt := range cases {
		t.Logf("%s, %s", tt.args, tt.what)
		ends(t, func() *process {
			p := running[i]
			if running[i] = nil; p == nil {
				p = start(t, tt.env, strings.Fields(tt.args)...)
			}
			if strings.HasPrefix(tt.args, "watch") && tt.status != 2 { // it would follow for ever
				p.Says(tt.says)
				stop(p)
			}
			return p
		}, tt.status, tt.says)
	}
	allConfirmed(t, stores)
	if status := stop(stores); status != 0 {
		t.Errorf("the bridge: exit status %d", status)
	}
	// A bridge fails as ever, whatever the reason is.
	b := start(t, append(closed, "IFACE_HOST=test"))
	b.Says("read the links of this host")
	if status := stop(b); status != 1 {
		t.Errorf("a bridge without NATS: exit status %d", status)
	}
}

// stop ends a process as a service manager does, and returns its exit status.
func stop(p *process) int {
	p.Signal(unix.SIGTERM)
	return p.Wait()
}

// Who is interrupted says that, and nothing else that the interruption has made of the rest.
func TestInterrupted(t *testing.T) {
	netnstest.Parallel(t)
	mute, err := net.Listen("tcp", "127.0.0.1:0") // by the kernel, and nobody speaks
	must(t, err)
	defer mute.Close()
	env := []string{"NATS_URL=nats://" + mute.Addr().String(), "IFACE_HOST=test"}
	for command, before := range map[string]string{"doctor": "ok    host ", "links": "", "forget web01": ""} {
		p := start(t, env, strings.Fields(command)...)
		p.Says(before)
		accepted, err := mute.Accept() // it waits for an answer
		must(t, err)
		p.Signal(unix.SIGINT)
		if status := p.Wait(); status != 1 || !strings.HasSuffix(p.Output(), "\nifacebridge: interrupted\n") &&
			p.Output() != "ifacebridge: interrupted\n" {
			t.Errorf("%s: exit status %d:\n%s", command, status, p.Output())
		}
		if strings.Contains(p.Output(), "FAIL") || strings.Contains(p.Output(), "NATS ") {
			t.Errorf("%s judges:\n%s", command, p.Output())
		}
		accepted.Close()
	}
}

// What could not be printed was not done: a script that writes into a full disk learns it.
func TestOutputIsNotTaken(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	gone := bridge(t, s, "IFACE_HOST=gone", "IFACE_HTTP_ADDR=")
	bridge(t, s).Ready()
	env := []string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}
	for _, host := range []string{"gone", "test"} {
		eventually(t, "links prints "+host, func() bool { return start(t, env, "links", host).Wait() == 0 })
	}
	gone.Kill()
	for _, command := range []string{
		"doctor", "config", "links", "links --json", "links --watch", "watch --json --since 1h", "permissions",
		"schema", "man", "version", "healthcheck", "forget gone",
	} {
		p := startBinary(t, "/bin/sh", env, "-c", "exec "+harness.Command(t)+" "+command+" >/dev/full")
		if status := p.Wait(); status != 1 || !strings.Contains(p.Output(), "no space left on device") {
			t.Errorf("%s: exit status %d:\n%s", command, status, p.Output())
		}
	}
}

// The bridge on this host is asked straight, whatever proxy the environment names.
func TestHealthcheckGoesStraight(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	ip := startBinary(t, netnstest.Tool(t, "ip"), nil, "address", "add", "192.0.2.1/32", "dev", "lo")
	if status := ip.Wait(); status != 0 {
		t.Fatal(ip.Output())
	}
	env := []string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "IFACE_HTTP_ADDR=192.0.2.1:9469",
		"HTTP_PROXY=http://127.0.0.1:1"} // nobody listens there
	start(t, env).Ready()
	eventually(t, "it is ready", func() bool { return start(t, env, "healthcheck").Wait() == 0 })
	doctor(t, env, 0, "ok    bridge          the one that serves 192.0.2.1:9469 is ready")
}
