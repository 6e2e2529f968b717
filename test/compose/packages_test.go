package compose

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"golang.org/x/sys/unix"

	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// debianImage is Debian with systemd, dpkg and rpm, and nothing of ours.
const debianImage = "ifacebridge-test/debian"

// A machine is a container that systemd runs in, with the packages of a release.
type machine struct {
	t        testing.TB
	name     string
	deb, rpm string // in the machine
}

// newMachine makes the packages, and boots Debian beside them.
func newMachine(t testing.TB) *machine {
	t.Helper()
	requireDocker(t)
	buildDebian(t)
	cgroup := t.TempDir()
	if err := unix.Mount("systemd", cgroup, "cgroup", 0, "none,name=systemd"); err != nil {
		netnstest.Skip(t, "cgroup", fmt.Sprintf("systemd in a container needs a hierarchy of its own: %v", err))
	}
	t.Cleanup(func() { must(t, unix.Unmount(cgroup, unix.MNT_DETACH)) })
	dir := t.TempDir()
	release := exec.Command("../../deploy/release.sh", "v0.0.0-test")
	release.Env = append(os.Environ(), "OUT="+dir, "ARCHES="+runtime.GOARCH)
	if out, err := release.CombinedOutput(); err != nil {
		t.Fatalf("deploy/release.sh: %v\n%s", err, out)
	}
	m := &machine{t: t, name: fmt.Sprint("ifacebridge-test-machine-", os.Getpid())}
	// Credentials are mounts that services have to see, so / is shared, as on a machine.
	const boot = "mount --make-rshared / && exec /lib/systemd/systemd"
	output(t, "docker", "run", "--detach", "--tty", "--name", m.name, "--hostname", "web01",
		"--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE",
		"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--tmpfs", "/run", "--tmpfs", "/tmp", "--volume", cgroup+":/sys/fs/cgroup/systemd",
		debianImage, "sh", "-c", boot)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.try("journalctl", "--no-pager", "--lines", "50"))
		}
		output(t, "docker", "rm", "--force", m.name)
	})
	base := "/root/ifacebridge-v0.0.0-test-linux-" + runtime.GOARCH
	m.deb, m.rpm = base+".deb", base+".rpm"
	for _, path := range []string{m.deb, m.rpm} {
		m.copy(filepath.Join(dir, filepath.Base(path)), path)
	}
	eventually(t, "systemd has booted", func() bool {
		return strings.TrimSpace(m.try("systemctl", "is-system-running")) == "running"
	})
	return m
}

// buildDebian imports what debootstrap makes, unless that was done before.
func buildDebian(t testing.TB) {
	t.Helper()
	if exec.Command("docker", "image", "inspect", debianImage).Run() == nil {
		return
	}
	debootstrap := netnstest.Tool(t, "debootstrap")
	root := filepath.Join(t.TempDir(), "root")
	output(t, debootstrap, "--variant=minbase", "--include=systemd,rpm", "bookworm", root)
	output(t, "/bin/sh", "-c", "tar -C "+root+" -c . | docker import --change 'ENV container=docker' - "+debianImage)
}

func (m *machine) copy(from, to string) {
	m.t.Helper()
	output(m.t, "docker", "cp", from, m.name+":"+to)
}

func (m *machine) command(args ...string) []string {
	return append([]string{"exec", m.name}, args...)
}

func (m *machine) try(args ...string) string {
	out, _ := exec.Command("docker", m.command(args...)...).CombinedOutput()
	return string(out)
}

func (m *machine) run(args ...string) string {
	m.t.Helper()
	return output(m.t, "docker", m.command(args...)...)
}

// write writes a file that root alone may read.
func (m *machine) write(path, text string) {
	m.t.Helper()
	local := filepath.Join(m.t.TempDir(), "file")
	must(m.t, os.WriteFile(local, []byte(text), 0o600))
	m.copy(local, path)
}

// has reports which of the paths are there.
func (m *machine) has(paths ...string) (there []string) {
	for _, path := range paths {
		if exec.Command("docker", m.command("test", "-e", path)...).Run() == nil {
			there = append(there, path)
		}
	}
	return there
}

// What a package has, besides the binary.
var packaged = []string{
	"/usr/bin/ifacebridge", "/usr/lib/systemd/system/ifacebridge.service", "/etc/ifacebridge/ifacebridge.env",
	"/usr/share/man/man1/ifacebridge.1.gz", "/usr/share/bash-completion/completions/ifacebridge",
	"/usr/share/fish/vendor_completions.d/ifacebridge.fish", "/usr/share/doc/ifacebridge/netns.conf",
}

// serve runs a NATS server in the machine that lets the owner of an nkey in, and
// returns its seed.
func (m *machine) serve() (seed string) {
	m.t.Helper()
	user, err := nkeys.CreateUser()
	must(m.t, err)
	public, err := user.PublicKey()
	must(m.t, err)
	raw, err := user.Seed()
	must(m.t, err)
	m.t.Setenv("CGO_ENABLED", "0")
	m.copy(natstest.Binary(m.t, "github.com/nats-io/nats-server/v2", "-trimpath"), "/root/nats-server")
	m.write("/root/nats.conf", fmt.Sprintf(`
listen: "127.0.0.1:4222"
jetstream { store_dir: "/root/store" }
authorization { users: [ { nkey: %s }, { user: viewer, password: viewer } ] }`, public))
	output(m.t, "docker", "exec", "--detach", m.name, "/root/nats-server", "-c", "/root/nats.conf")
	return string(raw)
}

// The deb on a machine with systemd: installed, configured with a seed that root alone
// may read, started, upgraded, removed and purged.
func TestDeb(t *testing.T) {
	m := newMachine(t)
	seed := m.serve()
	began := time.Now()
	m.run("dpkg", "--install", m.deb)
	if there := m.has(packaged...); len(there) != len(packaged) {
		t.Errorf("of %q there are %q", packaged, there)
	}
	if state := m.try("systemctl", "is-active", "ifacebridge"); strings.TrimSpace(state) != "inactive" {
		t.Errorf("it runs before it was told where NATS is: %s", state)
	}
	m.write("/etc/ifacebridge/ifacebridge.env", "NATS_URL=nats://127.0.0.1:4222\n"+
		"NATS_NKEY=/run/credentials/ifacebridge.service/ifacebridge.nkey\n")
	m.run("mkdir", "-p", "/etc/credstore")
	m.write("/etc/credstore/ifacebridge.nkey", seed)
	m.run("systemctl", "enable", "--now", "ifacebridge")
	first := m.firstEvent()
	t.Logf("the first event is there %v after dpkg --install began: %s", time.Since(began).Round(time.Millisecond), first)

	property := func(name string) string {
		return m.run("systemctl", "show", "--value", "--property", name, "ifacebridge")
	}
	pid := property("MainPID")
	if uid := m.run("stat", "--format", "%u", "/proc/"+pid); uid == "0" {
		t.Error("it runs as root")
	}

	// The same package again is an upgrade: the service is another process, on the same settings.
	m.run("dpkg", "--install", m.deb)
	if again := property("MainPID"); again == pid || again == "0" {
		t.Errorf("after the upgrade its process is %s, it was %s", again, pid)
	}

	m.run("dpkg", "--remove", "ifacebridge")
	if there := m.has(packaged...); len(there) != 1 || there[0] != "/etc/ifacebridge/ifacebridge.env" {
		t.Errorf("after the removal there are %q, want the settings", there)
	}
	if state := m.try("systemctl", "is-active", "ifacebridge"); strings.TrimSpace(state) == "active" {
		t.Error("it runs on after its removal")
	}
	m.run("dpkg", "--purge", "ifacebridge")
	if there := m.has("/etc/ifacebridge/ifacebridge.env", "/var/lib/private/ifacebridge", "/var/lib/ifacebridge",
		"/etc/systemd/system/multi-user.target.wants/ifacebridge.service"); len(there) > 0 {
		t.Errorf("the purge leaves %q", there)
	}
}

// firstEvent waits for what `watch` shows.
func (m *machine) firstEvent() string {
	m.t.Helper()
	const watch = "NATS_URL=nats://127.0.0.1:4222 NATS_USER=viewer NATS_PASSWORD=viewer " +
		"timeout 5 ifacebridge watch --since 1h 2>/dev/null"
	var first string
	eventually(m.t, "an event of the machine", func() bool {
		out, _ := exec.Command("docker", m.command("sh", "-c", watch+" | head -n 1")...).Output()
		first = strings.TrimSpace(string(out))
		return strings.Contains(first, `"host":"web01"`)
	})
	return first
}

// The rpm has the same, and leaves nothing but changed settings.
func TestRPM(t *testing.T) {
	m := newMachine(t)
	m.run("rpm", "--install", "--nodeps", m.rpm)
	if there := m.has(packaged...); len(there) != len(packaged) {
		t.Errorf("of %q there are %q", packaged, there)
	}
	if out := m.run("rpm", "--verify", "--nodeps", "ifacebridge"); out != "" {
		t.Errorf("rpm --verify: %s", out)
	}
	if out := m.run("rpm", "--query", "--configfiles", "ifacebridge"); out != "/etc/ifacebridge/ifacebridge.env" {
		t.Errorf("its configuration is %q", out)
	}
	m.run("rpm", "--erase", "ifacebridge")
	if there := m.has(packaged...); len(there) > 0 {
		t.Errorf("after the removal there are %q", there)
	}
}
