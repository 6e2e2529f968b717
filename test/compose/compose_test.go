package compose

import (
	"archive/tar"
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
	netnstest.Summarize(func() { m.Run() })
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

// Images of the test.
const (
	goImage   = "ifacebridge-test/golang"
	natsImage = "ifacebridge-test/nats"
	ourImage  = "ifacebridge-test/ifacebridge"
)

// prepared is whether the images that stand in for the public ones are there.
var prepared bool

// A project is one docker-compose project of the repository's file.
type project struct {
	t       testing.TB
	name    string
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
	p.env = append(os.Environ(), "GO_IMAGE="+goImage, "NATS_IMAGE="+natsImage, "IFACEBRIDGE_IMAGE="+ourImage,
		fmt.Sprintf("NATS_PORT=%d", port), "NATS_URL="+p.natsURL, fmt.Sprintf("IFACE_HTTP_ADDR=127.0.0.1:%d", natstest.FreePort(t)))
	p.env = append(p.env, env...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.try("logs", "--no-color", "--tail=40"))
		}
		p.try("--profile", "cluster", "down", "--volumes", "--timeout", "6")
	})
	return p
}

func (p *project) try(args ...string) string {
	cmd := exec.Command("docker-compose", append([]string{"-p", p.name, "-f", "../../docker-compose.yml"}, args...)...)
	cmd.Env = p.env
	out, _ := cmd.CombinedOutput()
	return string(out)
}

func (p *project) run(args ...string) string {
	p.t.Helper()
	cmd := exec.Command("docker-compose", append([]string{"-p", p.name, "-f", "../../docker-compose.yml"}, args...)...)
	cmd.Env = p.env
	out, err := cmd.CombinedOutput()
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
// shell, Go, and modules to be had, here from this machine's module cache.
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
	p.run("up", "-d")
	p.healthy()
	t.Logf("healthy %v after docker-compose up", time.Since(began).Round(time.Second))

	nc := p.viewer()
	events := make(chan *nats.Msg, 1000)
	_, err := nc.ChanSubscribe("iface.demo.*", events)
	must(t, err)
	must(t, nc.Flush())
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
	const name, peer = "ifbtest0", "ifbtest1"
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

// The cluster profile: three servers, the stream on all of them.
func TestComposeCluster(t *testing.T) {
	p := newProject(t, "ifacebridge-test-cluster", "IFACE_REPLICAS=3", "NATS_URL=nats://127.0.0.1:4231,nats://127.0.0.1:4232,nats://127.0.0.1:4233")
	p.natsURL = "nats://127.0.0.1:4232"
	p.run("--profile", "cluster", "up", "-d", "--build")
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

// hostKernel is for changing the links of the namespace that the test runs in,
// which is the host's: the test deletes what it makes.
func hostKernel(t testing.TB) *netnstest.Kernel {
	t.Helper()
	k, err := netnstest.Here()
	must(t, err)
	t.Cleanup(k.Close)
	return k
}
