// Command bench measures what it costs to publish the kernel's link events, side by
// side and in turns:
//
//   - `ip -d monitor link`, which prints them to /dev/null,
//   - a straightforward pipeline in Go (./pipeline),
//   - ifacebridge in core delivery,
//   - ifacebridge in JetStream delivery, to a stream on disk,
//   - other builds of ifacebridge (-with before=/tmp/ifacebridge), for a comparison.
//
// In each round every one of them goes through a storm of changes from one writer at
// full speed, and then through changes at a steady rate. What is printed is the
// median of the rounds; results.md and results.svg are written beside it.
//
//	go run -C test/bench .
//
// It needs Go, ip and root (as another user the receive buffers are small, and there
// is loss), and runs in a network namespace of its own.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"ifacebridge/test/netnstest"
)

// plan is what to measure.
type plan struct {
	rounds  int
	changes int // of a storm
	rate    int // changes a second for the latency
	seconds int // of those
	out     string
	others  []subject // builds of ifacebridge to measure besides
}

// with adds another build: "before=/path/to/ifacebridge".
func (p *plan) with(arg string) error {
	name, path, ok := strings.Cut(arg, "=")
	if !ok || name == "" || !filepath.IsAbs(path) {
		return fmt.Errorf("%q is not NAME=/ABSOLUTE/PATH", arg)
	}
	for _, s := range subjects {
		if s.args[0] == "ifacebridge" {
			s.name, s.args = strings.Replace(s.name, "ifacebridge", name, 1), []string{path}
			p.others = append(p.others, s)
		}
	}
	return nil
}

func main() {
	log.SetFlags(0)
	var p plan
	flag.IntVar(&p.rounds, "rounds", 5, "how often each is measured")
	flag.IntVar(&p.changes, "changes", 150000, "changes of a storm")
	flag.IntVar(&p.rate, "rate", 200, "changes a second, for the latency")
	flag.IntVar(&p.seconds, "seconds", 5, "how long, for the latency")
	flag.Func("with", "another build of ifacebridge to measure besides, as NAME=/PATH; may be repeated", p.with)
	flag.StringVar(&p.out, "out", ".", "directory for results.md and results.svg, made if it is not there")
	flag.Parse()
	if err := run(p); err != nil {
		log.Fatal(err)
	}
}

// inside says to the program that it is in its namespace.
const inside = "IFACEBRIDGE_BENCH"

func run(p plan) error {
	if dir := os.Getenv(inside); dir != "" {
		return measure(p, dir)
	}
	if err := os.MkdirAll(p.out, 0o755); err != nil { // now, not when all is measured
		return err
	}
	dir, err := os.MkdirTemp("", "ifacebridge-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, args := range map[string][]string{
		"ifacebridge": {"-C", "../..", "build", "-tags", "noembed", "-o", filepath.Join(dir, "ifacebridge"), "./cmd/ifacebridge"},
		"nats-server": {"-C", "../..", "build", "-o", filepath.Join(dir, "nats-server"), "github.com/nats-io/nats-server/v2"},
		"pipeline":    {"build", "-o", filepath.Join(dir, "pipeline"), "./pipeline"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the process
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		return err
	}
	return nil
}

// measure runs all rounds, and writes what came of them.
func measure(p plan, dir string) error {
	k, err := netnstest.Here()
	if err != nil {
		return err
	}
	defer k.Close()
	if err := k.Up(1); err != nil {
		return err
	}
	link, err := k.Add("storm0", 0, netnstest.Kind{Name: "ifb"})
	if err != nil {
		return err
	}
	if err := k.Up(link); err != nil { // a link that is down does not announce its alias
		return err
	}
	all := append(slices.Clone(subjects), p.others...)
	results := make([][]result, len(all))
	for round := range p.rounds {
		for i, s := range all {
			r, err := s.measure(p, dir, link)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			log.Printf("round %d: %-24s %s", round+1, s.name, r)
			results[i] = append(results[i], r)
		}
	}
	return report(p, all, results)
}
