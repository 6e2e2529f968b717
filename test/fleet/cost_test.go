package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"ifacebridge/test/natstest"
)

var results = flag.String("results", "", "directory for results.md and results.json of BenchmarkHosts; none: they are not written")

// A cost is what so many hosts cost.
type cost struct {
	hosts, links int
	events       int           // under load
	load         time.Duration // how long
	start        time.Duration // from a simultaneous start until all was stored

	bridges, servers struct {
		startCPU, idleCPU, loadCPU time.Duration
		memory                     int // bytes, resident
	}
	idle         time.Duration
	idleMessages int64   // that the bridges sent
	traffic      traffic // under load
	stored       uint64  // bytes of an event in the stream
}

// What a fleet costs by the number of its hosts: the bridges' process, and three
// servers with everything on each. Each host makes two notifications a second.
func BenchmarkHosts(b *testing.B) {
	var costs []cost
	for _, hosts := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(hosts), func(b *testing.B) {
			var c cost
			for b.Loop() {
				c = measureCost(b, hosts, 20*time.Second, 30*time.Second)
			}
			b.ReportMetric(float64(c.bridges.loadCPU.Microseconds())/float64(c.events), "bridge-µs/event")
			b.ReportMetric(float64(c.servers.loadCPU.Microseconds())/float64(c.events), "servers-µs/event")
			b.ReportMetric(float64(c.bridges.memory)/float64(hosts)/1024, "bridge-KiB/host")
			b.ReportMetric(float64(c.traffic.messages)/float64(c.events), "messages/event")
			costs = append(costs, c)
		})
	}
	if *results != "" && len(costs) == 3 {
		must(b, report(*results, costs))
	}
}

func measureCost(t testing.TB, hosts int, idle, load time.Duration) cost {
	c := cost{hosts: hosts, links: 50, idle: idle, load: load}
	monitors := []int{natstest.FreePort(t), natstest.FreePort(t), natstest.FreePort(t)}
	var servers []*natstest.Server
	for _, port := range monitors {
		servers = append(servers, natstest.New(t, fmt.Sprintf("http: \"127.0.0.1:%d\"", port)))
	}
	natstest.JoinCluster(servers, []int{natstest.FreePort(t), natstest.FreePort(t), natstest.FreePort(t)})
	cl := connect(t, servers...)
	s := simulate(t, servers, hosts, c.links, "example.com")
	both := func() (bridges, all time.Duration) {
		for _, server := range servers {
			all += cpu(t, server.Pid())
		}
		return cpu(t, s.run.Cmd.Process.Pid), all
	}
	bridges0, servers0 := both()
	began := time.Now()
	a := powerUp(cl, s, hosts, c.links)
	c.start = time.Since(began)
	eventually(t, "nothing more to do", func() bool {
		before := cpu(t, s.run.Cmd.Process.Pid)
		time.Sleep(time.Second)
		return cpu(t, s.run.Cmd.Process.Pid)-before < time.Duration(hosts)*200*time.Microsecond+5*time.Millisecond
	})
	bridges1, servers1 := both()
	c.bridges.startCPU, c.servers.startCPU = bridges1-bridges0, servers1-servers0

	before := readTraffic(t, monitors)
	time.Sleep(c.idle)
	bridges2, servers2 := both()
	rested := readTraffic(t, monitors)
	c.bridges.idleCPU, c.servers.idleCPU = bridges2-bridges1, servers2-servers1
	c.idleMessages = rested.messages - before.messages

	s.command(&c.events, "load %d %d", 2*hosts, int(c.load.Seconds()))
	a.complete(t, c.links, c.events, s)
	cl.bucketIs("iface_links", a)
	bridges3, servers3 := both()
	loaded := readTraffic(t, monitors)
	c.bridges.loadCPU, c.servers.loadCPU = bridges3-bridges2, servers3-servers2
	c.traffic = traffic{loaded.messages - rested.messages, loaded.bytes - rested.bytes, loaded.between - rested.between}
	c.bridges.memory = memory(t, s.run.Cmd.Process.Pid)
	for _, server := range servers {
		c.servers.memory += memory(t, server.Pid())
	}
	c.stored = stored(t, cl)
	s.end()
	for _, server := range servers {
		server.Kill()
	}
	return c
}

// cpu returns what the threads of a process have run, as the scheduler counts it.
func cpu(t testing.TB, pid int) (sum time.Duration) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	must(t, err)
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		var ns int64
		_, err = fmt.Sscan(string(text), &ns)
		must(t, err)
		sum += time.Duration(ns)
	}
	return sum
}

// memory returns what is resident of a process, in bytes.
func memory(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kib := 0
	_, err = fmt.Sscan(rest, &kib)
	must(t, err)
	return kib << 10
}

// traffic is what the bridges and the servers have sent.
type traffic struct {
	messages int64 // from the bridges to the servers
	bytes    int64 // between them, either way
	between  int64 // bytes from server to server
}

func readTraffic(t testing.TB, monitors []int) (sum traffic) {
	t.Helper()
	for _, port := range monitors {
		var conns struct {
			Connections []struct {
				Name     string `json:"name"`
				InMsgs   int64  `json:"in_msgs"`
				InBytes  int64  `json:"in_bytes"`
				OutBytes int64  `json:"out_bytes"`
			} `json:"connections"`
		}
		read(t, port, "connz?limit=4096", &conns)
		for _, c := range conns.Connections {
			if strings.HasPrefix(c.Name, "ifacebridge ") {
				sum.messages += c.InMsgs
				sum.bytes += c.InBytes + c.OutBytes
			}
		}
		var routes struct {
			Routes []struct {
				OutBytes int64 `json:"out_bytes"`
			} `json:"routes"`
		}
		read(t, port, "routez", &routes)
		for _, r := range routes.Routes {
			sum.between += r.OutBytes
		}
	}
	return sum
}

// read decodes what a server's monitoring port says.
func read(t testing.TB, port int, what string, into any) {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/%s", port, what))
	must(t, err)
	defer resp.Body.Close()
	must(t, json.NewDecoder(resp.Body).Decode(into))
}

// stored returns how many bytes the stream has on the disk of each server, by message.
func stored(t testing.TB, c *client) (perMessage uint64) {
	t.Helper()
	c.eventually("the stream's size", func(ctx context.Context) bool {
		st, err := c.js.Stream(ctx, "IFACE")
		if err == nil {
			state := st.CachedInfo().State
			perMessage = state.Bytes / state.Msgs
		}
		return err == nil
	})
	return perMessage
}

// report writes the costs as a table, and as what test/bench/hosts draws.
func report(dir string, costs []cost) error {
	var b strings.Builder
	per := func(d time.Duration, n int) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(n) }
	fmt.Fprintf(&b, "On %s, %d CPUs for everything, Go %s, three nats-servers, 3 replicas: hosts with %d links that start at once, rest for %v, and make 2 notifications a second each for %v.\n\n",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), costs[0].links, costs[0].idle, costs[0].load)
	b.WriteString("| hosts |")
	for _, c := range costs {
		fmt.Fprintf(&b, " %d |", c.hosts)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(costs)) + "\n")
	row := func(name, format string, value func(c cost) any) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, c := range costs {
			fmt.Fprintf(&b, " "+format+" |", value(c))
		}
		b.WriteString("\n")
	}
	row("start of all at once, until everything is stored, s", "%.1f", func(c cost) any { return c.start.Seconds() })
	row("bridge: CPU of a start, ms a host", "%.1f", func(c cost) any { return per(c.bridges.startCPU, c.hosts) / 1e3 })
	row("bridge: CPU at rest, µs a second and host", "%.0f", func(c cost) any { return per(c.bridges.idleCPU, c.hosts) / c.idle.Seconds() })
	row("bridge: CPU of an event, µs", "%.0f", func(c cost) any { return per(c.bridges.loadCPU, c.events) })
	row("bridge: memory, KiB a host", "%.0f", func(c cost) any { return float64(c.bridges.memory) / float64(c.hosts) / 1024 })
	row("bridge: messages to the servers for an event", "%.2f", func(c cost) any { return float64(c.traffic.messages) / float64(c.events) })
	row("bridge: bytes to and from the servers for an event", "%.0f", func(c cost) any { return float64(c.traffic.bytes) / float64(c.events) })
	row("servers: bytes from one to another for an event", "%.0f", func(c cost) any { return float64(c.traffic.between) / float64(c.events) })
	row("bridge: messages at rest, a minute and host", "%.2f", func(c cost) any { return float64(c.idleMessages) / float64(c.hosts) / c.idle.Minutes() })
	row("servers, all three: CPU of a start, ms a host", "%.1f", func(c cost) any { return per(c.servers.startCPU, c.hosts) / 1e3 })
	row("servers: CPU at rest, µs a second and host", "%.0f", func(c cost) any { return per(c.servers.idleCPU, c.hosts) / c.idle.Seconds() })
	row("servers: CPU of an event, µs", "%.0f", func(c cost) any { return per(c.servers.loadCPU, c.events) })
	row("servers: memory, MiB", "%.0f", func(c cost) any { return float64(c.servers.memory) / (1 << 20) })
	row("an event in the stream, bytes on the disk of each", "%d", func(c cost) any { return c.stored })
	fmt.Fprintf(&b, "\nWhat each host more adds:\n\n| |")
	for i := range costs[1:] {
		fmt.Fprintf(&b, " from %d to %d |", costs[i].hosts, costs[i+1].hosts)
	}
	b.WriteString("\n| ---" + strings.Repeat(" | ---", len(costs)-1) + " |\n")
	for _, q := range quantities {
		fmt.Fprintf(&b, "| %s |", q.name)
		for i, c := range costs[1:] {
			fmt.Fprintf(&b, " %.1f |", q.growth(costs[i], c))
		}
		b.WriteString("\n")
	}
	fmt.Print(b.String())
	if err := os.WriteFile(filepath.Join(dir, "results.md"), []byte(b.String()), 0o644); err != nil {
		return err
	}
	return save(filepath.Join(dir, "results.json"), costs)
}

// save writes each quantity by the number of hosts, for a plot.
func save(path string, costs []cost) error {
	type series struct {
		Name   string
		Values []float64
	}
	var results struct {
		Hosts  []int
		Series []series
	}
	for _, c := range costs {
		results.Hosts = append(results.Hosts, c.hosts)
	}
	for _, q := range quantities {
		one := series{Name: q.name}
		for _, c := range costs {
			one.Values = append(one.Values, q.of(c))
		}
		results.Series = append(results.Series, one)
	}
	text, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// A quantity is a cost that grows with the number of hosts.
type quantity struct {
	name string
	of   func(cost) float64
}

// growth is what each host more costs.
func (q *quantity) growth(few, many cost) float64 {
	return (q.of(many) - q.of(few)) / float64(many.hosts-few.hosts)
}

var quantities = []quantity{
	{"bridges: memory, KiB", func(c cost) float64 { return float64(c.bridges.memory) / 1024 }},
	{"bridges: CPU of a start, ms", func(c cost) float64 { return c.bridges.startCPU.Seconds() * 1e3 }},
	{"bridges: CPU under load, µs a second", func(c cost) float64 { return c.bridges.loadCPU.Seconds() * 1e6 / c.load.Seconds() }},
	{"bridges: messages under load, a second", func(c cost) float64 { return float64(c.traffic.messages) / c.load.Seconds() }},
	{"servers: memory, KiB", func(c cost) float64 { return float64(c.servers.memory) / 1024 }},
	{"servers: CPU of a start, ms", func(c cost) float64 { return c.servers.startCPU.Seconds() * 1e3 }},
	{"servers: CPU under load, µs a second", func(c cost) float64 { return c.servers.loadCPU.Seconds() * 1e6 / c.load.Seconds() }},
}
