package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// A faultyCall is a system call, and the errors with which the kernel may answer it for a
// while.
type faultyCall struct {
	name   string
	errors string
	reopen bool // the call is made when a source is opened: have that happen again and again
}

var faultyCalls = []faultyCall{
	{"recvmmsg", "ENOBUFS ENOMEM EINTR EAGAIN", false},
	{"sendmsg", "ENOBUFS ENOMEM EINTR EAGAIN", false},
	{"recvfrom", "ENOBUFS ENOMEM EINTR EAGAIN", false},
	{"recvmsg", "ENOBUFS ENOMEM EINTR EAGAIN", false},
	{"socket", "EMFILE ENFILE ENOBUFS ENOMEM", true},
	{"bind", "ENOBUFS ENOMEM EAGAIN", true},
	{"getsockname", "ENOBUFS ENOMEM", true},
	{"setsockopt", "ENOBUFS ENOMEM EAGAIN", true},
	{"getsockopt", "ENOBUFS ENOMEM", true},
	{"fcntl", "EMFILE ENOMEM", true},
	{"epoll_create1", "EMFILE ENFILE ENOMEM", true},
	{"epoll_ctl", "ENOMEM ENOSPC", true},
	{"openat", "EMFILE ENFILE ENOMEM", true},
	{"newfstatat", "ENOMEM EINTR", false},
}

// The kernel's calls fail for a while, every other time, in ways that pass: the bridge
// lives, and gives no link a del that is there, in its own namespace or in another.
func TestPassingErrorsOfTheKernel(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		netnstest.Skip(t, "strace", err.Error())
	}
	for _, call := range faultyCalls {
		t.Run(call.name, func(t *testing.T) {
			k, container := netnstest.Parallel(t), netnstest.New(t)
			s := natstest.Start(t, "")
			a := upLink(t, k)
			for i := range 60 { // more than fit into what a notification is read into: it is asked for again
				must(t, k.AddAltName(a, fmt.Sprintf("%d%s", i, strings.Repeat("x", 120))))
			}
			inside, _, err := container.AddVeth("inside", "peer")
			must(t, err)
			name := fmt.Sprintf("fault-%d-%s", os.Getpid(), call.name)
			b := bridge(t, s, "IFACE_RESYNC=100ms", "IFACE_NETNS=self,"+container.ProcPath())
			b.Ready()
			for error := range strings.FieldsSeq(call.errors) {
				injected, stop := inject(t, strace, b, call, error)
				began := time.Now()
				for n, more := 0, 10; more > 0 || injected() == 0; n++ {
					must(t, k.SetAlias(a, fmt.Sprint(error, n)))
					must(t, container.SetAlias(inside, fmt.Sprint(error, n)))
					must(t, container.SetName(name)) // namespaces are looked for
					must(t, netnstest.DeleteName(name))
					time.Sleep(10 * time.Millisecond) // as long as the tracer is to see dumps and notifications
					if injected() > 0 {
						more--
					}
					if time.Since(began) > harness.Patience {
						t.Fatalf("%s was not answered by %s %d times", call.name, error, more)
					}
				}
				stop()
				t.Logf("%s: %s %d times", call.name, error, injected())
			}
			must(t, k.SetAlias(a, "afterwards"))
			f := settled(t, s)
			allConfirmed(t, b) // what was told of the other namespace, too
			b.Signal(unix.SIGTERM)
			if status := b.Wait(); status != 0 {
				t.Errorf("exit status %d", status)
			}
			for _, e := range stored(t, connect(t, s), "IFACE") {
				if e.Kind == schema.Del {
					t.Errorf("a del of a link that is there: %s", e.AppendJSON(nil))
				}
			}
			t.Logf("%d events", f.Events)
		})
	}
}

// Links come and go while the kernel cannot be read for moments. When only the dumps fail, all
// of it is published, and nothing counts as lost; when the notifications do, it is said that
// some may be lost.
func TestNothingIsLostWhileReadingFails(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		netnstest.Skip(t, "strace", err.Error())
	}
	for _, tt := range []struct {
		call, error string
		lost        bool // some notifications may be
	}{
		{"sendmsg", "ENOBUFS", false},
		{"recvmmsg", "ENOMEM", true},
	} {
		t.Run(tt.call, func(t *testing.T) {
			k := netnstest.Parallel(t)
			s := natstest.Start(t, "")
			b := bridge(t, s, "IFACE_RESYNC=100ms")
			b.Ready()
			injected, stop := inject(t, strace, b, faultyCall{name: tt.call}, tt.error)
			want := map[string][]schema.Action{}
			for n := 0; n < 50 || injected() < 5; n++ {
				name := fmt.Sprint("short", n)
				index, err := k.Add(name, 0, netnstest.Kind{Name: "ifb"})
				must(t, err)
				must(t, k.Delete(index))
				want[name] = []schema.Action{schema.Created, schema.Deleted}
				time.Sleep(10 * time.Millisecond) // as long as the tracer is to see dumps and notifications
				if n > 3000 {
					t.Fatalf("%s was not answered by %s once", tt.call, tt.error)
				}
			}
			stop()
			upLink(t, k)
			settled(t, s)
			got, overruns := map[string][]schema.Action{}, uint64(0)
			for _, e := range stored(t, connect(t, s), "IFACE") {
				if overruns = e.Overruns; want[e.Link.Name] != nil {
					got[e.Link.Name] = append(got[e.Link.Name], e.Action)
				}
			}
			if tt.lost != (overruns > 0) {
				t.Errorf("%d overruns", overruns)
			}
			if !tt.lost && !reflect.DeepEqual(got, want) {
				t.Errorf("of %d links that came and went, %d did in the stream", len(want), len(got))
			}
		})
	}
}

// The first calls of a bridge that starts fail, every other one: it starts all the same.
func TestPassingErrorsAtTheStart(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		netnstest.Skip(t, "strace", err.Error())
	}
	for _, injected := range []string{
		"socket:error=ENOBUFS", "bind:error=ENOMEM", "getsockname:error=ENOBUFS", "setsockopt:error=ENOMEM",
		"getsockopt:error=ENOMEM", "sendmsg:error=EAGAIN", "recvfrom:error=ENOMEM", "recvmmsg:error=ENOMEM",
	} {
		t.Run(injected, func(t *testing.T) {
			k := netnstest.Parallel(t)
			s := natstest.Start(t, "")
			a := upLink(t, k)
			log := filepath.Join(t.TempDir(), "trace")
			call, _, _ := strings.Cut(injected, ":")
			env := []string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "IFACE_RESYNC=1s"}
			b := startBinary(t, strace, env, "-D", "-f", "-qq", "-o", log,
				"-e", "inject="+injected+":when=1..3+2", "-e", "trace="+call, harness.Command(t))
			b.Ready()
			must(t, k.SetAlias(a, "all the same"))
			settled(t, s)
			eventually(t, "something was injected", func() bool { // and is written down
				trace, _ := os.ReadFile(log)
				return strings.Contains(string(trace), "(INJECTED)")
			})
		})
	}
}

// inject has a call of a process fail every other time, until stop is called, and returns
// how to ask how often it did.
func inject(t *testing.T, strace string, b *process, call faultyCall, error string) (times func() int, stop func()) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "trace")
	args := []string{"-f", "-qq", "-o", log,
		"-e", "trace=" + call.name + ",recvmmsg", "-e", "inject=" + call.name + ":error=" + error + ":when=1+2"}
	if call.reopen { // notifications that cannot be read have the source opened anew
		args = append(args, "-e", "inject=recvmmsg:error=ENOMEM:when=1+4")
	}
	tracer := exec.Command(strace, append(args, "-p", strconv.Itoa(b.Pid()))...)
	must(t, tracer.Start())
	stop = sync.OnceFunc(func() {
		_ = tracer.Process.Signal(unix.SIGINT) // it detaches
		_ = tracer.Wait()
	})
	t.Cleanup(stop)
	return func() (n int) {
		trace, _ := os.ReadFile(log)
		for line := range strings.Lines(string(trace)) {
			if strings.Contains(line, call.name+"(") && strings.Contains(line, error) && strings.Contains(line, "(INJECTED)") {
				n++
			}
		}
		return n
	}, stop
}

// A sandbox refuses something, for good: what is only for efficiency is done without, and
// what is needed is named.
func TestSandboxes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rule  []bpf.Instruction // what the sandbox does to a call, of which the number is loaded
		works bool
		says  []string
	}{
		{"a socket filter, EPERM", refuse(unix.SYS_SETSOCKOPT, 2, unix.SO_ATTACH_FILTER, unix.EPERM), true,
			[]string{"no socket filter can be had; going on without", "operation not permitted"}},
		{"a socket filter, ENOPROTOOPT", refuse(unix.SYS_SETSOCKOPT, 2, unix.SO_ATTACH_FILTER, unix.ENOPROTOOPT), true,
			[]string{"no socket filter can be had; going on without", "protocol not available"}},
		{"a larger receive buffer", refuse(unix.SYS_SETSOCKOPT, 2, unix.SO_RCVBUF, unix.ENOPROTOOPT), true,
			[]string{"receive buffer"}},
		{"netlink sockets", refuse(unix.SYS_SOCKET, 0, unix.AF_NETLINK, unix.EAFNOSUPPORT), false,
			[]string{"subscribe to link notifications",
				"this kernel or sandbox (gVisor, seccomp) gives no rtnetlink notifications of links"}},
		{"multicast groups", refuse(unix.SYS_BIND, 2, unix.SizeofSockaddrNetlink, unix.EPERM), false,
			[]string{"subscribe to link notifications", "multicast groups", "(gVisor, seccomp)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := netnstest.Parallel(t)
			s := natstest.Start(t, "")
			a := upLink(t, k)
			b := startWith(t, launch{Enter: func() error { return sandbox(tt.rule) }}, harness.Command(t),
				[]string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "IFACE_RESYNC=1s"})
			for _, text := range tt.says {
				b.Says(text)
			}
			if !tt.works {
				if status := b.Wait(); status != 1 {
					t.Errorf("exit status %d", status)
				}
				return
			}
			must(t, k.SetAlias(a, "all the same"))
			b.Ready()
			settled(t, s)
			holds(t, s)
		})
	}
}

// Where namespaces may be made, and nothing may be done in them, as with AppArmor on Ubuntu, the
// tests that need them are skipped by name, and the others run.
func TestNamespacesThatAreOfNoUse(t *testing.T) {
	netnstest.Parallel(t)
	tests, err := os.Executable()
	must(t, err)
	for why, rule := range map[string][]bpf.Instruction{
		"cannot set up its loopback link: ": refuse(unix.SYS_SOCKET, 0, unix.AF_NETLINK, unix.EPERM),
		"cannot mount a /run of its own: ":  refuse(unix.SYS_MOUNT, 3, unix.MS_REC|unix.MS_PRIVATE, unix.EACCES),
	} {
		p := startWith(t, launch{Enter: func() error { return sandbox(rule) }}, tests, nil,
			"-test.v", "-test.run=^(TestFilters|TestCommandsInGuidesAreRun)$")
		if status := p.Wait(); status != 0 {
			t.Errorf("%q: exit status %d", why, status)
		}
		p.Says("needs netns: no user and network namespace: " + why)
		p.Says("skipped, missing: netns (TestFilters)")
		p.Says("--- PASS: TestCommandsInGuidesAreRun")
	}
}

// refuse is the rule by which a system call fails that has this argument.
func refuse(call uint32, arg, value uint32, with unix.Errno) []bpf.Instruction {
	const args = 16 // struct seccomp_data: nr, arch, instruction_pointer, args
	return []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: call, SkipTrue: 3},
		bpf.LoadAbsolute{Off: args + 8*arg, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(with)},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
	}
}

// sandbox puts the calling thread, and what it starts, under a rule for good.
func sandbox(rule []bpf.Instruction) error {
	raw, err := bpf.Assemble(append([]bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 4}}, rule...))
	if err != nil {
		return err
	}
	var filter []unix.SockFilter
	for _, i := range raw {
		filter = append(filter, unix.SockFilter{Code: i.Op, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}
