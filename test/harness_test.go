package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/iptest"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
	"ifacebridge/test/schematest"
)

func TestMain(m *testing.M) {
	defer natstest.Clean()
	netnstest.Main(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// upLink makes a veth pair and sets the end up whose index it returns. The other
// end stays down, so that no carrier comes later and is announced.
func upLink(t testing.TB, k *netnstest.Kernel) int32 {
	t.Helper()
	a, _, err := k.AddVeth("veth0", "veth1")
	must(t, err)
	must(t, k.Up(a))
	return a
}

// eventually waits until ok, for up to 20 seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	within(t, 20*time.Second, what, ok)
}

func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A process is a running ifacebridge.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	output lockedBuffer // both streams
	exited chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start starts ifacebridge with these arguments and environment variables, and
// no others that it reads.
func start(t testing.TB, env []string, args ...string) *process {
	t.Helper()
	return startBinary(t, natstest.Binary(t, "ifacebridge/cmd/ifacebridge"), env, args...)
}

func startBinary(t testing.TB, path string, env []string, args ...string) *process {
	t.Helper()
	return startWith(t, launch{}, path, env, args...)
}

// launch is how to start a process otherwise than as a child among others.
type launch struct {
	attr  syscall.SysProcAttr
	enter func() error // puts the thread that starts it elsewhere
}

func startWith(t testing.TB, l launch, path string, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(path, args...), exited: make(chan struct{})}
	p.cmd.Env = append([]string{"HOME=" + t.TempDir()}, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread that starts the process
		l.attr.Pdeathsig = syscall.SIGKILL
		p.cmd.SysProcAttr = &l.attr
		var err error
		if l.enter != nil {
			err = l.enter()
		}
		if err == nil {
			err = p.cmd.Start()
		}
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			close(p.exited)
		}
	}()
	must(t, <-started)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("output of ifacebridge %s:\n%s", strings.Join(args, " "), p.output.String())
		}
	})
	return p
}

// bridge starts the bridge for host "test" against a server.
func bridge(t testing.TB, s *natstest.Server, env ...string) *process {
	t.Helper()
	return start(t, append([]string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}, env...))
}

// signal sends a signal. On SIGSTOP it returns when all threads stand still: kill(2)
// does not wait for those that run.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(sig))
	if sig == unix.SIGSTOP {
		eventually(p.t, "the stop", p.stopped)
	}
}

func (p *process) stopped() bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	return len(threads) > 0 && !slices.ContainsFunc(threads, func(file string) bool {
		stat, err := os.ReadFile(file)
		_, state, _ := bytes.Cut(stat, []byte(") ")) // the name may hold anything, but ours does not
		return err != nil || !bytes.HasPrefix(state, []byte("T"))
	})
}

// wait returns the exit status, which must come within the time.
func (p *process) wait(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		p.t.Fatalf("still running after %v", within)
		return -1
	}
}

// says waits until the process has written text.
func (p *process) says(text string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("output %q", text), func() bool { return strings.Contains(p.output.String(), text) })
}

// ready waits until the process has read the links and has made the stream.
func (p *process) ready() {
	p.t.Helper()
	p.says("read the links of this host")
	p.says("created the stream")
}

// metric returns what /metrics says, the sum over all labels; 0 when the process
// does not answer.
func (p *process) metric(name string) float64 {
	p.t.Helper()
	resp, err := http.Get("http://127.0.0.1:9469/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	must(p.t, err)
	sum := 0.0
	for _, m := range families[name].GetMetric() {
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

// duplicates returns how many events were not stored twice: found stored, or
// refused by the server.
func (p *process) duplicates() float64 {
	return p.metric("ifacebridge_events_already_stored_total") + p.metric("ifacebridge_publish_refused_total")
}

// A recorder holds every event that was published since it was made. Each is
// validated against the schema.
type recorder struct {
	t  testing.TB
	nc *nats.Conn

	mu     sync.Mutex
	events []schema.Event
}

func record(t testing.TB, s *natstest.Server) *recorder {
	t.Helper()
	nc := connect(t, s)
	r := &recorder{t: t, nc: nc}
	_, err := nc.Subscribe("iface.>", func(m *nats.Msg) {
		schematest.Validate(t, m.Data)
		var e schema.Event
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Errorf("%s: %v", m.Data, err)
		}
		checkHeaders(t, m, &e)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, e)
	})
	must(t, err)
	must(t, nc.Flush())
	return r
}

// checkHeaders checks the headers of an event: its id, and what makes a CloudEvent
// of it, whose names are lower case to the letter.
func checkHeaders(t testing.TB, m *nats.Msg, e *schema.Event) {
	for name, want := range map[string]string{
		nats.MsgIdHdr: e.ID(), "Content-Type": "application/json", "ce-specversion": "1.0", "ce-id": e.ID(),
		"ce-type": "iface.v1." + e.Kind.String(), "ce-time": e.Time.Format("2006-01-02T15:04:05.000000000Z"), "ce-subject": e.Key().String(),
	} {
		if got := m.Header[name]; len(got) != 1 || got[0] != want {
			t.Errorf("header %s is %q, want %q", name, got, want)
		}
	}
	token, err := schema.HostToken(e.Host)
	if got := m.Header["ce-source"]; err != nil || len(got) != 1 || got[0] != "/ifacebridge/"+token {
		t.Errorf("header ce-source is %q, want /ifacebridge/%s", got, token)
	}
}

func connect(t testing.TB, s *natstest.Server) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.URL, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// since returns the events from n on.
func (r *recorder) since(n int) []schema.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events[n:])
}

// mark returns the number of events so far.
func (r *recorder) mark() int { return len(r.since(0)) }

// until waits for an event from n on that is as wanted.
func (r *recorder) until(n int, what string, ok func(*schema.Event) bool) schema.Event {
	r.t.Helper()
	var found schema.Event
	eventually(r.t, what, func() bool {
		for _, e := range r.since(n) {
			if ok(&e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// snapshot waits for the end of a snapshot and returns the number of events up to
// it.
func (r *recorder) snapshot() int {
	r.t.Helper()
	end := r.until(0, "a snapshot", func(e *schema.Event) bool { return e.Snapshot.Of > 0 && e.Snapshot.Pos == e.Snapshot.Of })
	return slices.IndexFunc(r.since(0), func(e schema.Event) bool { return e.Seq == end.Seq && e.Epoch == end.Epoch }) + 1
}

// about returns the events from n on about the link with this index.
func (r *recorder) about(n int, index int32) []schema.Event {
	return slices.DeleteFunc(r.since(n), func(e schema.Event) bool { return e.Link.Index != index })
}

// stored reads the whole stream in order.
func stored(t testing.TB, nc *nats.Conn, stream string) []schema.Event {
	t.Helper()
	js, err := jetstream.New(nc)
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	must(t, err)
	info, err := s.Info(ctx)
	must(t, err)
	consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	must(t, err)
	messages, err := consumer.Messages()
	must(t, err)
	defer messages.Stop()
	var events []schema.Event
	for range info.State.Msgs {
		m, err := messages.Next(jetstream.NextContext(ctx))
		must(t, err)
		schematest.Validate(t, m.Data())
		var e schema.Event
		must(t, json.Unmarshal(m.Data(), &e))
		events = append(events, e)
	}
	return events
}

// A replay is a consumer that applies a host's events in order, and checks that
// they can be: seq without gaps or repeats, each epoch opening as it must.
type replay struct {
	epoch string
	seq   uint64
	links map[int32]schema.Link // of the bridge's own namespace
	netns map[string]map[int32]schema.Link
	last  schema.Event

	notifications uint64 // of the kernel, that the events stand for
}

// apply returns what is wrong with the next event.
func (r *replay) apply(e *schema.Event) error {
	if e.Epoch != r.epoch {
		if e.Seq != 1 {
			return fmt.Errorf("epoch %s begins with seq %d", e.Epoch, e.Seq)
		}
		r.epoch, r.seq = e.Epoch, 0
	}
	if e.Seq != r.seq+1 {
		return fmt.Errorf("epoch %s: seq %d after %d", e.Epoch, e.Seq, r.seq)
	}
	r.seq++
	if r.links == nil || e.Snapshot.Pos == 1 && e.Netns == "" { // mark and sweep: what is not in it is gone
		r.links = map[int32]schema.Link{}
	}
	if r.netns == nil {
		r.netns = map[string]map[int32]schema.Link{}
	}
	links := r.links
	if e.Netns != "" {
		if links = r.netns[e.Netns]; links == nil || e.Snapshot.Pos == 1 {
			links = map[int32]schema.Link{}
			r.netns[e.Netns] = links
		}
	}
	if e.Snapshot.Of > 0 && e.Snapshot.Pos > 1 && e.Snapshot.Pos != r.last.Snapshot.Pos+1 {
		return fmt.Errorf("seq %d: something stands inside the snapshot", e.Seq)
	}
	r.last = *e
	if e.Cause == schema.Notification {
		r.notifications += max(e.Coalesced, 1)
	}
	if former, renamed := e.FormerKey(); renamed {
		if _, known := r.netns[former.Netns][former.Index]; !known {
			return fmt.Errorf("seq %d: link %d was not in %s before", e.Seq, former.Index, former.Netns)
		}
		delete(r.netns[former.Netns], former.Index)
	}
	_, known := links[e.Link.Index]
	switch {
	case e.Kind == schema.New:
		links[e.Link.Index] = e.Link
	case e.Netns != "" && !known && e.NetnsPrevious == "" && e.Coalesced <= 1:
		return fmt.Errorf("seq %d: link %d was not in %s", e.Seq, e.Link.Index, e.Netns)
	default:
		delete(links, e.Link.Index)
	}
	return nil
}

// replayAll applies events in order, and fails the test when they cannot be.
func replayAll(t testing.TB, events []schema.Event) *replay {
	t.Helper()
	r := &replay{}
	for i := range events {
		if err := r.apply(&events[i]); err != nil {
			t.Fatalf("event %d of %d: %v", i, len(events), err)
		}
	}
	return r
}

// ipLinks is what `ip -d -j link show` says, by index, in a namespace; nil is the
// test's own.
func ipLinks(t testing.TB, in *netnstest.Kernel) map[int32]map[string]any {
	t.Helper()
	cmd := exec.Command(netnstest.Tool(t, "ip"), "-d", "-j", "link", "show")
	var out []byte
	show := func() (err error) { out, err = cmd.Output(); return err }
	if in == nil {
		must(t, show())
	} else {
		must(t, in.Do(show))
	}
	return decodeIP(t, out)
}

func decodeIP(t testing.TB, out []byte) map[int32]map[string]any {
	t.Helper()
	links, err := iptest.Parse(out)
	must(t, err)
	return links
}

// sameAsIP compares all links of a replay with the kernel's, as ip shows them.
func sameAsIP(t testing.TB, links map[int32]schema.Link) (compared int, diffs []string) {
	t.Helper()
	return sameAsIPIn(t, nil, links)
}

func sameAsIPIn(t testing.TB, in *netnstest.Kernel, links map[int32]schema.Link) (compared int, diffs []string) {
	t.Helper()
	return iptest.Compare(links, ipLinks(t, in))
}
