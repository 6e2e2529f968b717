package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// Other versions of nats-server, built from their module: those that JetStream delivery
// works with store bursts, kills and all, each event once, and hold the fence; older ones are
// refused with a sentence that names the remedy, in the log, by /readyz and by doctor. They are in the folders of
// IFACE_TEST_SERVERS, which are called after their versions:
//
//	GOBIN=$IFACE_TEST_SERVERS/2.12.0 go install github.com/nats-io/nats-server/v2@v2.12.0
func TestServerVersions(t *testing.T) {
	dir := os.Getenv("IFACE_TEST_SERVERS")
	if dir == "" {
		netnstest.Skip(t, "servers", "IFACE_TEST_SERVERS is not set")
	}
	versions, err := os.ReadDir(dir)
	must(t, err)
	for _, version := range versions {
		t.Run(version.Name(), func(t *testing.T) { testServerVersion(t, dir, version.Name()) })
	}
}

func testServerVersion(t *testing.T, dir, version string) {
	k := netnstest.Parallel(t)
	a := upLink(t, k)
	s := natstest.New(t, "")
	s.Path = filepath.Join(dir, version, "nats-server")
	s.Start()
	b := bridge(t, s)
	const sentence = "JetStream delivery needs nats-server 2.11.7 or later, and this one is "
	var major, minor, patch int
	_, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch)
	must(t, err)
	if minor < 11 || minor == 11 && patch < 7 {
		b.Says(sentence + version)
		eventually(t, "/readyz says so", func() bool {
			status, body := get(t, "/readyz")
			return status == 503 && strings.Contains(body, sentence+version)
		})
		doctor(t, []string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}, 1, sentence+version)
		return
	}
	holds(t, s)
	const changes = 1000
	changesAcrossKill(t, k, a, s, changes)
	f := settled(t, s)
	if f.Replay.Notifications < changes {
		t.Errorf("the events stand for %d notifications of %d", f.Replay.Notifications, changes)
	}
	holds(t, s)
	ends(t, func() *process { return start(t, []string{"NATS_URL=" + s.URL}, "links") }, 0, "veth0")
	watch := start(t, []string{"NATS_URL=" + s.URL}, "watch", "--json")
	doctor(t, []string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}, 0)
	b.Kill()
	first := bridge(t, s)
	eventually(t, "ready", func() bool { return first.Metric("ifacebridge_ready") == 1 })
	fenced(t, k, s, a, first)
	watch.Says(`"ifalias":"the second's"`)
	stored := harness.Stored(t, connect(t, s), "IFACE")
	replayAll(t, stored)
	holds(t, s)
	batches := "yes"
	if strings.Contains(b.Output(), "batches=false") || !atLeast(version, 12) {
		batches = "no"
	} else if strings.Contains(b.Output(), "the server refuses batches of events") {
		batches = "refused, one at a time"
	}
	t.Logf("| %s | %d, each once | %s | holds | follows |", version, len(stored), batches)
}

// fenced lets a second bridge take over while the first stands still: when that goes on, it
// writes nothing behind the second's back.
func fenced(t *testing.T, k *netnstest.Kernel, s *natstest.Server, link int32, first *process) {
	second := bridge(t, s, "IFACE_HTTP_ADDR=127.0.0.1:9470")
	second.Says("standing by: another bridge publishes as this host")
	first.Signal(unix.SIGSTOP)
	second.Says("publishing as this host again: the other bridge is gone")
	for i := range 50 {
		must(t, k.SetAlias(link, fmt.Sprint("both see this ", i))) // the first has it in its socket
	}
	must(t, k.SetAlias(link, "the second's"))
	holds(t, s)
	first.Signal(unix.SIGCONT)
	first.Says("standing by: another bridge publishes as this host")
}

// atLeast reports whether a version is 2.minor or later.
func atLeast(version string, minor int) bool {
	var major, got int
	_, _ = fmt.Sscanf(version, "%d.%d", &major, &got)
	return got >= minor
}
