package vm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/schema"
	"ifacebridge/test/iptest"
)

// guest skips a test that is not run in the guest.
func guest(t *testing.T) {
	t.Helper()
	if os.Getenv("IFACE_VM_GUEST") == "" {
		t.Skip("runs in the machine that TestKernels boots")
	}
}

// ip runs ip with the words of a line.
func ip(line string) error {
	out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
	if err != nil {
		why, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
		return fmt.Errorf("ip %s: %w: %s", line, err, why)
	}
	return nil
}

// script has one ip do many lines, and goes on behind one that fails.
func script(lines string, options ...string) (string, error) {
	cmd := exec.Command("ip", append(options, "-force", "-batch", "-")...)
	cmd.Stdin = strings.NewReader(lines)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A bridge is a running ifacebridge with the NATS server that is in it, and what it has
// published since it began.
type bridge struct {
	t      *testing.T
	cmd    *exec.Cmd
	output bytes.Buffer
	nc     *nats.Conn

	mu     sync.Mutex
	events []arrival
}

type arrival struct {
	at    time.Time
	event schema.Event
}

// startBridge starts the bridge, and returns when its first snapshot is there.
func startBridge(t *testing.T, env ...string) *bridge {
	t.Helper()
	b := &bridge{t: t, cmd: exec.Command("ifacebridge")}
	home := t.TempDir()
	b.cmd.Env = append([]string{"HOME=" + home, "IFACE_HOST=guest", "IFACE_STORE_DIR=" + home, "PATH=/bin"}, env...)
	b.cmd.Stdout, b.cmd.Stderr = &b.output, &b.output
	must(t, b.cmd.Start())
	t.Cleanup(b.stop)
	within(t, time.Minute, "the bridge's server", func() bool {
		nc, err := nats.Connect(nats.DefaultURL)
		if err == nil {
			b.nc = nc
		}
		return err == nil
	})
	js, err := b.nc.JetStream()
	must(t, err)
	within(t, time.Minute, "the bridge's stream", func() bool { _, err := js.StreamInfo("IFACE"); return err == nil })
	_, err = js.Subscribe("iface.guest.*", b.take, nats.OrderedConsumer())
	must(t, err)
	within(t, time.Minute, "the snapshot", func() bool {
		e, ok := b.last(func(e *schema.Event) bool { return e.Snapshot.Of > 0 })
		return ok && e.Snapshot.Pos == e.Snapshot.Of
	})
	return b
}

func (b *bridge) take(m *nats.Msg) {
	a := arrival{at: time.Now()}
	if err := json.Unmarshal(m.Data, &a.event); err != nil {
		b.t.Errorf("%v: %s", err, m.Data)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, a)
}

// stop ends the bridge, as a service manager does.
func (b *bridge) stop() {
	if b.cmd.ProcessState != nil {
		return
	}
	if b.nc != nil {
		b.nc.Close()
	}
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = b.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		_ = b.cmd.Process.Kill()
		<-done
	}
	if b.t.Failed() {
		b.t.Logf("the bridge's log:\n%s", b.output.String())
	}
}

// since returns what came after the first n events.
func (b *bridge) since(n int) []arrival {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]arrival(nil), b.events[n:]...)
}

// last returns the newest event that is wanted.
func (b *bridge) last(wanted func(*schema.Event) bool) (schema.Event, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := len(b.events) - 1; i >= 0; i-- {
		if wanted(&b.events[i].event) {
			return b.events[i].event, true
		}
	}
	return schema.Event{}, false
}

// count returns how many events there are.
func (b *bridge) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.events)
}

// await returns the first event after n others that is wanted, when it is there.
func (b *bridge) await(t *testing.T, what string, n int, wanted func(*schema.Event) bool) (a arrival) {
	t.Helper()
	within(t, time.Minute, what, func() bool {
		list := b.since(n)
		i := slices.IndexFunc(list, func(a arrival) bool { return wanted(&a.event) })
		if i >= 0 {
			a = list[i]
		}
		return i >= 0
	})
	return a
}

// links are what the events lead to.
func (b *bridge) links() map[int32]schema.Link {
	links := map[int32]schema.Link{}
	seq := uint64(0)
	for _, a := range b.since(0) {
		e := &a.event
		if e.Seq != seq+1 {
			b.t.Errorf("seq %d after %d", e.Seq, seq)
		}
		seq = e.Seq
		if e.Netns != "" {
			continue
		}
		if e.Kind == schema.New {
			links[e.Link.Index] = e.Link
		} else {
			delete(links, e.Link.Index)
		}
	}
	return links
}

// compare holds the links to what ip says, until they are the same or the time is over, and
// returns how many values were compared.
func (b *bridge) compare(limit time.Duration) (values, links int, diffs []string) {
	b.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		out, err := exec.Command("ip", "-d", "-j", "link", "show").Output()
		must(b.t, err)
		kernel, err := iptest.Parse(out)
		must(b.t, err)
		if values, diffs = iptest.Compare(b.links(), kernel); len(diffs) == 0 || time.Now().After(deadline) {
			return values, len(kernel), diffs
		}
	}
}

func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// clean deletes every link that can be, so that each test begins with a kernel without any.
func clean(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		entries, err := filepath.Glob("/sys/class/net/*")
		must(t, err)
		var lines strings.Builder
		for _, entry := range entries {
			fmt.Fprintf(&lines, "link del %s\n", filepath.Base(entry))
		}
		_, _ = script(lines.String()) // some are gone with another, and some stay
	})
}

// modprobe loads modules; those that this kernel does not have are said.
func modprobe(t *testing.T, modules ...string) {
	t.Helper()
	for _, module := range modules {
		name, options, _ := strings.Cut(module, " ")
		args := append([]string{name}, strings.Fields(options)...)
		if out, err := exec.Command("modprobe", args...).CombinedOutput(); err != nil {
			t.Logf("no module %s: %s", name, bytes.TrimSpace(out))
		}
	}
}
