// Package proctest runs the processes of tests: each ends with its test process,
// whatever becomes of that, and writes to a file of which a test that fails shows
// the end.
package proctest

import (
	"bytes"
	"fmt"
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
)

// Patience is how long tests wait for a condition that has to come: long enough for
// a busy machine, so that its end means that something is broken.
const Patience = 2 * time.Minute

// A Log is what a process, or one after the other, has written. The file goes with
// the test when that passes. When it fails, its end is shown, and it is kept.
type Log struct {
	file *os.File
}

// shown is how many lines of a log a test that fails shows.
const shown = 20

// logs is the directory of all logs of the test process. It goes when it is empty.
var logs = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "ifacebridge-test-logs-") })

// Clean removes the directory of logs when no failed test has left one there.
func Clean() {
	if dir, err := logs(); err == nil {
		_ = os.Remove(dir)
	}
}

// NewLog makes a log; the name is for whoever reads about a failure.
func NewLog(t testing.TB, name string) *Log {
	t.Helper()
	dir, err := logs()
	if err != nil {
		t.Fatal(err)
	}
	base := strings.NewReplacer("/", "_", " ", "_").Replace(t.Name() + "-" + name)
	file, err := os.CreateTemp(dir, base[:min(len(base), 100)]+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	l := &Log{file}
	t.Cleanup(func() {
		file.Close()
		if !t.Failed() {
			_ = os.Remove(file.Name())
			return
		}
		t.Logf("%s, the last lines of %s:\n%s", name, file.Name(), tail(l.String(), shown))
	})
	return l
}

func tail(text string, lines int) string {
	list := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(list[max(0, len(list)-lines):], "\n")
}

// String returns what was written so far.
func (l *Log) String() string {
	text, err := os.ReadFile(l.file.Name())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// A Process is one that runs, or has ended.
type Process struct {
	Cmd   *exec.Cmd
	ended chan struct{}
}

// Start starts a command in a thread that enter, unless it is nil, has put where the
// process is to be. Standard output and error, unless they are set, go to the log.
// The process is killed when this one ends.
func Start(cmd *exec.Cmd, enter func() error, log *Log) (*Process, error) {
	if cmd.Stdout == nil {
		cmd.Stdout = log.file
	}
	cmd.Stderr = log.file
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p := &Process{Cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread that starts the process
		var err error
		if enter != nil {
			err = enter()
		}
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // its status is in cmd.ProcessState
			close(p.ended)
		}
	}()
	return p, <-started
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Signal sends a signal. On SIGSTOP it returns when all threads stand still: kill(2) does not
// wait for those that run.
func (p *Process) Signal(sig syscall.Signal) error {
	err := p.Cmd.Process.Signal(sig)
	if err != nil || sig != syscall.SIGSTOP {
		return err
	}
	for began := time.Now(); !p.stopped(); time.Sleep(time.Millisecond) {
		if time.Since(began) > Patience {
			return fmt.Errorf("process %d does not stop", p.Cmd.Process.Pid)
		}
	}
	return nil
}

func (p *Process) stopped() bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Cmd.Process.Pid))
	return len(threads) > 0 && !slices.ContainsFunc(threads, func(file string) bool {
		stat, err := os.ReadFile(file)
		_, state, _ := bytes.Cut(stat, []byte(") ")) // the name may hold anything, but ours does not
		return err != nil || !bytes.HasPrefix(state, []byte("T"))
	})
}

// Kill ends the process with SIGKILL, unless it has ended, and waits for it.
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill() // fails only when it has ended
	<-p.ended
}
