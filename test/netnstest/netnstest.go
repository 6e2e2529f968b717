// Package netnstest gives tests network links of their own: a user and network
// namespace, with a /run of its own, that the test binary enters before its tests run, as any user, and a
// [Kernel] to change links with.
//
// What a machine does not allow is said, not passed over: see [Require].
package netnstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The main thread stays in the process's namespace, which is what /proc/<pid>/ns/net
// shows, whatever the threads of tests enter.
func init() { runtime.LockOSThread() }

// inside marks a test process that is in its namespaces, or says why it is not.
const inside = "IFACEBRIDGE_NETNSTEST"

// Main is a TestMain that runs the tests of a package in namespaces of their own:
// the process starts itself again there, with the loopback link up. Where that is
// not allowed, the tests run where they are and [New] skips. It returns when
// they have run, and the process's exit status is theirs.
//
// What needs the machine's network is done by prepare, which is called before that.
//
// It ends with a line that says which tests were skipped, for want of what.
func Main(m *testing.M, prepare func()) {
	if listing() {
		m.Run()
		return
	}
	if os.Getenv(inside) == "yes" {
		if err := errors.Join(loopbackUp(), emptyRun()); err != nil {
			fmt.Fprintln(os.Stderr, "netnstest:", err)
			os.Exit(1)
		}
		m.Run()
		return
	}
	prepare()
	status := 0
	Summarize(func() {
		var err error
		if status, err = again(); err != nil {
			os.Setenv(inside, err.Error())
			m.Run()
		}
	})
	if status != 0 {
		os.Exit(status)
	}
}

// listing reports whether the process was only asked which tests it has.
func listing() bool {
	return slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "-test.list") })
}

// emptyRun gives the process a /run of its own, in which namespaces are named.
func emptyRun() error {
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("netnstest", "/run", "tmpfs", 0, "mode=0755")
	}
	return os.NewSyscallError("mount", err)
}

// again runs this process in a new user, network and mount namespace, as root of it,
// and returns the status with which it ended, or an error when it could not start.
func again() (status int, err error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=yes")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		GidMappingsEnableSetgroups: false,
		Pdeathsig:                  syscall.SIGKILL,
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the process
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil // -1: by a signal
	}
	return 0, err
}

// Tool returns the path of a program, or skips.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Skip(t, name, err.Error())
	}
	return path
}
