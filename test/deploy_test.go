package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
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

// One user for the bridges of all hosts: each works in full, and none may do more.
func TestPermissionsOfAllHosts(t *testing.T) {
	netnstest.Parallel(t)
	block, err := exec.Command(harness.Command(t), "permissions", "--all-hosts").Output()
	must(t, err)
	s := natstest.Start(t, fmt.Sprintf(`authorization { users: [
		{ user: fleet, password: shared, %s }
		{ user: admin, password: admin }
	] }`, block))
	admin := harness.ConnectTo(t, s.URL, nats.UserInfo("admin", "admin"))
	for _, host := range []string{"a", "b"} {
		b := start(t, []string{"NATS_URL=" + s.URL, "NATS_USER=fleet", "NATS_PASSWORD=shared",
			"IFACE_HOST=" + host, "IFACE_HTTP_ADDR="})
		eventually(t, host+" answers", func() bool {
			_, err := admin.Request(schema.QuerySubject(host), nil, time.Second)
			return err == nil
		})
		eventually(t, host+" is in the bucket", func() bool {
			_, there := bucketOf(t, admin, "iface_links")[host+".1"]
			return there
		})
		if strings.Contains(b.Output(), "ermissions") {
			t.Errorf("something was refused to %s:\n%s", host, b.Output())
		}
	}
}

// What --nsc prints is one command of a shell, which gives nsc the same subjects.
func TestPermissionsForNSC(t *testing.T) {
	t.Parallel()
	const host = "it's.example.com"
	print := func(args ...string) string {
		out, err := exec.Command(harness.Command(t), append([]string{"permissions"}, args...)...).Output()
		must(t, err)
		return string(out)
	}
	script := `nsc() { for argument; do printf '%s\n' "$argument"; done; }` + "\n" + print("--nsc", host)
	out, err := exec.Command("/bin/sh", "-euc", script).Output()
	must(t, err)
	args := strings.Split(strings.TrimSpace(string(out)), "\n")
	if head := args[:4]; !slices.Equal(head, []string{"add", "user", "--name", host}) {
		t.Errorf("nsc %q", head)
	}
	var got, want []string
	for _, arg := range args[4:] {
		if !strings.HasPrefix(arg, "--allow-") {
			got = append(got, arg)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^    "(.*)"$`).FindAllStringSubmatch(print(host), -1) {
		want = append(want, m[1])
	}
	if !slices.Equal(got, want) || args[len(args)-1] != "--allow-pub-response" {
		t.Errorf("got %q, want %q and a response", got, want)
	}
}

// What --nsc prints, run as it is with the real nsc, makes users of an account of JWTs: the
// bridge of a host, that of all hosts, and a reader work in full with their credentials,
// and a host's user cannot publish as another.
func TestPermissionsWithJWTs(t *testing.T) {
	nsc := netnstest.Tool(t, "nsc")
	netnstest.Parallel(t)
	dir := t.TempDir()
	shell := func(script string) string {
		t.Helper()
		cmd := exec.Command("/bin/sh", "-euc", script)
		cmd.Dir = dir
		cmd.Env = []string{"HOME=" + dir, "PATH=" + filepath.Dir(nsc) + ":" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	shell(`nsc add operator --name ops --sys
		nsc add account --name network
		nsc edit account --name network --js-mem-storage -1 --js-disk-storage -1 --js-streams -1 --js-consumer -1`)
	creds := func(user string, args ...string) string {
		t.Helper()
		printed, err := exec.Command(harness.Command(t), append([]string{"permissions", "--nsc"}, args...)...).Output()
		must(t, err)
		shell(string(printed))
		shell("nsc generate creds --account network --name " + user + " --output-file " + user + ".creds")
		return filepath.Join(dir, user+".creds")
	}
	one, all := creds("web01.example.com", "web01.example.com"), creds("ifacebridge", "--all-hosts")
	viewer := creds("viewer", "--viewer")
	shell("nsc generate config --mem-resolver --sys-account SYS --config-file accounts.conf")
	accounts, err := os.ReadFile(filepath.Join(dir, "accounts.conf"))
	must(t, err)
	s := natstest.Start(t, string(accounts))

	var bridges []*process
	for host, file := range map[string]string{"web01.example.com": one, "web02.example.com": all} {
		env := []string{"NATS_URL=" + s.URL, "NATS_CREDS=" + file, "IFACE_HOST=" + host, "IFACE_HTTP_ADDR="}
		bridges = append(bridges, start(t, env))
	}
	reads := []string{"NATS_URL=" + s.URL, "NATS_CREDS=" + viewer}
	eventually(t, "a reader sees the links of both hosts", func() bool {
		links := start(t, reads, "links", "--json")
		links.Wait()
		seen := links.Output()
		return strings.Contains(seen, "web01.example.com") && strings.Contains(seen, "web02.example.com")
	})
	for _, b := range bridges {
		if strings.Contains(b.Output(), "ermissions") {
			t.Errorf("something was refused:\n%s", b.Output())
		}
	}
	refused := make(chan error, 9)
	nc := harness.ConnectTo(t, s.URL, nats.UserCredentials(one),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	must(t, nc.Publish("iface.web02_example_com.new", nil))
	harness.Flush(t, nc)
	select {
	case err := <-refused:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("got %v", err)
		}
	case <-time.After(harness.Patience):
		t.Error("one host's user may publish as another host")
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
		"EnvironmentFile=/etc/ifacebridge/ifacebridge.env", "ExecStart=/usr/bin/ifacebridge", "CapabilityBoundingSet=",
		"Documentation=man:ifacebridge(1)"} {
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
	// Each file that the settings may name is one that systemd loads.
	loaded := regexp.MustCompile(`=/run/credentials/ifacebridge.service/(\S+)`)
	for _, file := range loaded.FindAllStringSubmatch(string(env), -1) {
		if !slices.Contains(lines, "LoadCredential="+file[1]) {
			t.Errorf("systemd does not load %s", file[1])
		}
	}
	analyze := netnstest.Tool(t, "systemd-analyze")
	// verify wants the program to be there.
	dir := t.TempDir()
	path := filepath.Join(dir, "ifacebridge.service")
	binary := harness.Command(t)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(unit), "/usr/bin/ifacebridge", binary, 1)), 0o644))
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
// run, with or without NATS, or the bridge waits for the host's name; fed as long as they
// do, also across a new name; and said, once, when it stops. /readyz and the metrics answer
// all the time.
func TestSystemdNotify(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.New(t, "")
	path := filepath.Join(harness.SocketDir(t), "notify")
	m := newMachine(t, "localhost")
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
	count := map[string]int{}
	expect := func(text string) {
		t.Helper()
		for deadline := time.After(harness.Patience); ; {
			select {
			case got := <-said:
				if count[got]++; strings.Contains(got, text) {
					return
				}
			case <-deadline:
				t.Fatalf("not told %q", text)
			}
		}
	}
	b := startWith(t, launch{On: k, Enter: m.enter}, harness.Command(t),
		[]string{"NATS_URL=" + s.URL, "NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=200000"})
	expect("READY=1")
	const unnamed = "waiting for the host to be named: set the host's name, or IFACE_HOST"
	expect("STATUS=" + unnamed + "\nWATCHDOG=1")
	if status, body := get(t, "/readyz"); status != 503 || body != unnamed+"\n" {
		t.Errorf("/readyz answers %d: %s", status, body)
	}
	counts := func(line string) {
		t.Helper()
		eventually(t, line, func() bool {
			_, text := get(t, "/metrics")
			return strings.Contains(text, "\n"+line+"\n")
		})
	}
	counts("ifacebridge_ready 0")
	m.rename(t, "web01")
	expect("STATUS=NATS is not connected: ")
	expect("; the snapshot is not confirmed yet\nWATCHDOG=1")
	s.Start()
	expect("STATUS=publishing\nWATCHDOG=1")
	m.rename(t, "web02")
	b.Says("the host has another name now")
	counts("ifacebridge_ready 1")
	counts(`ifacebridge_epochs_total{reason="renamed"} 1`)
	b.Signal(unix.SIGTERM)
	expect("STOPPING=1")
	if status := b.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if count["READY=1"] != 1 || count["STOPPING=1"] != 1 {
		t.Errorf("systemd was told %v", count)
	}
}

// A release is made into an empty folder alone, the one that whoever calls means.
func TestReleaseWantsAnEmptyFolder(t *testing.T) {
	t.Parallel()
	script, err := filepath.Abs("../deploy/release.sh")
	must(t, err)
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "out", "packages"), 0o700))
	release := exec.Command(script, "v0.0.0-test")
	release.Dir, release.Env = dir, append(os.Environ(), "OUT=out")
	out, err := release.CombinedOutput()
	if want := filepath.Join(dir, "out") + " is not empty\n"; err == nil || !strings.HasSuffix(string(out), want) {
		t.Errorf("got %v, %s, want …%s", err, out, want)
	}
}
