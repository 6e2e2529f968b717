package compose

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
	"ifacebridge/test/proctest"
)

// The tests run where the host's links are.
func TestMain(m *testing.M) {
	harness.ForgetEnvironment()
	netnstest.Summarize(func() { m.Run() })
	if builtNATS {
		// Not all of them need be there.
		_ = exec.Command("docker", "rmi", "--force", goImage, natsImage, ourImage, otherImage).Run()
	}
	natstest.Clean()
	proctest.Clean()
}

var (
	must       = harness.Must
	eventually = harness.Eventually
)

func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// Images of this run of the tests, beside which another checkout's may run.
var (
	goImage    = image("golang")
	natsImage  = image("nats")
	ourImage   = image("ifacebridge")
	otherImage = image("other") // for another architecture
)

func image(name string) string { return fmt.Sprintf("ifacebridge-test/%s:%d", name, os.Getpid()) }

// prepared is whether the images that stand in for the public ones are there, and
// imageCA the only authority in that of Go.
var (
	prepared bool
	imageCA  *harness.Authority
)

// A project is one docker-compose project of the repository's file, and maybe others
// on top of it.
type project struct {
	t       testing.TB
	name    string
	files   []string // in the repository
	env     []string
	natsURL string
}

// newProject builds the stand-ins for the base images and returns a project whose
// ports are free ones. It skips where there is no Docker.
func newProject(t testing.TB, name string, env ...string) *project {
	t.Helper()
	requireDocker(t)
	netnstest.Tool(t, "docker-compose")
	if !prepared {
		importGo(t)
		prepared = true
	}
	port := natstest.FreePort(t)
	p := &project{t: t, name: fmt.Sprint(name, "-", os.Getpid()), natsURL: fmt.Sprintf("nats://127.0.0.1:%d", port)}
	p.files = []string{"docker-compose.yml"}
	p.env = append(os.Environ(), "GO_IMAGE="+goImage, "NATS_IMAGE="+natsImage, "IFACEBRIDGE_IMAGE="+ourImage,
		fmt.Sprintf("NATS_PORT=%d", port), fmt.Sprintf("IFACE_HTTP_ADDR=127.0.0.1:%d", natstest.FreePort(t)))
	p.env = append(p.env, env...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.try("logs", "--no-color", "--tail=40"))
		}
		p.try("down", "--volumes", "--timeout", "6")
	})
	return p
}

func (p *project) command(args ...string) *exec.Cmd {
	before := []string{"-p", p.name}
	for _, file := range p.files {
		before = append(before, "-f", "../../"+file)
	}
	cmd := exec.Command("docker-compose", append(before, args...)...)
	cmd.Env = p.env
	return cmd
}

func (p *project) try(args ...string) string {
	out, _ := p.command(args...).CombinedOutput()
	return string(out)
}

func (p *project) run(args ...string) string {
	p.t.Helper()
	out, err := p.command(args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("docker-compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// container returns the id of a service's container.
func (p *project) container(service string) string {
	p.t.Helper()
	return strings.TrimSpace(p.run("ps", "-q", service))
}

func (p *project) inspect(service, format string) string {
	p.t.Helper()
	return output(p.t, "docker", "inspect", "--format", format, p.container(service))
}

func (p *project) pid(service string) int {
	p.t.Helper()
	pid, err := strconv.Atoi(p.inspect(service, "{{.State.Pid}}"))
	must(p.t, err)
	return pid
}

func (p *project) healthy() {
	p.t.Helper()
	eventually(p.t, "the bridge is healthy", func() bool { return p.inspect("ifacebridge", "{{.State.Health.Status}}") == "healthy" })
}

// buildNATS makes an image of nats-server as the public one is: the binary in an
// otherwise empty image.
func buildNATS(t testing.TB) {
	t.Helper()
	t.Setenv("CGO_ENABLED", "0")
	binary := natstest.Binary(t, "github.com/nats-io/nats-server/v2", "-trimpath")
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY nats-server /nats-server\nENTRYPOINT [\"/nats-server\"]\n"), 0o600))
	must(t, os.Link(binary, filepath.Join(dir, "nats-server")))
	output(t, "docker", "build", "-q", "-t", natsImage, dir)
}

// importGo makes an image that has what the public golang image is used for: a
// shell, Go, certificate authorities, and modules to be had, here from this machine's
// module cache.
func importGo(t testing.TB) {
	t.Helper()
	output(t, "go", "mod", "download")
	goEnv := func(name string) string { return output(t, "go", "env", name) }
	cmd := exec.Command("docker", "import",
		"--change", "ENV PATH=/usr/local/go/bin:/bin", "--change", "ENV GOPROXY=file:///modules", "--change", "ENV GOSUMDB=off", "--change", "ENV HOME=/tmp",
		"--change", "ENV GOFLAGS=-modcacherw", "-", goImage)
	in, err := cmd.StdinPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	w := tar.NewWriter(in)
	must(t, w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}))
	addTree(t, w, goEnv("GOROOT"), "usr/local/go", func(path string) bool {
		return !strings.HasPrefix(path, "test") && !strings.HasPrefix(path, "doc") && !strings.HasPrefix(path, "api")
	})
	addTree(t, w, filepath.Join(goEnv("GOMODCACHE"), "cache", "download"), "modules", func(string) bool { return true })
	imageCA = harness.NewAuthority(t, "ca")
	must(t, os.Chmod(imageCA.CA, 0o644))
	addFile(t, w, imageCA.CA, "etc/ssl/certs/ca-certificates.crt")
	addFile(t, w, "/bin/sh", "bin/sh")
	for _, m := range regexp.MustCompile(`(/\S+) \(0x`).FindAllStringSubmatch(output(t, "ldd", "/bin/sh"), -1) {
		addFile(t, w, m[1], strings.TrimPrefix(m[1], "/"))
	}
	must(t, w.Close())
	must(t, in.Close())
	must(t, cmd.Wait())
}

func addTree(t testing.TB, w *tar.Writer, dir, as string, want func(path string) bool) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		if err != nil || !want(rel) || !d.Type().IsRegular() {
			return err
		}
		addFile(t, w, path, filepath.Join(as, rel))
		return nil
	}))
}

func addFile(t testing.TB, w *tar.Writer, path, as string) {
	t.Helper()
	f, err := os.Open(path) // through links: what they point to
	must(t, err)
	defer f.Close()
	info, err := f.Stat()
	must(t, err)
	must(t, w.WriteHeader(&tar.Header{Name: as, Mode: int64(info.Mode().Perm()), Size: info.Size()}))
	_, err = io.Copy(w, f)
	must(t, err)
}

// viewer connects as someone who may only read.
func (p *project) viewer() *nats.Conn {
	p.t.Helper()
	nc, err := nats.Connect(p.natsURL, nats.UserInfo("viewer", "viewer"), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.RetryOnFailedConnect(true))
	must(p.t, err)
	p.t.Cleanup(nc.Close)
	return nc
}

// same waits until the replayed stream is the host's state.
func (p *project) same(nc *nats.Conn) (events int) {
	p.t.Helper()
	var links, kernel map[int32]string
	defer func() {
		if p.t.Failed() {
			p.t.Logf("stream: %v\nkernel: %v", links, kernel)
		}
	}()
	eventually(p.t, "the stream leads to the host's links", func() bool {
		all := harness.Stored(p.t, nc, "IFACE")
		events, links, kernel = len(all), map[int32]string{}, map[int32]string{}
		for index, l := range harness.ReplayAll(p.t, all).Links {
			links[index] = l.Name
		}
		for index, l := range harness.IPLinks(p.t, nil) {
			kernel[index] = l["ifname"].(string)
		}
		return maps.Equal(links, kernel)
	})
	return events
}

// docker-compose up, from nothing to a subscriber outside that reads the host's
// links; without a capability; and through the death of each container.
func TestCompose(t *testing.T) {
	p := newProject(t, "ifacebridge-test")
	p.run("build", "--no-cache", "ifacebridge")
	began := time.Now()
	p.run(append(readmeCommand(t, "docker compose up"), "--detach")...)
	first := p.firstEvent()
	t.Logf("the first event is there %v after docker-compose up: %s", time.Since(began).Round(time.Millisecond), first)
	p.healthy()
	t.Logf("healthy %v after docker-compose up", time.Since(began).Round(time.Second))

	nc := p.viewer()
	events := make(chan *nats.Msg, 1000)
	_, err := nc.ChanSubscribe("iface.demo.*", events)
	must(t, err)
	harness.Flush(t, nc)
	k := hostKernel(t)
	until := func(what string, ok func(*schema.Event) bool) {
		t.Helper()
		for deadline := time.After(harness.Patience); ; {
			select {
			case m := <-events:
				var e schema.Event
				must(t, json.Unmarshal(m.Data, &e))
				if ok(&e) {
					return
				}
			case <-deadline:
				t.Fatalf("no event: %s", what)
			}
		}
	}
	name, peer := fmt.Sprintf("ifb%d-a", os.Getpid()), fmt.Sprintf("ifb%d-b", os.Getpid())
	link, _, err := k.AddVeth(name, peer)
	must(t, err)
	t.Cleanup(func() { _ = k.Delete(link) }) // gone, when all went well
	until("created", func(e *schema.Event) bool { return e.Link.Name == name && e.Action == schema.Created })
	must(t, k.Up(link)) // of a link that is down the kernel does not announce an alias
	must(t, k.SetAlias(link, "seen from outside"))
	until("alias", func(e *schema.Event) bool { return e.Link.Alias == "seen from outside" })

	// Not root, no capability, no shell, nothing to write to.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid("ifacebridge")))
	must(t, err)
	for _, want := range []string{"\nUid:\t65532\t65532", "\nCapEff:\t0000000000000000\n", "\nCapBnd:\t0000000000000000\n", "\nNoNewPrivs:\t1\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no line %q in the process's status", want)
		}
	}
	if p.inspect("ifacebridge", "{{.HostConfig.ReadonlyRootfs}}") != "true" {
		t.Error("the container's root can be written")
	}
	size, err := strconv.Atoi(output(t, "docker", "image", "inspect", "--format", "{{.Size}}", ourImage))
	must(t, err)
	t.Logf("image %.1f MB, memory %s", float64(size)/1e6, strings.TrimSpace(regexp.MustCompile(`VmRSS:(.*)`).FindStringSubmatch(string(status))[1]))

	// The bridge dies; a link goes, unseen; Docker starts it again.
	before := p.pid("ifacebridge")
	must(t, syscall.Kill(before, syscall.SIGKILL))
	must(t, k.Delete(link))
	eventually(t, "Docker starts the bridge again", func() bool { pid := p.pid("ifacebridge"); return pid != 0 && pid != before })
	until("deleted", func(e *schema.Event) bool { return e.Link.Name == name && e.Kind == schema.Del })
	p.same(nc)

	// NATS dies, in the middle of changes.
	link, _, err = k.AddVeth(name, peer)
	must(t, err)
	must(t, k.Up(link))
	for i := range 300 {
		if i == 100 {
			must(t, syscall.Kill(p.pid("nats"), syscall.SIGKILL))
		}
		must(t, k.SetAlias(link, fmt.Sprint(i)))
	}
	must(t, k.Delete(link))
	p.healthy()
	n := p.same(nc)
	t.Logf("%d events, each once and in order", n)

	p.run("stop", "--timeout", "10", "ifacebridge")
	if code := p.inspect("ifacebridge", "{{.State.ExitCode}}"); code != "0" {
		t.Errorf("exit status %s", code)
	}
}

// cluster.yml on top: three servers, the stream on all of them.
func TestComposeCluster(t *testing.T) {
	ports := []string{fmt.Sprint("NATS_PORT_2=", natstest.FreePort(t)), fmt.Sprint("NATS_PORT_3=", natstest.FreePort(t))}
	p := newProject(t, "ifacebridge-test-cluster", ports...)
	p.files = append(p.files, "deploy/nats/cluster.yml")
	p.run("up", "-d", "--build")
	p.healthy()
	nc := p.viewer()
	p.same(nc)
	js, err := jetstream.New(nc)
	must(t, err)
	stream, err := js.Stream(context.Background(), "IFACE")
	must(t, err)
	info := stream.CachedInfo()
	if info.Config.Replicas != 3 || info.Cluster == nil || len(info.Cluster.Replicas) != 2 {
		t.Errorf("the stream has %d replicas: %+v", info.Config.Replicas, info.Cluster)
	}
}

// A compose file without credentials, or with wrong ones: one clear line.
func TestComposeBadCredentials(t *testing.T) {
	for _, tt := range []struct{ env, says string }{
		{"NATS_USER=", "NATS_PASSWORD: is set without NATS_USER; accepted: both or none"},
		{"NATS_USER=nobody", "check NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, or NATS_TOKEN"},
	} {
		t.Run(tt.env, func(t *testing.T) {
			p := newProject(t, "ifacebridge-test-bad", tt.env)
			p.run("up", "-d")
			eventually(t, tt.says, func() bool { return strings.Contains(p.try("logs", "--no-color", "ifacebridge"), tt.says) })
		})
	}
}

// readmeCommand returns the README's line that begins like this, from the third word.
func readmeCommand(t testing.TB, begins string) []string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, begins) {
			return strings.Fields(line)[2:]
		}
	}
	t.Fatalf("the README has no line %q", begins)
	return nil
}

// firstEvent waits for what `watch` shows in the bridge's container: no Go, no nats
// command, nothing but docker-compose.
func (p *project) firstEvent() string {
	p.t.Helper()
	args := readmeCommand(p.t, "docker compose exec")
	args = slices.Insert(args, 1, "-T") // no terminal
	watch := p.command(append(args, "--since", "1h")...)
	out, err := watch.StdoutPipe()
	must(p.t, err)
	watch.Stderr = os.Stderr
	must(p.t, watch.Start())
	defer func() {
		_ = watch.Process.Kill()
		_ = watch.Wait()
	}()
	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		lines <- line
	}()
	select {
	case line := <-lines:
		var e schema.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Host != "demo" {
			p.t.Fatalf("watch shows no event of the host: %v: %q", err, line)
		}
		return strings.TrimSpace(line)
	case <-time.After(harness.Patience):
		p.t.Fatal("watch shows nothing")
	}
	return ""
}

// A password that the server would read as something else than a string.
func TestComposePasswords(t *testing.T) {
	p := newProject(t, "ifacebridge-test-passwords",
		`BRIDGE_PASSWORD=1st "#$x`, "VIEWER_PASSWORD=2k", "ADMIN_PASSWORD=true")
	p.run("up", "-d", "--build")
	p.healthy()
	nc, err := nats.Connect(p.natsURL, nats.UserInfo("viewer", "2k"))
	must(t, err)
	nc.Close()
}

// A server's certificate is accepted when an authority has signed it that is only in
// the image, where it comes from the base image of the build.
func TestImageAuthorities(t *testing.T) {
	p := newProject(t, "ifacebridge-test-authorities")
	p.run("build", "ifacebridge")
	cert, key := imageCA.Issue(t, "server", time.Now().Add(time.Hour))
	strange, strangeKey := harness.NewAuthority(t, "other").Issue(t, "server", time.Now().Add(time.Hour))
	for _, tt := range []struct{ name, cert, key, logs string }{
		{"known", cert, key, "created the stream"},
		{"unknown", strange, strangeKey, "certificate signed by unknown authority"},
	} {
		s := natstest.Start(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q }", tt.cert, tt.key))
		name := fmt.Sprint(p.name, "-", tt.name)
		began := time.Now()
		output(t, "docker", "run", "--detach", "--name", name, "--network", "host", "--read-only", "--cap-drop", "ALL",
			"--env", fmt.Sprintf("NATS_URL=tls://127.0.0.1:%d", s.Port),
			"--env", "IFACE_HOST=image", "--env", "IFACE_HTTP_ADDR=", ourImage)
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(output(t, "docker", "logs", "--tail", "10", name))
			}
			output(t, "docker", "rm", "--force", name)
		})
		eventually(t, tt.logs, func() bool { return strings.Contains(output(t, "docker", "logs", name), tt.logs) })
		t.Logf("%s: %q after %v", tt.name, tt.logs, time.Since(began).Round(time.Millisecond))
	}
	labels := output(t, "docker", "inspect", "--format", "{{json .Config.Labels}}", ourImage)
	if !strings.Contains(labels, `"org.opencontainers.image.title":"ifacebridge"`) {
		t.Errorf("labels: %s", labels)
	}
	size := output(t, "docker", "inspect", "--format", "{{.Size}}", ourImage)
	t.Logf("%s bytes", size)
}

// In a network of its own a container sees its own links only, and is told so. Its
// memory limit is the garbage collector's, less a tenth.
func TestImageInANetworkOfItsOwn(t *testing.T) {
	p := newProject(t, "ifacebridge-test-bridged")
	p.run("build", "ifacebridge")
	const hint = "only a container's own links are visible"
	name := fmt.Sprint(p.name, "-container")
	output(t, "docker", "run", "--detach", "--name", name, "--memory", "128m", "--env", "IFACE_LOG_LEVEL=debug",
		"--env", "NATS_URL=nats://127.0.0.1:4222", "--env", "IFACE_HOST=image", ourImage)
	t.Cleanup(func() { _, _ = exec.Command("docker", "rm", "--force", name).CombinedOutput() })
	eventually(t, hint, func() bool { return strings.Contains(output(t, "docker", "logs", name), hint) })
	limit := fmt.Sprintf(`"memory limit, from the cgroup" bytes=%d`, 128<<20*9/10)
	if logs := output(t, "docker", "logs", name); !strings.Contains(logs, limit) {
		t.Errorf("it does not log %s:\n%s", limit, logs)
	}
	out, err := exec.Command("docker", "exec", name, "/ifacebridge", "doctor").CombinedOutput()
	if err == nil || !strings.Contains(string(out), hint) || !strings.Contains(string(out), "--network host") {
		t.Errorf("doctor: %v\n%s", err, out) // it fails, since there is no server
	}
}

// The Dockerfile builds for another architecture on this one, as deploy/release.sh says.
func TestImageForAnotherArchitecture(t *testing.T) {
	newProject(t, "ifacebridge-test-platforms") // the base images
	if out, err := exec.Command("docker", "buildx", "version").CombinedOutput(); err != nil {
		netnstest.Skip(t, "docker-buildx", fmt.Sprintf("docker buildx version: %v: %s", err, out))
	}
	output(t, "docker", "buildx", "build", "--platform", "linux/riscv64", "--load", "--tag", otherImage,
		"--build-arg", "GO_IMAGE="+goImage, "--build-arg", "VERSION=v0.0.0-test", "../..")
	got := output(t, "docker", "inspect", "--format", "{{.Os}}/{{.Architecture}}", otherImage)
	if got != "linux/riscv64" {
		t.Errorf("the image is for %s", got)
	}
}

// hostKernel is for changing the links of the namespace that the test runs in,
// which is the host's: the test deletes what it makes.
func hostKernel(t testing.TB) *netnstest.Kernel {
	t.Helper()
	k, err := netnstest.Here()
	must(t, err)
	t.Cleanup(k.Close)
	return k
}
