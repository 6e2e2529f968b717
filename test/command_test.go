package test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
	"ifacebridge/test/schematest"
)

// The first thing that a newcomer does: the bridge without a variable set, watch
// beside it, and a pair that comes and goes.
func TestMainJobFromOneCommand(t *testing.T) {
	k := netnstest.Parallel(t)
	b := start(t, []string{"IFACE_HOST=test"})
	b.Says("NATS_URL is unset: serving NATS with JetStream, on this machine only")
	b.Ready()
	w := start(t, nil, "watch")
	w.Says("connected to NATS")
	eventually(t, "links prints the loopback", func() bool {
		l := start(t, nil, "links")
		return l.Wait() == 0 && strings.Contains(l.Output(), "test  lo  ")
	})
	js := start(t, nil, "watch", "--json", "test")
	js.Says("connected to NATS")

	// watch subscribes a moment after it has said that it is connected.
	eventually(t, "both have seen a pair come and go", func() bool {
		a, _, err := k.AddVeth("veth0", "veth1")
		must(t, err)
		must(t, k.Delete(a))
		for _, line := range []string{`"action":"created"`, `"ifname":"veth0"`, `"ifname":"veth1"`, `"action":"deleted"`} {
			if !strings.Contains(w.Output(), line) {
				return false
			}
		}
		return strings.Contains(js.Output(), `"action":"deleted"`)
	})
	allConfirmed(t, b)
	for _, p := range []*process{w, js, b} {
		p.Signal(unix.SIGINT)
		if status := p.Wait(); status != 0 {
			t.Errorf("exit status %d after SIGINT", status)
		}
	}
	b.Says("stopped; every event is confirmed")

	// The embedded server listens on loopback only, and somebody else's port is
	// said to be theirs, at once.
	l, err := net.Listen("tcp", "127.0.0.1:4222")
	must(t, err)
	defer l.Close()
	taken := start(t, []string{"IFACE_HOST=test"})
	if status := taken.Wait(); status != 1 {
		t.Errorf("exit status %d when the port is taken", status)
	}
	taken.Says("the port is taken; to publish to the server that has it, set NATS_URL=nats://127.0.0.1:4222")
}

// allConfirmed waits until NATS has confirmed what the bridge has read. One that is stopped
// before that ends with status 1 when the server stalls.
func allConfirmed(t testing.TB, b *process) {
	t.Helper()
	eventually(t, "every event is confirmed", func() bool {
		return b.Metric("ifacebridge_ready") == 1 && b.Metric("ifacebridge_unconfirmed_events") == 0
	})
}

// A store directory that cannot be written is said, with what to do.
func TestStoreDirectory(t *testing.T) {
	netnstest.Parallel(t)
	b := start(t, []string{"IFACE_HOST=test", "IFACE_STORE_DIR=/proc/none"})
	if status := b.Wait(); status != 1 {
		t.Errorf("exit status %d", status)
	}
	b.Says("store directory: mkdir /proc/none: no such file or directory; set IFACE_STORE_DIR to one that can be written")
}

// A build without the server says that it needs one, and those say it that look at its settings.
func TestNoEmbed(t *testing.T) {
	t.Parallel()
	binary := natstest.Binary(t, "ifacebridge/cmd/ifacebridge", "-tags", "noembed")
	for _, command := range [][]string{nil, {"doctor"}, {"config"}} {
		b := startBinary(t, binary, nil, command...)
		if status := b.Wait(); status != 2 {
			t.Errorf("%v: exit status %d", command, status)
		}
		b.Says("ifacebridge: NATS_URL: is unset, and this build has no embedded server")
	}
}

// Mistakes on the command line and in the environment: named, and status 2.
func TestExitStatusOfMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		env  []string
		says string
	}{
		{[]string{"frobnicate"}, nil, `unexpected argument "frobnicate"; see ifacebridge --help`},
		{[]string{"--frobnicate"}, nil, `unknown flag: --frobnicate`},
		{[]string{"watch", ""}, nil, `host name: empty`},
		{[]string{"watch", "--host", ""}, nil, `--host: is empty`},
		{[]string{"watch", "--kind", "", "web01"}, nil, `--kind: is empty`},
		{[]string{"watch", "--event", ""}, nil, `--event: is empty`},
		{[]string{"completion", "bash", "extra"}, nil, `unexpected argument "extra"; see ifacebridge completion bash`},
		{nil, []string{"NATS_URL=nats://:x"}, `NATS_URL: does not parse`},
		{nil, []string{"NATS_URL=nats://h", "NATS_CREDS=/none"}, `NATS_CREDS: open /none: no such file or directory`},
		{nil, []string{"IFACE_HTTP_ADDR=9469"},
			`IFACE_HTTP_ADDR: not an address (got "9469"); accepted: host:port, :port for all addresses, or empty for none`},
		{nil, []string{"NATS_URL=nats://h", "IFACE_SPOOL_DIR=/proc/none"},
			`IFACE_SPOOL_DIR: cannot be used: mkdir /proc/none: no such file or directory; ` +
				`accepted: a directory that can be written`},
		{nil, []string{"IFACE_HOST="}, `IFACE_HOST: is set but empty`},
		{nil, []string{"IFACE_LABELS=site=fra1,Rack=b12"}, `IFACE_LABELS: "Rack=b12": the key has another character`},
		{[]string{"forget"}, nil, `which host? name one, or more, or give --silent-for`},
		{[]string{"forget", "web01", ""}, nil, `host name: empty`},
		{[]string{"forget", "web01", "--silent-for", "24h"}, nil, `--silent-for is for all hosts, it takes no host`},
		{[]string{"forget", "--silent-for", "-24h"}, nil, `--silent-for: in the future`},
		{[]string{"forget", "web01"}, []string{"IFACE_DELIVERY=core"},
			`IFACE_DELIVERY: nothing is stored that could be forgotten`},
		{[]string{"links", "--label", "site"}, nil, `"site": no value; accepted: key=value`},
		{[]string{"watch", "--label", "=fra1"}, nil, `"=fra1": no key; accepted: key=value`},
		{nil, []string{"IFACE_SPEED=11"}, `IFACE_SPEED: unknown variable`},
		{[]string{"config"}, []string{"IFACE_QUEUE=x", "NATS_PASSWORD=hunter2"}, `NATS_PASSWORD: is set without NATS_USER`},
	} {
		p := start(t, tt.env, tt.args...)
		if status := p.Wait(); status != 2 {
			t.Errorf("%v %v: exit status %d", tt.env, tt.args, status)
		}
		p.Says(tt.says)
		if strings.Contains(p.Output(), "hunter2") {
			t.Errorf("a secret is shown:\n%s", p.Output())
		}
	}
}

func TestCommandsThatOnlyPrint(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ command, says string }{
		{"version", "ifacebridge "}, {"schema", string(schema.JSONSchema())}, {"config", "IFACE_RCVBUF"}, {"--help", "Exit status:"},
	} {
		p := start(t, []string{"IFACE_HOST=x"}, tt.command)
		if status := p.Wait(); status != 0 {
			t.Errorf("%s: exit status %d", tt.command, status)
		}
		p.Says(tt.says)
	}
}

// SIGTERM at any moment from the first line of the log on: either everything is confirmed,
// and the status 0, or the number of events that are not is said, and the status 1.
func TestSigterm(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a := upLink(t, k)
	const stops = 8
	for i := range stops {
		b := bridge(t, s)
		stop := make(chan struct{})
		changed := make(chan error)
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					changed <- nil
					return
				case <-time.After(500 * time.Microsecond):
				}
				if err := k.SetAlias(a, fmt.Sprint(i)); err != nil {
					changed <- err
					return
				}
			}
		}()
		b.Says("ifacebridge starts") // before it, nothing handles the signal
		if i == stops-1 {
			b.Ready() // at least this one has events to confirm
		}
		time.Sleep(time.Duration(i) * 25 * time.Millisecond)
		b.Signal(unix.SIGTERM)
		status := b.Wait()
		close(stop)
		must(t, <-changed)
		switch status {
		case 0:
		case 1: // on a busy machine
			b.Says("events were not confirmed by NATS within 5s")
		default:
			t.Errorf("after %d ms: exit status %d", i*25, status)
		}
	}
	replayAll(t, stored(t, connect(t, s), "IFACE"))

	b := bridge(t, s)
	b.Says("using the stream as it is")
	holds(t, s) // it may be what the bridge before has left
	allConfirmed(t, b)
	s.Kill()
	must(t, k.SetAlias(a, "unheard"))
	began := time.Now()
	b.Signal(unix.SIGTERM)
	if status := b.Wait(); status != 1 {
		t.Errorf("without a server: exit status %d after %v", status, time.Since(began))
	}
	b.Says("1 events were not confirmed by NATS within 5s")
}

// A server that is down is said once, and once when it is back; nothing is lost.
func TestServerIsDown(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.New(t, "")
	began := time.Now()
	b := bridge(t, s)
	b.Says("cannot connect to NATS; retrying")
	b.Says("read the links of this host") // what changes before is in the snapshot
	a, _, err := k.AddVeth("veth0", "veth1")
	must(t, err)
	must(t, k.Delete(a))
	s.Start()
	b.Says("connected to NATS")
	nc := connect(t, s)
	b.Ready()
	eventually(t, "both ends of the pair are gone", func() bool {
		dels := 0
		for _, e := range stored(t, nc, "IFACE") {
			if e.Kind == schema.Del {
				dels++
			}
		}
		return dels >= 2
	})
	allConfirmed(t, b)
	b.Signal(unix.SIGTERM)
	if status := b.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	events := stored(t, nc, "IFACE")
	replayAll(t, events)
	if last := events[len(events)-1]; last.Kind != schema.Del {
		t.Errorf("the last event is %v %s", last.Kind, last.Link.Name)
	}
	// A server that is slow to start is another cause, and said, too.
	if n := strings.Count(b.Output(), "connection refused"); n < 1 || n > 1+int(time.Since(began)/time.Minute) {
		t.Errorf("said %d times that NATS is down", n)
	}
}

// What the README says is true: its settings are the program's, its event is
// valid, its commands are the program's commands.
func TestReadme(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join("..", "README.md"))
	must(t, err)
	out, err := exec.Command(harness.Command(t), "config").Output()
	must(t, err)
	for line := range strings.Lines(string(out)) {
		variable := strings.Fields(line)[0]
		if variable != "VARIABLE" && !bytes.Contains(readme, []byte("`"+variable+"`")) {
			t.Errorf("the README does not have %s", variable)
		}
	}
	for _, block := range codeBlocks(string(readme), "json") {
		var e schema.Event
		if err := e.UnmarshalJSON([]byte(block)); err != nil {
			t.Errorf("%v\n%s", err, block)
		}
		schematest.Validate(t, []byte(block))
	}
	help, err := exec.Command(harness.Command(t), "--help").Output()
	must(t, err)
	for _, block := range codeBlocks(string(readme), "sh") {
		for line := range strings.Lines(block) {
			_, args, ok := strings.Cut(line, "./cmd/ifacebridge ")
			if ok && !strings.HasPrefix(strings.TrimSpace(args), "#") && !strings.Contains(string(help), "\n  "+strings.Fields(args)[0]) {
				t.Errorf("the README runs a command that is not there: %s", line)
			}
		}
	}
}

// codeBlocks returns the fenced blocks of a language.
func codeBlocks(markdown, language string) []string {
	var blocks []string
	for {
		_, rest, ok := strings.Cut(markdown, "```"+language+"\n")
		if !ok {
			return blocks
		}
		block, after, _ := strings.Cut(rest, "```")
		blocks, markdown = append(blocks, block), after
	}
}
