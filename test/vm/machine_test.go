package vm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/iptest"
	"ifacebridge/test/natstest"
)

// A machine is one that qemu emulates, with a bridge that publishes to a NATS server outside.
// Its memory can be saved, and a machine begun that goes on from there. What runs in it
// (TestDriven) does what is asked of it over NATS.
type machine struct {
	t       *testing.T
	qemu    *exec.Cmd
	monitor string
	console string
}

const machineScript = `
for module in /lib/modules/*.ko; do insmod $module; done
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
/guest -test.v -test.run ^TestDriven -test.timeout 1h
`

// machineFiles returns what machines boot from, or skips the test where there are none.
func machineFiles(t *testing.T) (kernel system, image string) {
	t.Helper()
	if os.Getenv("IFACE_VM_GUEST") != "" {
		t.Skip("this is the guest")
	}
	needs(t)
	kernel = fetch(t, suites(t)[0])
	return kernel, initramfs(t, machineScript, kernel.ip, func(root string) { someModules(t, kernel, root) })
}

// start begins a machine; from is the file of a saved one that it goes on from, or "".
func (m *machine) start(s system, image, server, from string) {
	m.t.Helper()
	m.monitor = filepath.Join(harness.SocketDir(m.t), "monitor")
	m.console = filepath.Join(m.t.TempDir(), "console")
	args := []string{
		"-accel", "tcg", "-m", "512", "-smp", "1", "-display", "none", "-no-reboot", "-nic", "user,model=e1000",
		"-serial", "file:" + m.console, "-monitor", "unix:" + m.monitor + ",server=on,wait=off",
		"-kernel", s.kernel, "-initrd", image,
		"-append", "console=ttyS0 quiet loglevel=3 panic=-1 IFACE_VM_NATS=" + server,
	}
	if from != "" {
		args = append(args, "-incoming", "exec:cat "+from)
	}
	m.qemu = exec.Command("qemu-system-x86_64", args...)
	var output bytes.Buffer
	m.qemu.Stdout, m.qemu.Stderr = &output, &output
	must(m.t, m.qemu.Start())
	m.t.Cleanup(func() {
		m.end()
		if m.t.Failed() {
			m.t.Logf("qemu: %s\nthe console:\n%s", output.String(), readFile(m.t, m.console))
		}
	})
	if from != "" {
		within(m.t, 2*time.Minute, "the saved machine is there", func() bool {
			return !strings.Contains(m.tell("info status"), "inmigrate")
		})
		m.tell("cont")
	}
}

// end switches the machine off.
func (m *machine) end() {
	if m.qemu.ProcessState == nil {
		_ = m.qemu.Process.Kill()
		_ = m.qemu.Wait()
	}
}

// tell gives qemu a command, and returns its answer.
func (m *machine) tell(command string) string {
	var conn net.Conn
	within(m.t, time.Minute, "qemu's monitor", func() (ok bool) {
		var err error
		conn, err = net.Dial("unix", m.monitor)
		return err == nil
	})
	defer conn.Close()
	must(m.t, conn.SetDeadline(time.Now().Add(time.Minute)))
	prompt := func() string {
		var text []byte
		for buf := make([]byte, 4096); !bytes.HasSuffix(text, []byte("(qemu) ")); {
			n, err := conn.Read(buf)
			if err != nil {
				m.t.Fatalf("qemu's monitor: %v: %s", err, text)
			}
			text = append(text, buf[:n]...)
		}
		return string(text)
	}
	prompt()
	_, err := conn.Write([]byte(command + "\n"))
	must(m.t, err)
	return prompt()
}

// save writes the machine's memory to a file, and stops it.
func (m *machine) save() (file string) {
	m.t.Helper()
	file = filepath.Join(m.t.TempDir(), "memory")
	m.tell("stop")
	m.tell(`migrate -d "exec:cat > ` + file + `"`)
	within(m.t, 2*time.Minute, "the memory is saved", func() bool {
		return strings.Contains(m.tell("info migrate"), "Migration status: completed")
	})
	return file
}

// A driver asks what runs in the machines.
type driver struct {
	t    *testing.T
	nc   *nats.Conn
	asks int
}

// do has a command run in the machine, once, and returns what it writes.
func (d *driver) do(command string, args ...any) string {
	d.t.Helper()
	answers := d.all(1, fmt.Sprintf(command, args...))
	return answers[0]
}

// all has a command run in so many machines.
func (d *driver) all(machines int, command string) (answers []string) {
	d.t.Helper()
	d.asks++
	request, err := json.Marshal(order{ID: fmt.Sprint(time.Now().UnixNano(), "-", d.asks), Command: command})
	must(d.t, err)
	inbox := d.nc.NewInbox()
	sub, err := d.nc.SubscribeSync(inbox)
	must(d.t, err)
	defer func() { _ = sub.Unsubscribe() }()
	by := map[string]string{}
	within(d.t, 5*time.Minute, "an answer to "+command, func() bool { // asked again: the machine may just be connecting
		must(d.t, d.nc.PublishRequest("machines", inbox, request))
		for deadline := time.Now().Add(3 * time.Second); len(by) < machines; {
			msg, err := sub.NextMsg(time.Until(deadline))
			if err != nil {
				return false
			}
			by[msg.Header.Get("Connection")] = string(msg.Data)
			if text := msg.Header.Get("Error"); text != "" {
				d.t.Fatalf("%s: %s: %s", command, text, msg.Data)
			}
		}
		return true
	})
	for _, answer := range by {
		answers = append(answers, answer)
	}
	return answers
}

// same waits until the replayed stream is what ip says in the machine.
func (d *driver) same(s *natstest.Server) {
	d.t.Helper()
	f := harness.Follow(d.t, s)
	var diffs []string
	within(d.t, 2*time.Minute, "the stream leads to the machine's state", func() bool {
		kernel, err := iptest.Parse([]byte(d.do("ip -d -j link show")))
		must(d.t, err)
		f.CatchUp()
		_, diffs = iptest.Compare(f.Replay.Links, kernel)
		return len(diffs) == 0
	})
}

// alias gives the machines' link an alias, and waits until that is stored.
func (d *driver) alias(r *harness.Recorder, alias string) schema.Event {
	d.t.Helper()
	n := r.Mark()
	d.do("ip link set v0 alias %s", alias)
	return r.Until(n, "the alias "+alias, func(e *schema.Event) bool {
		return e.Link.Alias == alias && e.Changed.Has("ifalias")
	})
}

// publishes waits until the bridge in the machine does: until it tells of a link's new alias, this
// or one that begins with it. Of what was before it tells in a snapshot.
func (d *driver) publishes(s *natstest.Server, alias string) {
	d.t.Helper()
	nc := harness.Connect(d.t, s)
	within(d.t, 2*time.Minute, "the bridge is ready", func() bool { return d.do("get /readyz") == "ok\n" })
	tries := 0
	within(d.t, 2*time.Minute, "the bridge publishes", func() bool {
		tries++
		one := fmt.Sprint(alias, ".", tries)
		d.do("ip link set v0 alias %s", one)
		for range 10 { // the kernel does not announce it of a link that is down: the next resync does
			time.Sleep(300 * time.Millisecond)
			if countAlias(harness.Stored(d.t, nc, "IFACE"), one) > 0 {
				return true
			}
		}
		return false
	})
}

// A machine is stopped and goes on, its clock is set, its memory goes back to what it was, and
// two go on from one memory: no event is lost in silence, and the bridge lives.
func TestMachine(t *testing.T) {
	kernel, image := machineFiles(t)
	s := natstest.Start(t, "")
	server := fmt.Sprint("nats://10.0.2.2:", s.Port)
	d, r := &driver{t: t, nc: harness.Connect(t, s)}, harness.Record(t, s)
	m := &machine{t: t}
	began := time.Now()
	m.start(kernel, image, server, "")
	d.do("ip link add v0 type veth peer name v1")
	t.Logf("booted within %v", time.Since(began).Round(time.Second))
	d.do("bridge NATS_URL=%s IFACE_HOST=guest IFACE_RESYNC=2s IFACE_PRESENCE=2s IFACE_SPOOL_DIR=/tmp/spool", server)
	r.Snapshot()
	d.same(s)
	all := func() []schema.Event { return harness.Stored(t, d.nc, "IFACE") }
	epochs := func() (list []string) {
		for _, e := range all() {
			if !slices.Contains(list, e.Epoch) {
				list = append(list, e.Epoch)
			}
		}
		return list
	}

	for _, set := range []string{"-5h", "14h", "-9h"} { // back, and forward, and to about what it was
		before := d.do("get /metrics")
		d.do("clock %s", set)
		at, err := time.Parse(time.RFC3339Nano, d.do("clock 0s"))
		must(t, err)
		e := d.alias(r, "clock"+strings.ReplaceAll(set, "-", "back"))
		if off := e.Time.Sub(at); off < 0 || off > 5*time.Minute {
			t.Errorf("after %s the machine's clock was %v, and an event has the time %v", set, at, e.Time)
		}
		within(t, time.Minute, "what comes every now and then comes", func() bool {
			after := d.do("get /metrics")
			for _, name := range []string{"ifacebridge_netlink_dumps_total", "ifacebridge_presence_puts_total"} {
				if was, is := metric(t, before, name), metric(t, after, name); is < was+2 {
					return false
				}
			}
			return true
		})
		shown := `"ifalias":"clockback5h"`
		if seen := d.do("watch %s %s --since 10m", shown, server); !strings.Contains(seen, shown) {
			t.Errorf("after %s: watch --since does not show what was published before:\n%s", set, seen)
		}
		if healthy := d.do("get /healthz") + d.do("get /readyz"); healthy != "ok\nok\n" {
			t.Errorf("after %s: %s", set, healthy)
		}
	}
	// Of the stream's clock, whatever the events' is.
	watch := harness.Start(t, []string{"NATS_URL=" + s.URL}, "watch", "--json", "--since", "10m")
	for _, alias := range []string{"clockback5h", "clock14h", "clockback9h"} {
		watch.Says(`"ifalias":"` + alias + `"`)
	}
	watch.Kill()

	m.tell("stop")
	time.Sleep(harness.Duration(t, "IFACE_TEST_STALL", 10*time.Second)) // what the machine is stopped for
	m.tell("cont")
	d.alias(r, "continued")
	d.same(s)
	if n := len(epochs()); n != 1 {
		t.Errorf("%d epochs, of a machine whose clock was set, and that was stopped for a while", n)
	}

	saved := m.save()
	m.tell("cont")
	for i := range 3 {
		d.alias(r, fmt.Sprint("undone", i))
	}
	m.end()
	back := &machine{t: t}
	back.start(kernel, image, server, saved)
	for i := range 3 {
		d.alias(r, fmt.Sprint("undone", i)) // of the same names, and the same seq
		d.alias(r, fmt.Sprint("back", i))
	}
	d.same(s)
	if log := d.do("log"); !strings.Contains(log, "reason=cloned") {
		t.Errorf("nothing is said of a machine that went back:\n%s", log)
	}
	harness.ReplayAll(t, all())
	for _, alias := range []string{"undone0", "undone1", "undone2"} {
		if n := countAlias(all(), alias); n != 2 {
			t.Errorf("alias %s is there %d times, and was given twice", alias, n)
		}
	}
	if n := len(epochs()); n != 2 {
		t.Errorf("%d epochs, of one machine that went back once", n)
	}

	saved = back.save()
	back.end()
	// Two at once, and again from the same memory: the random numbers are the same each time.
	for round := range 3 {
		before := len(epochs())
		one, two := &machine{t: t}, &machine{t: t}
		one.start(kernel, image, server, saved)
		two.start(kernel, image, server, saved)
		d.all(2, "ip link set v0 alias both")
		within(t, 2*time.Minute, "one of the two stands by", func() bool {
			d.all(2, "ip link set v0 mtu "+fmt.Sprint(1000+len(all())%400))
			standing := 0
			for _, answer := range d.all(2, "get /readyz") {
				if strings.Contains(answer, "standing by: another bridge") {
					standing++
				}
			}
			return standing == 1
		})
		harness.ReplayAll(t, all())
		one.end()
		d.publishes(s, fmt.Sprint("alone", round))
		d.same(s)
		harness.ReplayAll(t, all())
		if n := len(epochs()) - before; n < 1 || n > 6 {
			t.Errorf("round %d: %d more epochs, of a machine that was cloned once", round, n)
		}
		t.Logf("round %d: %d epochs, %d events", round, len(epochs()), len(all()))
		if round < 2 { // the last goes on
			two.end()
		}
	}
	once(t, all())
	says := d.do("hidden NATS_URL=%s IFACE_HOST=guest IFACE_NETNS=all", server)
	if !strings.Contains(says, "/proc is mounted with hidepid") {
		t.Errorf("nothing is said of processes that are hidden:\n%s", says)
	}
	d.do("poweroff")
}

// A machine goes on again and again from a memory that was saved before its bridge was connected
// for the first time.
func TestMachineIsSavedBeforeItConnects(t *testing.T) {
	kernel, image := machineFiles(t)
	s, later := natstest.Start(t, ""), natstest.New(t, "")
	server := fmt.Sprint("nats://10.0.2.2:", s.Port)
	d := &driver{t: t, nc: harness.Connect(t, s)}
	m := &machine{t: t}
	m.start(kernel, image, server, "")
	d.do("ip link add v0 type veth peer name v1")
	for run := range 2 { // the first leaves what it has not published
		d.do("bridge NATS_URL=nats://10.0.2.2:%d IFACE_HOST=guest IFACE_RESYNC=2s IFACE_SPOOL_DIR=/tmp/spool",
			later.Port)
		within(t, 2*time.Minute, "what it has read is on disk", func() bool {
			return strings.Contains(d.do("log"), "msg=publishing ") &&
				metric(t, d.do("get /metrics"), "ifacebridge_spool_events") >= float64(4+4*run)
		})
		if run == 0 {
			d.do("kill")
		}
	}
	saved := m.save()
	m.end()
	later.Start()
	for round := range 3 {
		again := &machine{t: t}
		again.start(kernel, image, server, saved)
		d.publishes(later, fmt.Sprint("round", round))
		d.same(later)
		if round < 2 {
			again.end()
		}
	}
	events := harness.Stored(t, harness.Connect(t, later), "IFACE")
	harness.ReplayAll(t, events)
	once(t, events)
	t.Logf("%d events", len(events))
	d.do("poweroff")
}

// once fails for an id that two events have, and for an epoch that goes on when another has begun:
// it is another's, of the same name.
func once(t *testing.T, events []schema.Event) {
	t.Helper()
	ids, epochs := map[string]bool{}, map[string]bool{}
	now := ""
	for _, e := range events {
		if ids[e.ID()] {
			t.Errorf("id %s is there twice", e.ID())
		}
		ids[e.ID()] = true
		if e.Epoch != now && epochs[e.Epoch] {
			t.Errorf("epoch %s is there again", e.Epoch)
		}
		now, epochs[e.Epoch] = e.Epoch, true
	}
}

// countAlias returns how many events give a link this alias.
func countAlias(events []schema.Event, alias string) (n int) {
	for _, e := range events {
		if e.Link.Alias == alias && e.Changed.Has("ifalias") {
			n++
		}
	}
	return n
}

// metric is the value of a counter in the text of /metrics.
func metric(t *testing.T, text, name string) (value float64) {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n"+name+" ")
	if !ok {
		t.Fatalf("no metric %s", name)
	}
	_, err := fmt.Sscan(rest, &value)
	must(t, err)
	return value
}

// someModules puts the few that a machine needs where its script loads them.
func someModules(t *testing.T, s system, root string) {
	from := filepath.Join(s.modules, "lib/modules", s.release, "kernel/drivers/net")
	for _, module := range []string{"veth", "ethernet/intel/e1000/e1000"} {
		files, _ := filepath.Glob(filepath.Join(from, module) + ".ko*")
		if len(files) != 1 {
			t.Fatalf("module %s: %v", module, files)
		}
		run(t, "", "cp", files[0], filepath.Join(root, "lib/modules"))
	}
	run(t, filepath.Join(root, "lib/modules"), "sh", "-c", "find . -name '*.ko.xz' -exec xz -d {} +")
}
