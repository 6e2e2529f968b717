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
func Main(m *testing.M) {
	if os.Getenv(inside) != "" || listing() {
		if os.Getenv(inside) == "yes" {
			if err := errors.Join(loopbackUp(), emptyRun()); err != nil {
				fmt.Fprintln(os.Stderr, "netnstest:", err)
				os.Exit(1)
			}
		}
		m.Run()
		return
	}
	err := again()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	default:
		os.Setenv(inside, err.Error())
		m.Run()
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

// again runs this process in a new user, network and mount namespace, as root of it.
func again() error {
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
	return cmd.Run()
}

// Skip skips the test because the machine lacks what, or fails it when
// IFACE_TEST_REQUIRE, a comma-separated list, says that it must not.
func Skip(t testing.TB, what, why string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("IFACE_TEST_REQUIRE"), ","), what) {
		t.Fatalf("%s is required (IFACE_TEST_REQUIRE) and missing: %s", what, why)
	}
	t.Skipf("needs %s: %s", what, why)
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
