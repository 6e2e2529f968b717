package harness

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
	"ifacebridge/test/proctest"
)

// A Process is a running ifacebridge, or another program.
type Process struct {
	t    testing.TB
	run  *proctest.Process
	log  *proctest.Log // both streams
	http *http.Client  // from where it runs
}

// Command is the path of ifacebridge.
func Command(t testing.TB) string {
	t.Helper()
	return natstest.Binary(t, "ifacebridge/cmd/ifacebridge")
}

// Variables are the environment variables that ifacebridge has.
func Variables(t testing.TB) []string {
	t.Helper()
	out, err := exec.Command(Command(t), "config").Output()
	Must(t, err)
	return regexp.MustCompile(`(?m)^(NATS|IFACE)_\w+`).FindAllString(string(out), -1)
}

// Start starts ifacebridge with these arguments and environment variables, and
// no others that it reads.
func Start(t testing.TB, env []string, args ...string) *Process {
	t.Helper()
	return StartBinary(t, Command(t), env, args...)
}

// StartBinary is Start for another program.
func StartBinary(t testing.TB, path string, env []string, args ...string) *Process {
	t.Helper()
	return StartWith(t, Launch{}, path, env, args...)
}

// Launch is how to start a process otherwise than as a child among others, where the
// calling goroutine is.
type Launch struct {
	Attr  syscall.SysProcAttr
	On    *netnstest.Kernel // the namespace, if it is another
	Enter func() error      // does something more to the thread that starts it
}

// StartWith is StartBinary with a Launch.
func StartWith(t testing.TB, l Launch, path string, env []string, args ...string) *Process {
	t.Helper()
	place := netnstest.Where(t)
	if l.On != nil {
		place = l.On.Place()
	}
	p := &Process{t: t, log: proctest.NewLog(t, filepath.Base(path)), http: place.HTTP()}
	cmd := exec.Command(path, args...)
	cmd.Env = append([]string{"HOME=" + t.TempDir()}, env...)
	cmd.SysProcAttr = &l.Attr
	var err error
	p.run, err = proctest.Start(cmd, func() error {
		err := place.Enter()
		if err == nil && l.Enter != nil {
			err = l.Enter()
		}
		return err
	}, p.log)
	Must(t, err)
	t.Cleanup(p.run.Kill)
	return p
}

// Bridge starts the bridge for host "test" against a server.
func Bridge(t testing.TB, s *natstest.Server, env ...string) *Process {
	t.Helper()
	return Start(t, append([]string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}, env...))
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.run.Cmd.Process.Pid }

// Output is what the process has written so far.
func (p *Process) Output() string { return p.log.String() }

// Signal sends a signal, as [proctest.Process.Signal] does.
func (p *Process) Signal(sig syscall.Signal) {
	p.t.Helper()
	Must(p.t, p.run.Signal(sig))
}

// Kill ends the process with SIGKILL and waits for it.
func (p *Process) Kill() { p.run.Kill() }

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.run.Ended() }

// Wait waits for the end of the process and returns its exit status, -1 when a signal
// ended it.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.run.Ended():
		return p.run.Cmd.ProcessState.ExitCode()
	case <-time.After(Patience):
		p.t.Fatalf("still running after %v", Patience)
		return -1
	}
}

// Says waits until the process has written text.
func (p *Process) Says(text string) {
	p.t.Helper()
	Eventually(p.t, fmt.Sprintf("output %q", text), func() bool { return strings.Contains(p.Output(), text) })
}

// Ready waits until the process has read the links and has its stream. It finds the stream
// there when its own request to make it was answered too late, on a slow machine.
func (p *Process) Ready() {
	p.t.Helper()
	p.Says("read the links of this host")
	Eventually(p.t, "its stream", func() bool {
		return strings.Contains(p.Output(), "created the stream") || strings.Contains(p.Output(), "using the stream")
	})
}

// Metric returns what /metrics says, the sum over all labels; 0 when the process
// does not answer.
func (p *Process) Metric(name string) float64 {
	p.t.Helper()
	resp, err := p.http.Get("http://127.0.0.1:9469/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	Must(p.t, err)
	sum := 0.0
	for _, m := range families[name].GetMetric() {
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

// Duplicates returns how many events were not stored twice: found stored, or
// refused by the server.
func (p *Process) Duplicates() float64 {
	return p.Metric("ifacebridge_events_already_stored_total") + p.Metric("ifacebridge_publish_refused_total")
}
