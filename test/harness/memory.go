package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A MemoryLimit is what the kernel lets a process have that is started within it, by a
// cgroup. Who may make none, as one who is not root, has one all the same that the
// garbage collector alone knows, as it would from the cgroup: then [MemoryLimit.Check]
// compares the peak.
type MemoryLimit struct {
	bytes int
	dir   string // of the cgroup; "": none could be made
	files limitFiles
	own   chan int // the most of the process's own, in KiB, when it has ended
	p     *Process
}

// limitFiles are the names of files of a cgroup.
type limitFiles struct{ limit, peak, kills string }

// cgroups are where limits of memory are made, in the versions 1 and 2.
var cgroups = map[string]limitFiles{
	"/sys/fs/cgroup/memory": {"memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"},
	"/sys/fs/cgroup":        {"memory.max", "memory.peak", "memory.events"},
}

// LimitMemory returns a limit that ends with the test.
func LimitMemory(t testing.TB, bytes int) *MemoryLimit {
	t.Helper()
	name := fmt.Sprintf("ifacebridge-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	for parent, files := range cgroups {
		dir := filepath.Join(parent, name)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		// Without O_CREATE: where the directory is not in a cgroup file system, as below the
		// tmpfs that holds the mounts of version 1, the file is not there.
		if setFile(filepath.Join(dir, files.limit), fmt.Append(nil, bytes)) != nil {
			_ = os.Remove(dir)
			continue
		}
		t.Cleanup(func() {
			Eventually(t, "the end of the cgroup", func() bool {
				err := os.Remove(dir)
				return err == nil || errors.Is(err, fs.ErrNotExist) // an interrupted call has done it, too
			})
		})
		return &MemoryLimit{bytes: bytes, dir: dir, files: files}
	}
	t.Log("no cgroup can be made here")
	return &MemoryLimit{bytes: bytes}
}

// setFile writes to a file that there is.
func setFile(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// Start is [StartBinary] within the limit, which is for one process.
func (l *MemoryLimit) Start(t testing.TB, path string, env ...string) *Process {
	t.Helper()
	if l.dir == "" {
		l.p = StartBinary(t, path, append(env, fmt.Sprint("GOMEMLIMIT=", l.bytes/10*9)))
	} else {
		l.p = StartBinary(t, "/bin/sh", env, "-c", `echo $$ > "$0" && exec "$1"`, filepath.Join(l.dir, "cgroup.procs"), path)
	}
	l.own = make(chan int, 1)
	go l.watch()
	return l.p
}

// watch keeps the most memory of the process's own (RssAnon), in KiB, as it is seen.
func (l *MemoryLimit) watch() {
	most := 0
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-l.p.run.Ended():
			l.own <- most
			return
		case <-tick.C:
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.p.Pid()))
			_, rest, _ := strings.Cut(string(status), "\nRssAnon:")
			kib := 0
			_, _ = fmt.Sscan(rest, &kib)
			most = max(most, kib)
		}
	}
}

// Check ends the process, and fails the test when it had ended before, or had more than
// the limit. It returns the most that it had: of its own, and what the cgroup counted,
// pages of files included, 0 without one. Both are in MiB.
func (l *MemoryLimit) Check(t testing.TB) (own, counted float64) {
	t.Helper()
	select {
	case <-l.p.run.Ended():
		t.Errorf("the process has ended: %v", l.p.run.Cmd.ProcessState)
	default:
		l.p.Kill()
	}
	own = float64(<-l.own) / 1024
	if limit := float64(l.bytes) / (1 << 20); own > limit {
		t.Errorf("%.1f MiB of its own, and the limit is %.1f", own, limit)
	}
	if l.dir == "" {
		return own, 0
	}
	kills, err := os.ReadFile(filepath.Join(l.dir, l.files.kills))
	Must(t, err)
	if !strings.Contains(string(kills), "oom_kill 0") {
		t.Errorf("killed for its memory: %s", kills)
	}
	peak, err := os.ReadFile(filepath.Join(l.dir, l.files.peak))
	Must(t, err)
	_, err = fmt.Sscan(string(peak), &counted)
	Must(t, err)
	return own, counted / (1 << 20)
}
