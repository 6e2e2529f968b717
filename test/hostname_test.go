package test

import (
	"os"
	"runtime"
	"slices"
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

// Hosts that boot under a name that every host has at first wait until they are named, and
// follow when their name becomes another: the links of the old one get their del.
func TestHostsAreNamed(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	a := upLink(t, k)
	r := record(t, s)
	for _, placeholder := range []string{"localhost", "localhost.localdomain", "(none)"} {
		m := newMachine(t, placeholder)
		name := map[string]string{"localhost": "web01.example.com", "localhost.localdomain": "web02", "(none)": "web03"}[placeholder]
		b := startWith(t, launch{On: k, Enter: m.enter}, harness.Command(t), []string{"NATS_URL=" + s.URL, "IFACE_HTTP_ADDR="})
		b.Says("waiting for the host to be named")
		m.rename(t, name)
		b.Says("read the links of this host")
		r.Until(0, "the links of "+name, func(e *schema.Event) bool { return e.Host == name && e.Link.Index == a })
		if name != "web01.example.com" {
			continue
		}
		m.rename(t, "db01")
		r.Until(0, "the del of the old name's link", func(e *schema.Event) bool {
			return e.Host == name && e.Link.Index == a && e.Kind == schema.Del && e.Cause == schema.Retired
		})
		r.Until(0, "the links under the new name", func(e *schema.Event) bool { return e.Host == "db01" && e.Link.Index == a })
	}
	if slices.ContainsFunc(r.Since(0), func(e schema.Event) bool { return e.Host == "localhost" || e.Host == "(none)" }) {
		t.Error("something is published under a placeholder")
	}
}
