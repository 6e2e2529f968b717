package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
	"ifacebridge/test/proctest"
)

// A terminal is a real one, tmux, with a command in it.
type terminal struct {
	t      testing.TB
	tmux   string
	socket string
}

func startTerminal(t testing.TB, width, height int, env []string, command string) *terminal {
	t.Helper()
	m := &terminal{t: t, tmux: netnstest.Tool(t, "tmux"), socket: filepath.Join(harness.SocketDir(t), "tmux")}
	server := exec.Command(m.tmux, "-D", "-f", "/dev/null", "-S", m.socket) // no daemon: it ends with the test
	run, err := proctest.Start(server, netnstest.Where(t).Enter, proctest.NewLog(t, "tmux"))
	must(t, err)
	t.Cleanup(run.Kill)
	eventually(t, "tmux serves", func() bool { return m.command("list-sessions").Run() == nil })
	m.run("new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height),
		"env "+strings.Join(env, " ")+" "+command)
	return m
}

func (m *terminal) command(args ...string) *exec.Cmd {
	return exec.Command(m.tmux, append([]string{"-N", "-S", m.socket}, args...)...)
}

func (m *terminal) run(args ...string) string {
	m.t.Helper()
	out, err := m.command(args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("tmux %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (m *terminal) screen() string { return m.run("capture-pane", "-p") }

// colours reports whether the screen has a foreground colour (SGR 30 to 38, 90 to 97).
func (m *terminal) colours() bool {
	return regexp.MustCompile(`\x1b\[([0-9]+;)*(3[0-8]|9[0-7])(;[0-9]+)*m`).MatchString(m.run("capture-pane", "-p", "-e"))
}

func (m *terminal) keys(keys ...string) {
	m.t.Helper()
	m.run(append([]string{"send-keys"}, keys...)...)
}

// shows waits until the screen has all of the texts, and logs it.
func (m *terminal) shows(what string, texts ...string) string {
	m.t.Helper()
	screen := ""
	defer func() { m.t.Logf("%s:\n%s", what, screen) }()
	eventually(m.t, what, func() bool {
		screen = m.screen()
		for _, text := range texts {
			if !strings.Contains(screen, text) {
				return false
			}
		}
		return true
	})
	return screen
}

// bridged makes a bridge br0 with one end of a veth pair as its port, all up.
func bridged(t testing.TB, k *netnstest.Kernel, port, far string) (index, peer int32) {
	t.Helper()
	br, err := k.Add("br0", 0, netnstest.Kind{Name: "bridge"})
	must(t, err)
	index, peer, err = k.AddVeth(port, far)
	must(t, err)
	must(t, k.SetUint32(index, unix.IFLA_MASTER, uint32(br)))
	must(t, k.Up(br, index, peer))
	return index, peer
}

// What the table does not do is refused on a terminal, and not ignored.
func TestWatchTableHasNoEvents(t *testing.T) {
	t.Parallel()
	m := startTerminal(t, 120, 24, nil, "sh -c '"+harness.Command(t)+" watch --event del; echo status $?; exec cat'")
	m.shows("a refusal", "--event: is for events, not for the table; give --json, too", "status 2")
}

// watch in a real terminal: the table, typing to filter, a link's last events, a
// lost connection, narrow and wide.
func TestWatchTable(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	b := bridge(t, s, "IFACE_HOST=web01.example.com", "IFACE_PRESENCE=1s")
	b.Ready()
	a, peer := bridged(t, k, "veth0", "veth1")
	binary := harness.Command(t)
	m := startTerminal(t, 120, 24, []string{"TERM=xterm-256color", "NATS_URL=" + s.URL}, binary+" watch")
	m.shows("the table", "ifacebridge watch  1 host  4 links", "HOST", "FLAPS", "br0 ", "veth1@veth0",
		"web01.example.com", "type to filter")
	must(t, k.SetFlags(peer, unix.IFF_UP, false))
	m.shows("a link without carrier", "LOWERLAY") // the kernel may fold a carrier that goes and comes at once
	must(t, k.Up(peer))
	must(t, k.SetUint32(a, unix.IFLA_MTU, 1400))
	m.keys("VETH0 br0")
	m.shows("a filter", "filter: VETH0 br0", "1 link ", "veth0@veth1", "1400")
	m.keys("Enter")
	m.shows("a link's last events", "ifindex", "mtu 1500 → 1400", `operstate "LOWERLAYERDOWN" → "UP"`, "flags +LOWER_UP")
	m.run("resize-window", "-x", "80", "-y", "24")
	for line := range strings.Lines(m.shows("80 columns", "FLAPS", "mtu 1500")) {
		if len([]rune(strings.TrimRight(line, " \n"))) > 80 {
			t.Errorf("too long for 80 columns: %s", line)
		}
	}
	m.keys("Escape")
	eventually(t, "no details", func() bool { return !strings.Contains(m.screen(), "ifindex") })
	m.keys("Escape")
	m.run("resize-window", "-x", "200", "-y", "24")
	must(t, k.SetUint32(a, unix.IFLA_MTU, 1300)) // nothing comes behind it, as carriers may behind the first
	m.shows("200 columns", "4 links", "KIND", "ADDRESS", "LAST", "mtu 1400 → 1300")
	must(t, k.Delete(a))
	m.shows("links that went", "2 links")
	s.Kill()
	m.shows("a lost connection", "CONNECTION LOST", "what is shown is old")
	s.Start()
	m.shows("the connection is back", "ifacebridge watch  1 host ")
	b.Signal(unix.SIGKILL) // it goes without a word
	b.Wait()
	m.shows("a silent host", " 1 silent ", "SILENT", "s     lo")
	m.keys("C-c")
	eventually(t, "it has ended", func() bool { return m.command("has-session").Run() != nil })
}

// The table has colours, unless it is told that it must not.
func TestWatchColours(t *testing.T) {
	k := netnstest.Parallel(t)
	upPair(t, k, "veth0", "veth1")
	s := natstest.Start(t, "")
	bridge(t, s)
	env := []string{"TERM=xterm-256color", "NATS_URL=" + s.URL}
	for want, more := range map[bool][]string{true: nil, false: {"NO_COLOR=1"}} {
		m := startTerminal(t, 120, 24, slices.Concat(env, more), harness.Command(t)+" watch")
		m.shows("the table", "ifacebridge watch  1 host  3 links", "UP ")
		if want {
			eventually(t, "there are colours", m.colours)
		} else if m.colours() {
			t.Errorf("with %q there are colours", more)
		}
		m.keys("C-c")
	}
}

// The table begins with what the stream knows: a link's last events, its flaps and its last
// change. A stream that was cut, or none, is no error: there is less to begin with.
func TestWatchBeginsWithThePast(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	b := bridge(t, s, "IFACE_HOST=web01")
	b.Ready()
	a, peer := upPair(t, k, "veth0", "veth1")
	settled(t, s)
	var flapped time.Time
	for range 3 {
		must(t, k.SetFlags(peer, unix.IFF_UP, false))
		settled(t, s)
		flapped = time.Now()
		must(t, k.Up(peer))
		settled(t, s)
	}
	must(t, k.SetUint32(a, unix.IFLA_MTU, 1400))
	settled(t, s)
	watch := func(args string) *terminal {
		env := []string{"TERM=xterm-256color", "NATS_URL=" + s.URL}
		m := startTerminal(t, 180, 40, env, harness.Command(t)+" watch "+args)
		m.shows("the table", "ifacebridge watch  1 host  3 links", "HOST")
		m.keys("veth0@") // the only one that is left
		m.shows("the filter", "1 link ")
		return m
	}
	m := watch("")
	line := ""
	eventually(t, "the last change", func() bool {
		line = regexp.MustCompile(`(?m)^web01 .*$`).FindString(m.screen())
		return strings.Contains(line, "mtu 1500 → 1400")
	})
	// HOST LINK STATE MTU MASTER CHANGED FLAPS: how often, within a minute, is the kernel's to say.
	if f := strings.Fields(line); len(f) < 8 || f[5] == "-" || f[6] == "-" && time.Since(flapped) < time.Minute {
		t.Errorf("its age and its flaps are missing: %s", line)
	}
	m.keys("Enter")
	m.shows("events from before", "created", "mtu 1500 → 1400", "flags +LOWER_UP")
	m.keys("C-c")

	m = watch("--since 0s")
	m.keys("Enter")
	m.shows("without the past", "nothing has happened since ")
	must(t, k.SetUint32(a, unix.IFLA_MTU, 1300))
	m.shows("what happens", "mtu 1400 → 1300")
	m.keys("C-c")

	settled(t, s) // it may be shown before it is stored
	js := jetStream(t, connect(t, s))
	stream, err := js.Stream(t.Context(), "IFACE")
	must(t, err)
	must(t, stream.Purge(t.Context(), jetstream.WithPurgeKeep(1)))
	m = watch("")
	m.keys("Enter")
	m.shows("what is left of the past", "mtu 1400 → 1300")
	if screen := m.screen(); strings.Contains(screen, "mtu 1500 → 1400") {
		t.Errorf("more than there is:\n%s", screen)
	}
	must(t, stream.Purge(t.Context()))
	m = watch("")
	m.keys("Enter")
	m.shows("nothing is left of the past", "nothing has happened since ")
	m.keys("C-c")
	b.Signal(unix.SIGTERM)
	b.Wait()

	core := natstest.Start(t, "")
	bridge(t, core, "IFACE_HOST=web01", "IFACE_DELIVERY=core")
	m = startTerminal(t, 120, 20, []string{"TERM=xterm-256color", "NATS_URL=" + core.URL}, harness.Command(t)+" watch")
	m.shows("a table without a stream", "ifacebridge watch  1 host  3 links")
	must(t, k.SetUint32(a, unix.IFLA_MTU, 1200))
	m.shows("what happens there", "1200")
	m.keys("C-c")
}
