package netnstest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// skips names the file in which Skip notes what was skipped: what, a space, the test.
const skips = "IFACEBRIDGE_NETNSTEST_SKIPS"

// Skip skips the test because the machine lacks what, or fails it when
// IFACE_TEST_REQUIRE, a comma-separated list, says that it must not.
func Skip(t testing.TB, what, why string) {
	t.Helper()
	if Required(what) {
		t.Fatalf("%s is required (IFACE_TEST_REQUIRE) and missing: %s", what, why)
	}
	if file, err := os.OpenFile(os.Getenv(skips), os.O_APPEND|os.O_WRONLY, 0); err == nil {
		fmt.Fprintf(file, "%s %s\n", what, t.Name())
		file.Close()
	}
	t.Skipf("needs %s: %s", what, why)
}

// Required reports whether IFACE_TEST_REQUIRE has what.
func Required(what string) bool {
	return slices.Contains(strings.Split(os.Getenv("IFACE_TEST_REQUIRE"), ","), what)
}

// Summarize runs the tests of a package, and tells what Skip skipped among them.
func Summarize(run func()) {
	file, err := os.CreateTemp("", "ifacebridge-test-skips-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "netnstest:", err)
		os.Exit(1)
	}
	file.Close()
	defer os.Remove(file.Name())
	os.Setenv(skips, file.Name())
	run()
	noted, _ := os.ReadFile(file.Name()) // it was there before
	if summary := summary(string(noted)); summary != "" {
		tell(summary)
	}
}

// summary makes one line of what was skipped, by what was missing.
func summary(noted string) string {
	missing := map[string][]string{}
	for line := range strings.Lines(noted) {
		what, test, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !slices.Contains(missing[what], test) {
			missing[what] = append(missing[what], test)
		}
	}
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(missing)) {
		tests := missing[what]
		text := fmt.Sprintf("%s (%s", what, strings.Join(tests[:min(3, len(tests))], ", "))
		if more := len(tests) - 3; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, text+")")
	}
	if parts == nil {
		return ""
	}
	return "skipped, missing: " + strings.Join(parts, "; ")
}

// tell writes the summary where it is seen. The go command shows what a test process
// writes only when a test fails, or with -v. So this writes to the standard error of
// the go command itself, where that can be had: it is the parent, of the same user.
func tell(summary string) {
	out := os.Stdout
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", os.Getppid())); err == nil && string(comm) == "go\n" {
		if file, err := stderrOf(os.Getppid()); err == nil {
			defer file.Close()
			out = file
		}
	}
	name := filepath.Base(os.Args[0])
	if info, ok := debug.ReadBuildInfo(); ok && info.Path != "" {
		name = strings.TrimSuffix(info.Path, ".test")
	}
	fmt.Fprintf(out, "----\t%s\t%s\n", name, summary)
}

// stderrOf returns the standard error of another process. If it is a plain file it has
// to be the same open one, whose offset moves on: pidfd_getfd(2) needs more of a
// permission than to open a terminal or a pipe once more does (ptrace_scope).
func stderrOf(pid int) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	if fd, err := unix.PidfdGetfd(pidfd, 2, 0); err == nil {
		return os.NewFile(uintptr(fd), "stderr"), nil
	}
	path := fmt.Sprintf("/proc/%d/fd/2", pid)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() {
		return nil, os.ErrPermission
	}
	return os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0) // a pipe may have no reader any more
}
