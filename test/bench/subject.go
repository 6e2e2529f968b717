package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
)

// A subject is one of those that are measured.
type subject struct {
	name  string
	nats  bool
	args  []string
	env   []string
	ready string // what it says when it is
}

var subjects = []subject{
	// The buffer is large so that it loses nothing while it is measured.
	{name: "ip -d monitor link", args: []string{"ip", "-rcvbuf", strconv.Itoa(512 << 20), "-d", "monitor", "link"}},
	{name: "straightforward pipeline", nats: true, args: []string{"pipeline"}, ready: "ready"},
	{name: "ifacebridge, core", nats: true, args: []string{"ifacebridge"}, env: []string{"IFACE_DELIVERY=core"}, ready: "read the links of this host"},
	{name: "ifacebridge, JetStream", nats: true, args: []string{"ifacebridge"}, ready: "created the bucket"},
}

// startUp is how long a subject may take to get ready for a long life.
const startUp = 4 * time.Second

// A result is what was measured of a subject in one round.
type result struct {
	changes  int
	took     time.Duration // of the storm, from the first change until the last event was there
	wrote    time.Duration // until the last change
	cpu      time.Duration // user and system, of the process alone
	events   int64         // received; 0: there is nobody to receive
	stands   int64         // changes that the events stand for
	rss, own int           // KiB, the most: resident, and of that the process's own (RssAnon)
	latency  []time.Duration
	bare     []time.Duration // latency of messages that are only published
	overruns int64
}

func (r result) String() string {
	s := fmt.Sprintf("%5.1f µs CPU an event, %6.0f events/s, %d MiB", float64(r.cpu.Nanoseconds())/1e3/float64(r.changes), float64(r.changes)/r.took.Seconds(), r.rss>>10)
	if len(r.latency) > 0 {
		s += fmt.Sprintf(", %d events for %d changes, %d overruns, latency p50 %v p99 %v, of a bare publish p50 %v", r.events, r.stands,
			r.overruns, percentile(r.latency, 50), percentile(r.latency, 99), percentile(r.bare, 50))
	}
	return s
}

func percentile(latency []time.Duration, p int) time.Duration {
	if len(latency) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(latency))
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}

// measure starts the subject, a server of its own where it needs one, and lets it
// through a storm and a steady rate.
func (s *subject) measure(p plan, dir string, link int32) (r result, err error) {
	w := &watch{}
	env := append(slices.Clone(s.env), "IFACE_HOST=bench", "IFACE_HTTP_ADDR=", "HOME="+dir)
	if s.nats {
		server, err := startServer(dir)
		if err != nil {
			return r, err
		}
		defer server.stop()
		if err := w.subscribe(server.url); err != nil {
			return r, err
		}
		defer w.nc.Close()
		env = append(env, "NATS_URL="+server.url)
	}
	proc, err := startProcess(dir, s.args, env, s.ready)
	if err != nil {
		return r, err
	}
	defer proc.stop()
	wind, err := newStorm(link)
	if err != nil {
		return r, err
	}
	defer wind.close()
	if err := wind.change(0); err != nil { // what is done once
		return r, err
	}
	time.Sleep(startUp)
	if err := proc.rests(); err != nil {
		return r, err
	}
	w.reset(int64(p.changes))
	stopSampling := proc.sampleOwn(&r.own)
	before, began := proc.cpu(), time.Now()
	if r.wrote, err = wind.run(p.changes); err == nil && s.nats {
		w.wait(20 * time.Second)
		r.took = w.last().Sub(began)
	}
	err = errors.Join(err, proc.rests())
	stopSampling()
	if err != nil {
		return r, err
	}
	if !s.nats {
		r.took = proc.rested.Sub(began)
	}
	r.changes, r.cpu, r.rss = p.changes, proc.cpu()-before, proc.maxRSS()
	r.events, r.stands, r.overruns = w.events.Load(), w.stands.Load(), w.overruns.Load()
	if !s.nats {
		return r, nil
	}
	w.reset(0)
	if err := wind.stamp(p.rate*p.seconds, p.rate); err != nil {
		return r, err
	}
	time.Sleep(200 * time.Millisecond) // the last ones
	r.latency = w.latencies()
	w.reset(0)
	if err := publishBare(w.nc.ConnectedUrl(), p); err != nil {
		return r, err
	}
	time.Sleep(200 * time.Millisecond)
	r.bare = w.latencies()
	return r, nil
}

// publishBare publishes messages as large as events are, at the rate of the latency's
// changes, by nats.go alone. Each says when it was published where an event has the alias.
func publishBare(url string, p plan) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	const size = 1200
	for range p.rate * p.seconds {
		time.Sleep(time.Second / time.Duration(p.rate))
		data := fmt.Appendf(nil, `{"link":{"ifalias":"%d","pad":"`, time.Now().UnixNano())
		data = append(append(data, bytes.Repeat([]byte("x"), size-len(data))...), `"}}`...)
		if err := nc.Publish("iface.bench.new", data); err != nil {
			return err
		}
	}
	return nc.Flush()
}

// A watch is the subscriber: it counts events and what they stand for, and takes
// the time.
type watch struct {
	nc                       *nats.Conn
	events, stands, overruns atomic.Int64
	lastAt                   atomic.Int64
	want                     int64
	done                     chan struct{}

	mu    sync.Mutex
	times []time.Duration
	timed bool
}

func (w *watch) subscribe(url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	w.nc = nc
	sub, err := nc.Subscribe("iface.>", w.event)
	if err != nil {
		return err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	return nc.Flush()
}

func (w *watch) event(m *nats.Msg) {
	now := time.Now()
	head, link := m.Data, m.Data // it takes no CPU from those that are measured if it can
	if at := bytes.Index(m.Data, []byte(`"link":{`)); at >= 0 {
		head, link = m.Data[:at], m.Data[at:]
	}
	stands := max(numberBehind(head, `"coalesced":`), 1)
	w.events.Add(1)
	w.overruns.Store(numberBehind(head, `"overruns":`))
	w.lastAt.Store(now.UnixNano())
	alias := max(numberBehind(link, `"ifalias":"`), numberBehind(link, `"Alias":"`))
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timed {
		w.times = append(w.times, now.Sub(time.Unix(0, alias)))
		return
	}
	w.stands.Add(stands)
	if w.want > 0 && alias == w.want {
		w.want = 0
		close(w.done)
	}
}

// numberBehind returns the number behind a key in JSON, 0 when it is not there.
func numberBehind(data []byte, key string) (n int64) {
	at := bytes.Index(data, []byte(key))
	for i := at + len(key); at >= 0 && i < len(data) && data[i] >= '0' && data[i] <= '9'; i++ {
		n = n*10 + int64(data[i]-'0')
	}
	return n
}

// reset begins to count until an alias comes, 0: to take times.
func (w *watch) reset(want int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events.Store(0)
	w.stands.Store(0)
	w.want, w.done, w.timed, w.times = want, make(chan struct{}), want == 0, nil
}

func (w *watch) wait(limit time.Duration) {
	select {
	case <-w.done:
	case <-time.After(limit):
	}
}

func (w *watch) last() time.Time { return time.Unix(0, w.lastAt.Load()) }

func (w *watch) latencies() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.times
}

// server is a nats-server that keeps its streams on disk.
type server struct {
	*process
	url, store string
}

func startServer(dir string) (*server, error) {
	store, err := os.MkdirTemp(dir, "store")
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	_ = listener.Close()
	proc, err := startProcess(dir, []string{"nats-server", "-a", "127.0.0.1", "-p", port, "-js", "-sd", store}, nil, "Server is ready")
	if err != nil {
		return nil, err
	}
	return &server{proc, "nats://127.0.0.1:" + port, store}, nil
}

func (s *server) stop() {
	s.process.stop()
	_ = os.RemoveAll(s.store)
}

// process is one that is measured, or needed for it.
type process struct {
	cmd    *exec.Cmd
	rested time.Time // when it had nothing more to do
}

// startProcess starts a program of dir, or else of the system, and waits until it
// says that it is ready.
func startProcess(dir string, args, env []string, ready string) (*process, error) {
	path := filepath.Join(dir, args[0])
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath(args[0]); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said *io.PipeReader
	if ready != "" { // else to /dev/null
		var to *io.PipeWriter
		said, to = io.Pipe()
		cmd.Stdout, cmd.Stderr = to, to
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd}
	if said == nil {
		return p, nil
	}
	saw := make(chan bool, 1)
	go func() {
		var all bytes.Buffer
		buf := make([]byte, 4096)
		for {
			n, err := said.Read(buf)
			all.Write(buf[:n])
			if strings.Contains(all.String(), ready) {
				select {
				case saw <- true:
				default:
				}
			}
			if err != nil {
				return
			}
		}
	}()
	select {
	case <-saw:
		return p, nil
	case <-time.After(10 * time.Second):
		p.stop()
		return nil, errors.New("it does not say " + strconv.Quote(ready))
	}
}

func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// cpu returns the user and system time of all threads, as the scheduler counts it.
func (p *process) cpu() (sum time.Duration) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	// The fields behind the name, which may hold anything (proc(5)): utime and stime
	// are the 14th and 15th of all, in clock ticks of 10 ms.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, field := range fields[11:13] {
		ticks, _ := strconv.Atoi(field)
		sum += time.Duration(ticks) * 10 * time.Millisecond
	}
	return sum
}

// rests waits until the process has used no CPU for a while.
func (p *process) rests() error {
	deadline := time.Now().Add(30 * time.Second)
	last, since := p.cpu(), time.Now()
	for time.Since(since) < 300*time.Millisecond {
		time.Sleep(20 * time.Millisecond)
		if now := p.cpu(); now != last {
			last, since = now, time.Now()
		}
		if time.Now().After(deadline) {
			return errors.New("it does not come to rest")
		}
	}
	p.rested = since
	return nil
}

// maxRSS returns the most memory that was resident, in KiB.
func (p *process) maxRSS() int { return p.status("VmHWM:") }

// sampleOwn keeps the most memory of the process's own (RssAnon), in KiB, as it is seen
// every 20 ms until stop, and then.
func (p *process) sampleOwn(most *int) (stop func()) {
	done := make(chan struct{})
	var sampler sync.WaitGroup
	sampler.Go(func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			*most = max(*most, p.status("RssAnon:"))
			select {
			case <-ticker.C:
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		sampler.Wait()
	}
}

// status returns a number of /proc/PID/status.
func (p *process) status(name string) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), name)
	n := 0
	_, _ = fmt.Sscan(rest, &n)
	return n
}
