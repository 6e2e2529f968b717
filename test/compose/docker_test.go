package compose

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// A container that Docker starts and stops: its eth0 appears in the namespace that
// Docker made for it, comes from the bridge's own by its account, and goes.
func TestDockerContainer(t *testing.T) {
	requireDocker(t)
	s := natstest.Start(t, "")
	r := harness.Record(t, s)
	n := 0
	until := func(what string, ok func(*schema.Event) bool) schema.Event {
		t.Helper()
		return r.Until(n, what, ok)
	}
	bridge := harness.Start(t, []string{"NATS_URL=" + s.URL, "IFACE_HOST=docker-test", "IFACE_NETNS=all", "IFACE_HTTP_ADDR="})
	defer func() {
		bridge.Signal(syscall.SIGTERM)
		bridge.Wait()
		if t.Failed() {
			for _, e := range r.Since(0) {
				t.Logf("%s %s %v %v %d:%s %+v", e.Netns, e.Kind, e.Action, e.Cause, e.Link.Index, e.Link.Name, e.Counterpart)
			}
		}
	}()
	until("the opening", func(e *schema.Event) bool {
		return e.Snapshot.Of > 0 && e.Snapshot.Pos == e.Snapshot.Of && e.Snapshot.More == 0
	})

	name := fmt.Sprint("ifacebridge-test-", os.Getpid())
	output(t, "docker", "run", "--detach", "--name", name, natsImage)
	defer func() { _, _ = exec.Command("docker", "rm", "--force", name).CombinedOutput() }()
	netns := filepath.Base(output(t, "docker", "inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name))
	eth0 := until("eth0 in the container", func(e *schema.Event) bool { return e.Netns == netns && e.Kind == schema.New && e.Link.Name == "eth0" })
	moved := until("moved from the host's side", func(e *schema.Event) bool {
		return e.Netns == "" && e.Action == schema.Moved && (e.Counterpart.Index == eth0.Link.Index || e.Link.NewIndex == eth0.Link.Index)
	})
	outside := until("its other end", func(e *schema.Event) bool {
		return e.Netns == "" && e.Kind == schema.New && e.Link.LowerIndex == eth0.Link.Index && e.Link.Info.Kind == "veth"
	})
	t.Logf("%s was %s, moved to %+v; its other end is %s", eth0.Link.Name, moved.Link.Name, moved.Counterpart, outside.Link.Name)

	n = r.Mark()
	began := time.Now()
	output(t, "docker", "stop", "--time", "2", name)
	until("the last link of the container", func(e *schema.Event) bool { return e.Netns == netns && e.Kind == schema.Del && e.Link.Name == "lo" })
	gone := until("eth0 goes", func(e *schema.Event) bool {
		return e.Netns == netns && e.Kind == schema.Del && e.Link.Index == eth0.Link.Index
	})
	until("its other end goes", func(e *schema.Event) bool {
		return e.Netns == "" && e.Kind == schema.Del && e.Link.Index == outside.Link.Index
	})
	t.Logf("eth0 is %v (%v), and all is gone %v after docker stop began", gone.Action, gone.Cause, time.Since(began).Round(time.Millisecond))
}

// builtNATS is whether natsImage is there.
var builtNATS bool

// requireDocker skips where Docker is not asked for, or not there, and makes the image that is run.
func requireDocker(t testing.TB) {
	t.Helper()
	if os.Getenv("IFACE_TEST_DOCKER") != "on" && !netnstest.Required("docker") {
		netnstest.Skip(t, "IFACE_TEST_DOCKER=on", "images are built and started, which takes minutes")
	}
	netnstest.Tool(t, "docker")
	if out, err := exec.Command("docker", "info").CombinedOutput(); err != nil {
		netnstest.Skip(t, "docker", fmt.Sprintf("docker info: %v: %s", err, out))
	}
	if os.Getuid() != 0 {
		netnstest.Skip(t, "docker", "links and namespaces of the host are for root only")
	}
	if !builtNATS {
		buildNATS(t)
		builtNATS = true
	}
}
