package test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// What deploy/nats/ holds is what the program prints.
func TestPermissionFiles(t *testing.T) {
	t.Parallel()
	for file, args := range map[string][]string{"demo.conf": {"demo"}, "viewer.conf": {"--viewer"}} {
		want, err := exec.Command(harness.Command(t), append([]string{"permissions"}, args...)...).Output()
		must(t, err)
		got, err := os.ReadFile(filepath.Join("../deploy/nats", file))
		must(t, err)
		if string(got) != string(want) {
			t.Errorf("deploy/nats/%s is not what `ifacebridge permissions %s` prints:\n%s", file, strings.Join(args, " "), want)
		}
	}
}

// The unit file: what it says holds, systemd understands it, and its sandbox is as
// tight as it was.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("../deploy/systemd/ifacebridge.service")
	must(t, err)
	lines := strings.Split(string(unit), "\n")
	for _, line := range []string{"Type=notify", "DynamicUser=yes", "RestartPreventExitStatus=2", "Restart=always",
		"EnvironmentFile=/etc/ifacebridge/ifacebridge.env", "ExecStart=/usr/local/bin/ifacebridge", "CapabilityBoundingSet="} {
		if !slices.Contains(lines, line) {
			t.Errorf("no line %q", line)
		}
	}
	known := harness.Variables(t)
	env, err := os.ReadFile("../deploy/systemd/ifacebridge.env")
	must(t, err)
	for _, name := range regexp.MustCompile(`(?m)^(?:#|Environment=)?((?:NATS|IFACE)_\w+)=`).FindAllStringSubmatch(string(env)+string(unit), -1) {
		if !slices.Contains(known, name[1]) {
			t.Errorf("%s is no variable", name[1])
		}
	}
	analyze := netnstest.Tool(t, "systemd-analyze")
	// verify wants the program to be there.
	dir := t.TempDir()
	path := filepath.Join(dir, "ifacebridge.service")
	binary := harness.Command(t)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(unit), "/usr/local/bin/ifacebridge", binary, 1)), 0o644))
	if out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err := exec.Command(analyze, "security", "--offline=true", "--threshold=20", path).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
	addition, err := os.ReadFile("../deploy/systemd/netns.conf")
	must(t, err)
	must(t, os.Mkdir(path+".d", 0o755))
	must(t, os.WriteFile(filepath.Join(path+".d", "netns.conf"), addition, 0o644))
	if out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify, with netns.conf: %v\n%s", err, out)
	}
	score := regexp.MustCompile(`Overall exposure level.*`).FindString(string(out))
	t.Log(score)
}

// Type=notify and its watchdog, as systemd would see them: ready when the loops
// run, with or without NATS; fed as long as they do; and said when it stops.
func TestSystemdNotify(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.New(t, "")
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer conn.Close()
	said := make(chan string, 1000)
	go func() {
		defer close(said)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			said <- string(buf[:n])
		}
	}()
	expect := func(text string) {
		t.Helper()
		for deadline := time.After(harness.Patience); ; {
			select {
			case got := <-said:
				if strings.Contains(got, text) {
					return
				}
			case <-deadline:
				t.Fatalf("not told %q", text)
			}
		}
	}
	b := bridge(t, s, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=200000")
	expect("READY=1")
	expect("STATUS=NATS is not connected: ")
	expect("; the snapshot is not confirmed yet\nWATCHDOG=1")
	s.Start()
	expect("STATUS=publishing\nWATCHDOG=1")
	expect("WATCHDOG=1")
	b.Signal(unix.SIGTERM)
	expect("STOPPING=1")
	if status := b.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}
