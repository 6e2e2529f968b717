// Package natstest runs NATS servers for tests: real nats-server processes, built
// from the module that go.mod names, which can be killed, stopped and started
// again on the same store.
package natstest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/test/netnstest"
	"ifacebridge/test/proctest"
)

// Binary builds a program of this module, or of one that it requires, once for
// the test process, and returns its path. The tests of all packages share the
// folder, and Go's build cache makes the second build a copy.
func Binary(t testing.TB, pkg string, flags ...string) string {
	t.Helper()
	return BinaryWith(t, nil, pkg, flags...)
}

// BinaryWith is Binary with more of an environment for the go command.
func BinaryWith(t testing.TB, env []string, pkg string, flags ...string) string {
	t.Helper()
	buildMu.Lock()
	defer buildMu.Unlock()
	key := strings.Join(slices.Concat(env, []string{pkg}, flags), " ")
	if path, ok := built[key]; ok {
		return path
	}
	dir, err := os.MkdirTemp(os.Getenv("GOTMPDIR"), "ifacebridge-test-") // as go test: /tmp may be mounted noexec
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, filepath.Base(strings.TrimSuffix(pkg, "/v2")))
	args := append(append([]string{"build", "-o", path}, flags...), pkg)
	cmd := exec.Command("go", args...)
	if cmd.Dir, err = moduleDir(); err != nil { // go.mod there names what is built, whatever module the test is in
		t.Fatalf("go list: %v", err)
	}
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	built[key] = path
	return path
}

func moduleDir() (string, error) {
	dir, err := exec.Command("go", "list", "-f", "{{.Module.Dir}}", "ifacebridge/schema").Output()
	return strings.TrimSpace(string(dir)), err
}

// Download has the modules be there of which Binary, or a test of the go command, may need
// something: tests run where there is no network (see [netnstest.Main]).
func Download() {
	cmd := exec.Command("go", "list", "-deps", "-test", "./...", "github.com/nats-io/nats-server/v2")
	var err error
	if cmd.Dir, err = moduleDir(); err == nil {
		_ = cmd.Run() // what builds with them says what it misses
	}
}

var (
	buildMu sync.Mutex
	built   = map[string]string{}
)

// Clean removes what Binary built. A TestMain calls it last.
func Clean() {
	for _, path := range built {
		os.RemoveAll(filepath.Dir(path))
	}
}

// A Server is a nats-server process. It ends with the test.
type Server struct {
	URL  string
	Host string // its address, 127.0.0.1 unless it is on a test host of its own
	Port int
	Dir  string   // its store and configuration
	Env  []string // more of its environment, "NAME=value", for its next start

	conf  string       // as it was given to New
	enter func() error // puts the thread that starts the process on its host
	t     testing.TB
	Path  string // the program; of the version that go.mod has, unless it is set before Start
	args  []string
	log   *proctest.Log
	run   *proctest.Process // nil when it is not running
}

// Start starts a server with JetStream in a store of its own and waits until it
// takes connections. conf is more configuration, in the server's own format.
func Start(t testing.TB, conf string) *Server {
	t.Helper()
	s := New(t, conf)
	s.Start()
	return s
}

// New is Start for a server that is not started yet. It will run where the calling
// goroutine is now.
func New(t testing.TB, conf string) *Server {
	t.Helper()
	return NewOn(t, "127.0.0.1", FreePort(t), netnstest.Where(t).Enter, conf)
}

// NewOn is New for a server on another host: enter puts the calling thread there,
// for good.
func NewOn(t testing.TB, host string, port int, enter func() error, conf string) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{Host: host, Port: port, Dir: dir, conf: conf, enter: enter, t: t, Path: Binary(t, "github.com/nats-io/nats-server/v2")}
	s.URL = fmt.Sprintf("nats://%s:%d", host, port)
	s.Configure(conf)
	s.args = []string{"-c", filepath.Join(dir, "nats.conf")}
	s.log = proctest.NewLog(t, fmt.Sprint("nats-server-", port))
	t.Cleanup(func() {
		if s.run != nil {
			s.Kill()
		}
	})
	return s
}

// StartCluster starts three servers that form a cluster.
func StartCluster(t testing.TB) []*Server {
	t.Helper()
	servers := []*Server{New(t, ""), New(t, ""), New(t, "")}
	JoinCluster(servers, []int{FreePort(t), FreePort(t), FreePort(t)})
	return servers
}

// JoinCluster configures servers, besides what they were given, as a cluster whose
// routes have these ports, and starts them.
func JoinCluster(servers []*Server, routes []int) {
	var urls []string
	for i, s := range servers {
		urls = append(urls, fmt.Sprintf("nats://%s:%d", s.Host, routes[i]))
	}
	for i, s := range servers {
		s.Configure(s.conf + fmt.Sprintf("\nserver_name: s%d\njetstream { store_dir: %q }\ncluster { name: c, listen: \"%s:%d\", routes: [%s] }\n",
			i, filepath.Join(s.Dir, "store"), s.Host, routes[i], strings.Join(urls, ", ")))
		s.Start()
	}
}

// Configure writes the configuration for the next start.
func (s *Server) Configure(conf string) {
	s.t.Helper()
	if !strings.Contains(conf, "jetstream") {
		conf += fmt.Sprintf("\njetstream { store_dir: %q }\n", filepath.Join(s.Dir, "store"))
	}
	conf = fmt.Sprintf("listen: \"%s:%d\"\n%s", s.Host, s.Port, conf)
	if err := os.WriteFile(filepath.Join(s.Dir, "nats.conf"), []byte(conf), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// Start starts the process, again on the same store.
func (s *Server) Start() {
	s.t.Helper()
	cmd := exec.Command(s.Path, s.args...)
	cmd.Env = append(os.Environ(), s.Env...)
	run, err := proctest.Start(cmd, s.enter, s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	s.run = run
	for deadline := time.After(proctest.Patience); ; {
		conn, err := s.dial()
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-run.Ended():
			s.t.Fatalf("nats-server ended at its start: %v", cmd.ProcessState)
		case <-deadline:
			s.t.Fatalf("nats-server does not start: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// dial connects to the server from where it runs.
func (s *Server) dial() (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() { // to be thrown away with its thread
		defer close(done)
		if err = s.enter(); err == nil {
			conn, err = net.Dial("tcp", net.JoinHostPort(s.Host, fmt.Sprint(s.Port)))
		}
	}()
	<-done
	return conn, err
}

// Connect returns a connection to the server, which is closed with the test, and what waits until
// it is there again after the server was killed and started.
func (s *Server) Connect(t testing.TB) (nc *nats.Conn, reconnected func()) {
	t.Helper()
	again := make(chan struct{}, 1)
	nc, err := nats.Connect(s.URL, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { again <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, func() {
		t.Helper()
		select {
		case <-again:
		case <-time.After(proctest.Patience):
			t.Fatal("no connection to the server that was started again")
		}
	}
}

// Pid is the process's id.
func (s *Server) Pid() int { return s.run.Cmd.Process.Pid }

// Log is what the server has written so far, in all its runs.
func (s *Server) Log() string { return s.log.String() }

// Kill ends the process with SIGKILL and waits for it.
func (s *Server) Kill() {
	s.run.Kill()
	s.run = nil
}

// Signal sends the process a signal, as [proctest.Process.Signal] does.
func (s *Server) Signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.run.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// FreePort returns a TCP port on 127.0.0.1 that nothing listens on, and that no test
// of this or another process has got. It lies below those that the kernel gives to
// connections (net.ipv4.ip_local_port_range): one of these may be taken before it is
// listened on, by a test that runs beside this one.
func FreePort(t testing.TB) int {
	t.Helper()
	for range portsEnd - portsBegin {
		port := portsBegin + int(nextPort.Add(1))%(portsEnd-portsBegin)
		// Kept until the process ends: whoever else tries this port finds it reserved.
		reserved, err := net.Listen("unix", fmt.Sprint("@ifacebridge-test-port-", port))
		if err != nil {
			continue
		}
		// Not by listening there: a process that is started at the same time has the listener
		// until its exec, and whoever then waits for the server meets that.
		conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
		if errors.Is(err, syscall.ECONNREFUSED) {
			reservations.Store(port, reserved)
			return port
		} else if err == nil {
			conn.Close()
		}
		reserved.Close()
	}
	t.Fatalf("no port between %d and %d is free", portsBegin, portsEnd)
	return 0
}

const portsBegin, portsEnd = 16384, 32768

// nextPort begins anywhere: the tests of other packages may run at the same time.
var nextPort atomic.Uint32

// reservations are the listeners by which ports are reserved, in a network namespace.
var reservations sync.Map

func init() { nextPort.Store(rand.Uint32N(portsEnd)) }
