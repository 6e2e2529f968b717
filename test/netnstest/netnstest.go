// Package netnstest gives tests network links of their own: a user and network
// namespace, with a /run of its own, that the test binary enters before its tests run, as any user, and a
// [Kernel] to change links with.
//
// What a machine does not allow is said, not passed over: see [Require].
package netnstest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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
// the process starts itself again there, with the loopback link up. Where that, or what
// it takes, is not allowed, the tests run where they are and [New] skips. It returns when
// they have run, and the process's exit status is theirs.
//
// What needs the machine's network is done by prepare, which is called before that.
//
// It ends with a line that says which tests were skipped, and what was missing.
func Main(m *testing.M, prepare func()) {
	if listing() {
		m.Run()
		return
	}
	if os.Getenv(inside) == "yes" {
		if settle() {
			m.Run()
		}
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

// settle makes the new namespaces what tests expect. Where that fails, it tells the outer
// process why: some machines let anybody make namespaces, and do nothing in them (AppArmor on
// Ubuntu, kernel.apparmor_restrict_unprivileged_userns).
func settle() (settled bool) {
	outer := os.NewFile(outerFD, "outer process")
	defer outer.Close()
	err := errors.Join(loopbackUp(), ownRun())
	if err != nil {
		fmt.Fprint(outer, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return err == nil
}

// outerFD is the pipe on which the process in the namespaces tells why it does not run the tests.
const outerFD = 3

// ownRun gives the process a /run of its own, in which namespaces are named. Folders that its
// environment names stay: TMPDIR may be in /run/user, PATH in /run/current-system.
func ownRun() error {
	kept := openFolders(namedInRun(os.Environ()))
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("netnstest", "/run", "tmpfs", 0, "mode=0755")
	}
	for _, folder := range kept {
		if err == nil {
			err = bind(folder)
		}
		folder.Close()
	}
	if err != nil {
		return fmt.Errorf("cannot mount a /run of its own: %w", err)
	}
	return nil
}

// namedInRun returns the entries of /run that hold what the environment names, but for the
// names of namespaces.
func namedInRun(environment []string) (entries []string) {
	for _, variable := range environment {
		_, value, _ := strings.Cut(variable, "=")
		for _, path := range filepath.SplitList(value) {
			rest, below := strings.CutPrefix(filepath.Clean(path), "/run/")
			first, _, _ := strings.Cut(rest, "/")
			entry := filepath.Join("/run", first)
			if below && entry != NameDir && !slices.Contains(entries, entry) {
				entries = append(entries, entry)
			}
		}
	}
	return entries
}

// openFolders opens those of the paths that are folders, or links to them.
func openFolders(paths []string) (folders []*os.File) {
	for _, path := range paths {
		if folder, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
			folders = append(folders, folder)
		}
	}
	return folders
}

// bind puts a folder that was opened before back to where it was.
func bind(folder *os.File) error {
	if err := os.Mkdir(folder.Name(), 0o755); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprint("/proc/self/fd/", folder.Fd()), folder.Name(), "", unix.MS_BIND|unix.MS_REC, "")
}

// again runs this process in a new user, network and mount namespace, as root of it,
// and returns the status with which it ended, or an error when it did not run the tests.
func again() (status int, err error) {
	told, inner, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer told.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=yes")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{inner} // outerFD
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		GidMappingsEnableSetgroups: false,
		Pdeathsig:                  syscall.SIGKILL,
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the process
	err = cmd.Start()
	inner.Close()
	if err != nil {
		return 0, err
	}
	why, err := io.ReadAll(told)
	if err = errors.Join(err, cmd.Wait()); len(why) > 0 {
		return 0, errors.New(string(why))
	}
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
