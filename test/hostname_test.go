package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// A machine has a UTS namespace, and in it a name of its own.
type machine struct {
	uts   *os.File
	calls chan func()
	ended sync.WaitGroup
}

// newMachine returns a machine of this name. It needs what the tests have in their user
// namespace.
func newMachine(t testing.TB, name string) *machine {
	t.Helper()
	m := &machine{calls: make(chan func())}
	failed := make(chan error)
	m.ended.Go(func() {
		runtime.LockOSThread() // and is thrown away: its namespace is another than the process's
		err := unix.Unshare(unix.CLONE_NEWUTS)
		if err == nil {
			m.uts, err = os.Open("/proc/thread-self/ns/uts")
		}
		if failed <- err; err != nil {
			return
		}
		for call := range m.calls {
			call()
		}
	})
	if err := <-failed; err != nil {
		netnstest.Skip(t, "netns", "a UTS namespace: "+err.Error())
	}
	t.Cleanup(func() {
		_ = m.uts.Close()
		close(m.calls)
		m.ended.Wait()
	})
	m.rename(t, name)
	return m
}

// enter puts the calling thread on the machine.
func (m *machine) enter() error { return unix.Setns(int(m.uts.Fd()), unix.CLONE_NEWUTS) }

func (m *machine) rename(t testing.TB, name string) {
	t.Helper()
	done := make(chan error)
	m.calls <- func() { done <- unix.Sethostname([]byte(name)) }
	must(t, <-done)
}

// Hosts that boot at once under a name that every host has at first wait until they are named,
// and follow when their name becomes another: the links of the old one get their del. doctor
// tells what a bridge waits for, and when it does not publish under the kernel's name.
func TestHostsAreNamed(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a := upLink(t, k)
	r := record(t, s)
	env := []string{"NATS_URL=" + s.URL, "IFACE_HTTP_ADDR="}
	type booted struct {
		*machine
		name string
		b    *process
	}
	var machines []booted
	for i, placeholder := range []string{"localhost", "localhost", "localhost", "localhost.localdomain", "(none)", ""} {
		m := newMachine(t, placeholder)
		b := startWith(t, launch{On: k, Enter: m.enter}, harness.Command(t), env)
		machines = append(machines, booted{m, fmt.Sprintf("web%02d.example.com", i), b})
	}
	doctor := func(m *machine, says string) {
		t.Helper()
		ends(t, func() *process {
			return startWith(t, launch{On: k, Enter: m.enter}, harness.Command(t), env, "doctor")
		}, 0, says)
	}
	for _, m := range machines {
		m.b.Says("waiting for the host to be named")
	}
	doctor(machines[0].machine, "it has no name of its own yet")
	if n := r.Mark(); n > 0 {
		t.Errorf("%d events of hosts without a name", n)
	}
	for _, m := range machines {
		m.rename(t, m.name)
	}
	for _, m := range machines {
		m.b.Says("read the links of this host")
		r.Until(0, "the links of "+m.name, func(e *schema.Event) bool { return e.Host == m.name && e.Link.Index == a })
	}
	first := machines[0]
	first.rename(t, "db01")
	r.Until(0, "the del of the old name's link", func(e *schema.Event) bool {
		return e.Host == first.name && e.Link.Index == a && e.Kind == schema.Del && e.Cause == schema.Retired
	})
	r.Until(0, "the links under the new name", func(e *schema.Event) bool { return e.Host == "db01" && e.Link.Index == a })
	doctor(newMachine(t, "db02.example.com"),
		`the kernel calls this host "db02.example.com", and a bridge on this machine publishes as `)
	for _, e := range r.Since(0) {
		if !strings.Contains(e.Host, ".example.com") && e.Host != "db01" {
			t.Fatalf("published as %q", e.Host)
		}
	}
}

// What passes while the bridge waits for the host's name does not end it.
func TestHostnameCannotBeReadForAWhile(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		netnstest.Skip(t, "strace", err.Error())
	}
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	m := newMachine(t, "localhost")
	b := startWith(t, launch{On: k, Enter: m.enter}, harness.Command(t), []string{"NATS_URL=" + s.URL})
	b.Says("waiting for the host to be named")
	_, stop := inject(t, strace, b, faultyCall{name: "pread64"}, "ENOMEM")
	b.Says("cannot follow the name of the host; retrying")
	stop()
	m.rename(t, "web01")
	b.Says("read the links of this host")
}

// A host that is renamed while NATS is away: that the links of the old name got no del is said,
// with the command that removes them, and where what waited is. Nothing but those dels waits
// in the first case, and NATS was never there in the others.
func TestRenamedWhileNATSIsAway(t *testing.T) {
	for _, tt := range []struct{ idle, spool bool }{{true, false}, {true, true}, {false, false}, {false, true}} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			k := netnstest.Parallel(t)
			s := natstest.New(t, "")
			upLink(t, k)
			m := newMachine(t, "web01")
			env := []string{"NATS_URL=" + s.URL, "IFACE_RESYNC=500ms"}
			dir := t.TempDir()
			if tt.spool {
				env = append(env, "IFACE_SPOOL_DIR="+dir)
			}
			b := startWith(t, launch{On: k, Enter: m.enter}, harness.Command(t), env)
			b.Says("read the links of this host")
			if tt.idle {
				s.Start()
				eventually(t, "all is confirmed", func() bool { return b.Metric("ifacebridge_ready") == 1 })
				s.Kill()
				b.Says("cannot publish; events are kept until it works again") // which the comparison says
			}
			m.rename(t, "web02")
			b.Says("the host has another name now")
			said := b.Output()
			wants := []string{"the links of its old name got no del", `advice="ifacebridge forget web01"`}
			if tt.spool {
				wants = append(wants, "spool="+filepath.Join(dir, "web01.spool"))
			}
			for _, text := range wants {
				if !strings.Contains(said, text) {
					t.Errorf("not said: %s", text)
				}
			}
			if strings.Contains(said, "stopped; ") {
				t.Error("it is said to have stopped")
			}
			s.Start()
			eventually(t, "the new name is published", func() bool { return b.Metric("ifacebridge_ready") == 1 })
		})
	}
}
