package test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// named makes a namespace with a name and a veth pair, ends "eth0" and "peer",
// that are up, with nothing more to come of it. Name and links go with the test.
func named(t testing.TB, name string) *netnstest.Kernel {
	t.Helper()
	k := netnstest.New(t)
	a, b := upPair(t, k, "eth0", "peer")
	eventually(t, "both ends have a carrier", func() bool { return running(t, k, a) && running(t, k, b) })
	must(t, k.SetName(name))                             // then it is found, as a whole
	t.Cleanup(func() { _ = netnstest.DeleteName(name) }) // the test may have done it
	return k
}

func running(t testing.TB, k *netnstest.Kernel, index int32) bool {
	t.Helper()
	is, err := k.Running(index)
	must(t, err)
	return is
}

func inodeOf(t testing.TB, k *netnstest.Kernel) uint64 {
	t.Helper()
	inode, err := k.Inode()
	must(t, err)
	return inode
}

// lives starts a process in a namespace.
func lives(t testing.TB, k *netnstest.Kernel) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	must(t, k.Do(cmd.Start))
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func dies(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
}

// story is what events say of a namespace: "existing lo 1/3".
func story(events []schema.Event, netns string) (lines []string) {
	for _, e := range events {
		if e.Netns != netns {
			continue
		}
		line := fmt.Sprint(e.Kind, " ", e.Action, " ", e.Cause, " ", e.Link.Name)
		if e.NetnsPrevious != "" {
			line += " was " + e.NetnsPrevious
		}
		lines = append(lines, line)
	}
	return lines
}

// What is there at the start opens the epoch, one snapshot for each namespace; what
// appears later has a snapshot of its own. Each event says which namespace it is
// about, and so do the bucket, the query service and the metrics.
func TestNamespaces(t *testing.T) {
	netnstest.Tool(t, "ip")
	k := netnstest.Own(t)
	upLink(t, k)
	blue := named(t, "blue")
	named(t, "not-meant")
	s := natstest.Start(t, "")
	r := record(t, s)
	b := bridge(t, s, "IFACE_NETNS=self,blue,gr*")
	opening := r.Until(0, "the end of the opening", func(e *schema.Event) bool {
		return e.Snapshot.Of > 0 && e.Snapshot.Pos == e.Snapshot.Of && e.Snapshot.More == 0
	})
	if opening.Netns != "blue" || opening.NetnsInode != inodeOf(t, blue) || opening.Seq != 6 || r.Since(0)[0].Snapshot.More != 1 {
		t.Errorf("the opening ends with %s", opening.AppendJSON(nil))
	}
	n := r.Mark()
	green := named(t, "green")
	r.Until(n, "a snapshot of green", func(e *schema.Event) bool {
		return e.Netns == "green" && e.NetnsInode == inodeOf(t, green) && e.Snapshot.Pos == 3 && e.Snapshot.Of == 3
	})
	eth0, err := green.Index("eth0")
	must(t, err)
	must(t, green.SetAlias(eth0, "greener"))
	r.Until(n, "a change in green", func(e *schema.Event) bool { return e.Netns == "green" && e.Link.Alias == "greener" })

	f := follow(t, s)
	sameInNamespaces(t, f, map[string]*netnstest.Kernel{"": nil, "blue": blue, "green": green})
	if _, ok := f.Replay.Netns["not-meant"]; ok {
		t.Error("a namespace that was not asked for is published")
	}
	var keys []string
	eventually(t, "the bucket is complete", func() bool { keys = bucketKeys(t, s); return len(keys) == 9 })
	if want := fmt.Sprintf("test.green.%d", eth0); !slices.Contains(keys, want) {
		t.Errorf("the bucket has %v, not %s", keys, want)
	}
	nc, answer := connect(t, s), schema.Links{}
	var reply *nats.Msg
	eventually(t, "an answer", func() bool {
		var err error
		reply, err = nc.Request("ifacebridge.test.links", nil, harness.Patience)
		return err == nil && reply.Header.Get(micro.ErrorCodeHeader) == ""
	})
	must(t, json.Unmarshal(reply.Data, &answer))
	if !slices.ContainsFunc(answer.Links, func(l schema.LinkInNetns) bool { return l.Netns == "green" && l.Link.Alias == "greener" }) || len(answer.Links) != 9 {
		t.Errorf("the answer is %s", reply.Data)
	}
	for name, want := range map[string]float64{"ifacebridge_namespaces": 3, "ifacebridge_links": 9, "ifacebridge_namespace_links": 6} {
		eventually(t, fmt.Sprintf("%s is %v", name, want), func() bool { return b.Metric(name) == want })
	}
	ends(t, func() *process { return start(t, []string{"NATS_URL=" + s.URL}, "links", "test") }, 0, "green/eth0")
}

// bucketKeys are none when the bucket is not there yet, or is not answered in time.
func bucketKeys(t testing.TB, s *natstest.Server) []string {
	t.Helper()
	js := jetStream(t, connect(t, s))
	kv, err := js.KeyValue(context.Background(), "iface_links")
	if err != nil {
		return nil
	}
	keys, err := kv.Keys(context.Background())
	if err != nil {
		return nil
	}
	return keys
}

// A link that moves between two watched namespaces is moved in one and created in
// the other, and each says where the other is; also from and to the bridge's own.
func TestMovesBetweenNamespaces(t *testing.T) {
	k := netnstest.Own(t)
	blue, red := named(t, "blue"), named(t, "red")
	s := natstest.Start(t, "")
	r := record(t, s)
	bridge(t, s, "IFACE_NETNS=all")
	r.Until(0, "the opening", func(e *schema.Event) bool {
		return e.Snapshot.Pos > 0 && e.Snapshot.Pos == e.Snapshot.Of && e.Snapshot.More == 0
	})
	must(t, k.SetFlags(1, unix.IFF_UP, true))
	index, err := k.Add("mover", 4711, netnstest.Kind{Name: "ifb"})
	must(t, err)
	step := func(from, to *netnstest.Kernel, fromName, toName string, newIndex int32) {
		t.Helper()
		n := r.Mark()
		must(t, from.Move(index, to, newIndex))
		gone := r.Until(n, "moved", func(e *schema.Event) bool {
			return e.Netns == fromName && e.Link.Name == "mover" && e.Kind == schema.Del
		})
		came := r.Until(n, "created", func(e *schema.Event) bool {
			return e.Netns == toName && e.Link.Name == "mover" && e.Kind == schema.New
		})
		want := func(k *netnstest.Kernel, name string, index int32) schema.Counterpart {
			c := schema.Counterpart{Netns: name, Index: index}
			if name != "" {
				c.NetnsInode = inodeOf(t, k)
			}
			return c
		}
		if w := want(to, toName, came.Link.Index); gone.Action != schema.Moved || gone.Counterpart != w {
			t.Errorf("got %s, want %+v", gone.AppendJSON(nil), w)
		}
		if w := want(from, fromName, index); came.Action != schema.Created || came.Counterpart != w {
			t.Errorf("got %s, want %+v", came.AppendJSON(nil), w)
		}
		if came.Seq < gone.Seq {
			t.Errorf("created is event %d, before moved, %d", came.Seq, gone.Seq)
		}
		index = came.Link.Index
	}
	for range 5 {
		step(k, blue, "", "blue", 0)
		step(blue, red, "blue", "red", 815)
		step(red, k, "red", "", 0)
	}
	n := r.Mark()
	_, err = k.Add("fresh", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	if e := r.Until(n, "a new link", func(e *schema.Event) bool { return e.Link.Name == "fresh" }); e.Counterpart != (schema.Counterpart{}) {
		t.Errorf("a link that came from nowhere: %s", e.AppendJSON(nil))
	}
}

// A namespace is over when neither a name nor a process keeps it: its links get a
// del. With its name gone and a process in it, it is another name's, without del
// and new. The bridge does not keep it: the kernel removes it.
func TestNamespaceEnds(t *testing.T) {
	k := netnstest.Own(t)
	blue := named(t, "blue")
	inode := inodeOf(t, blue)
	s := natstest.Start(t, "")
	r := record(t, s)
	b := bridge(t, s, "IFACE_NETNS=all")
	r.Until(0, "the opening", func(e *schema.Event) bool { return e.Netns == "blue" && e.Snapshot.Pos == e.Snapshot.Of })
	here, _, err := k.AddVeth("outside", "inside")
	must(t, err)
	inside, err := k.Index("inside")
	must(t, err)
	must(t, k.Move(inside, blue, 0))
	r.Until(0, "the end inside", func(e *schema.Event) bool { return e.Netns == "blue" && e.Link.Name == "inside" })

	process := lives(t, blue)
	n, began := r.Mark(), time.Now()
	must(t, netnstest.DeleteName("blue"))
	pid := fmt.Sprint("pid:", process.Process.Pid)
	eventually(t, "another name", func() bool { return len(story(r.Since(n), pid)) == 4 })
	t.Logf("renamed after %v", time.Since(began).Round(time.Millisecond))
	if got, want := story(r.Since(n), pid), []string{"new renamed resync lo was blue", "new renamed resync eth0 was blue", "new renamed resync peer was blue", "new renamed resync inside was blue"}; !sameSet(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, e := range r.Since(n) { // or of the bridge's own, to which the one end was moved from
		if e.Netns != "" && (e.NetnsInode != inode || e.Kind == schema.Del || e.Action == schema.Created) {
			t.Errorf("got %s", e.AppendJSON(nil))
		}
	}
	must(t, blue.SetName("azure")) // a name is better than a process
	eventually(t, "a name again", func() bool { return len(story(r.Since(n), "azure")) == 4 })
	eventually(t, "the bucket has it under its name", func() bool {
		keys := bucketKeys(t, s)
		return slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, "test.azure.") }) &&
			!slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, "test.pid=3A") || strings.HasPrefix(k, "test.blue") })
	})

	n, began = r.Mark(), time.Now()
	must(t, netnstest.DeleteName("azure"))
	eventually(t, "the process's name", func() bool { return len(story(r.Since(n), pid)) == 4 })
	dies(t, process)
	blue.Close() // nothing but the bridge keeps it now
	dels := func() []schema.Event {
		return slices.DeleteFunc(r.Since(n), func(e schema.Event) bool { return e.Kind != schema.Del || e.Netns == "" })
	}
	eventually(t, "the dels", func() bool { return len(dels()) >= 4 })
	r.Until(n, "the other end in the bridge's own namespace", func(e *schema.Event) bool { return e.Netns == "" && e.Link.Index == here && e.Kind == schema.Del })
	t.Logf("gone, with the other end of its pair, after %v", time.Since(began).Round(time.Millisecond))
	if got, want := story(dels(), pid), []string{"del deleted resync lo", "del deleted resync eth0", "del deleted resync peer", "del deleted resync inside"}; !sameSet(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	b.Says("a network namespace is gone")
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// A namespace that died, or was replaced by another under its name, while no bridge
// was running: the dels stand before the opening.
func TestNamespaceEndsWhileDown(t *testing.T) {
	netnstest.Own(t)
	blue, red, stays := named(t, "blue"), named(t, "red"), named(t, "stays")
	s := natstest.Start(t, "")
	r := record(t, s)
	opened := func(n int) {
		t.Helper()
		r.Until(n, "the opening", func(e *schema.Event) bool { return e.Netns == "stays" && e.Snapshot.Pos == e.Snapshot.Of })
	}
	b := bridge(t, s, "IFACE_NETNS=all")
	opened(0)
	allConfirmed(t, b)
	b.Signal(unix.SIGTERM)
	if status := b.Wait(); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	must(t, netnstest.DeleteName("blue"))
	must(t, netnstest.DeleteName("red"))
	blue.Close()
	newRed := named(t, "red") // beside the old one, so that it has another inode
	red.Close()
	n := r.Mark()
	bridge(t, s, "IFACE_NETNS=all")
	opened(n)
	for name, want := range map[string][]string{
		"blue":  {"del deleted resync lo", "del deleted resync eth0", "del deleted resync peer"},
		"red":   {"del deleted resync lo", "del deleted resync eth0", "del deleted resync peer", "new existing snapshot lo", "new existing snapshot eth0", "new existing snapshot peer"},
		"stays": {"new existing snapshot lo", "new existing snapshot eth0", "new existing snapshot peer"},
	} {
		if got := story(r.Since(n), name); !sameSet(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	sameInNamespaces(t, follow(t, s), map[string]*netnstest.Kernel{"": nil, "red": newRed, "stays": stays})
}

// IFACE_INCLUDE and IFACE_EXCLUDE know namespaces, also when their names change.
func TestNamespaceFilter(t *testing.T) {
	netnstest.Own(t)
	blue := named(t, "blue")
	named(t, "web-1")
	s := natstest.Start(t, "")
	r := record(t, s)
	bridge(t, s, "IFACE_NETNS=self,*", "IFACE_INCLUDE=netns:web-*", "IFACE_EXCLUDE=lo")
	r.Until(0, "the opening", func(e *schema.Event) bool { return e.Netns == "web-1" && e.Snapshot.Pos == 2 && e.Snapshot.Of == 2 })
	n := r.Mark()
	must(t, blue.SetName("web-2"))
	must(t, netnstest.DeleteName("blue"))
	eventually(t, "both are renamed into what is published", func() bool { return len(story(r.Since(n), "web-2")) == 2 })
	if got := story(r.Since(n), "web-2"); !sameSet(got, []string{"new renamed resync eth0", "new renamed resync peer"}) {
		t.Errorf("got %q", got)
	}
	must(t, blue.SetName("other"))
	t.Cleanup(func() { must(t, netnstest.DeleteName("other")) })
	must(t, netnstest.DeleteName("web-2"))
	eventually(t, "both are renamed out of it", func() bool { return len(story(r.Since(n), "other")) == 2 })
	if got := story(r.Since(n), "other"); !sameSet(got, []string{"del renamed resync eth0 was web-2", "del renamed resync peer was web-2"}) {
		t.Errorf("got %q", got)
	}
	for _, e := range r.Since(0) {
		if e.Netns == "" || e.Netns == "blue" || e.Link.Name == "lo" {
			t.Errorf("got %s", e.AppendJSON(nil))
		}
	}
}

// Without the privilege to enter a namespace that one is reported, and the rest
// works. A namespace, or the permission to look at it, that comes later is noticed.
func TestNamespacePrivilege(t *testing.T) {
	k := netnstest.Own(t)
	upLink(t, k)
	named(t, "blue")
	s := natstest.Start(t, "")
	r := record(t, s)
	without := func(capabilities ...uintptr) launch {
		return launch{Enter: func() error {
			for _, c := range capabilities {
				if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
					return err
				}
			}
			return nil
		}}
	}
	env := []string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}
	binary := harness.Command(t)
	t.Run("CAP_SYS_ADMIN", func(t *testing.T) {
		b := startWith(t, without(unix.CAP_SYS_ADMIN), binary, append(env, "IFACE_NETNS=self,blue"))
		r.Until(0, "the links of its own namespace", func(e *schema.Event) bool { return e.Link.Name == "veth0" })
		b.Says("cannot watch a network namespace")
		b.Says("needs CAP_SYS_ADMIN")
		eventually(t, "one namespace is failing", func() bool { return b.Metric("ifacebridge_namespaces_failing") == 1 })
		ends(t, func() *process {
			return startWith(t, without(unix.CAP_SYS_ADMIN), binary, append(env, "IFACE_NETNS=self,blue"), "doctor")
		}, 0, "1 of 2 can be watched", "blue: netlink", "CAP_SYS_ADMIN")
	})
	t.Run("a directory", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "closed")
		must(t, os.Mkdir(dir, 0o755))
		must(t, os.Symlink("/run/netns/blue", filepath.Join(dir, "later")))
		must(t, os.Chmod(dir, 0))
		n := r.Mark()
		b := startWith(t, without(unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH), binary,
			append(env, "IFACE_NETNS=self,missing,"+filepath.Join(dir, "later")))
		r.Until(n, "the links of its own namespace", func(e *schema.Event) bool { return e.Link.Name == "veth0" })
		b.Says("permission denied")
		b.Says("it is watched as soon as it is there")
		named(t, "missing")
		r.Until(n, "the namespace that was missing", func(e *schema.Event) bool { return e.Netns == "missing" })
		must(t, os.Chmod(dir, 0o755))
		r.Until(n, "the namespace that was closed", func(e *schema.Event) bool { return e.Netns == "later" })
		eventually(t, "nothing is failing", func() bool { return b.Metric("ifacebridge_namespaces_failing") == 0 })
	})
}

// Namespaces come and go, with links that move between them, while the bridge is
// stopped again and again so that the kernel overruns it. The replayed state is the
// kernel's in every namespace. IFACE_TEST_NAMESPACES is how many are made.
func TestNamespaceChurn(t *testing.T) {
	netnstest.Tool(t, "ip")
	k := netnstest.Own(t)
	s := natstest.Start(t, "")
	r := seed(t)
	b := bridge(t, s, "IFACE_NETNS=all", "IFACE_RCVBUF=16KiB", "IFACE_RESYNC=1s") // nothing announces that the other end of a pair has moved
	b.Ready()
	alive := map[string]*netnstest.Kernel{}
	all := func() (kernels []*netnstest.Kernel, names []string) {
		kernels, names = append(kernels, k), append(names, "")
		for name, other := range alive {
			kernels, names = append(kernels, other), append(names, name)
		}
		return kernels, names
	}
	remove := func(name string) {
		must(t, netnstest.DeleteName(name))
		alive[name].Close()
		delete(alive, name)
	}
	count, moves := number(t, "IFACE_TEST_NAMESPACES", 80), 0
	for i := range count {
		name := fmt.Sprint("ns", i)
		other, err := netnstest.Open()
		must(t, err)
		must(t, other.SetName(name))
		t.Cleanup(func() {
			if alive[name] != nil {
				remove(name)
			}
		})
		alive[name] = other
		stopped := i%10 == 0
		if stopped {
			b.Signal(unix.SIGSTOP)
		}
		for range 12 {
			moves += shuffle(r, all)
		}
		for j := range 200 { // for an overrun
			if stopped {
				_ = k.SetAlias(1, fmt.Sprint(j))
			}
		}
		if stopped {
			b.Signal(unix.SIGCONT)
		}
		if len(alive) > 30 {
			_, names := all()
			remove(names[1+r.IntN(len(names)-1)])
		}
	}
	f := follow(t, s)
	kernels := map[string]*netnstest.Kernel{"": nil}
	for name, other := range alive {
		kernels[name] = other
	}
	began := time.Now()
	compared := sameInNamespaces(t, f, kernels)
	t.Logf("%d namespaces, %d alive, %d moves, %d events, %d overruns, %d values compared, the same %v after the last change",
		count, len(alive), moves, f.Events, f.Overruns, compared, time.Since(began).Round(time.Millisecond))
	if f.Overruns == 0 {
		t.Error("the kernel never overran the bridge: this was no test of it")
	}
}

// shuffle makes a link in one namespace, changes or deletes one, or moves it to
// another. It returns how many it moved.
func shuffle(r *rand.Rand, all func() ([]*netnstest.Kernel, []string)) int {
	kernels, _ := all()
	from, to := kernels[r.IntN(len(kernels))], kernels[r.IntN(len(kernels))]
	indexes, err := from.Indexes()
	if err != nil {
		return 0
	}
	name := fmt.Sprint("l", r.IntN(30))
	if len(indexes) < 3 {
		if r.IntN(2) == 0 {
			_, _, _ = from.AddVeth(name, fmt.Sprint("p", r.IntN(30)))
		} else {
			_, _ = from.Add(name, 0, netnstest.Kind{Name: "ifb"})
		}
		return 0
	}
	index := indexes[r.IntN(len(indexes))]
	switch r.IntN(6) {
	case 0:
		_ = from.Delete(index)
	case 1:
		_ = from.Rename(index, name)
	case 2:
		_ = from.SetFlags(index, unix.IFF_UP, r.IntN(2) == 0)
	default:
		if from.Move(index, to, 0) == nil && from != to {
			return 1
		}
	}
	return 0
}

// usage is what a process holds.
type usage struct{ files, threads, goroutines, kib int }

func usageOf(t testing.TB, p *process) usage {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d", p.Pid())
	files, err := os.ReadDir(dir + "/fd")
	must(t, err)
	threads, err := os.ReadDir(dir + "/task")
	must(t, err)
	return usage{len(files), len(threads), int(p.Metric("go_goroutines")), residentKiB(t, p)}
}

// No descriptor, thread or goroutine is left behind by namespaces that came and
// went, and none is in a wrong namespace. What 300 at once, or IFACE_TEST_NAMESPACES,
// cost is printed.
func TestNamespaceCost(t *testing.T) {
	netnstest.Own(t)
	s := natstest.Start(t, "")
	b := bridge(t, s, "IFACE_NETNS=all")
	b.Ready()
	var mu sync.Mutex
	var names []string
	add := func(n int) {
		t.Helper()
		for range n {
			k, err := netnstest.Open()
			must(t, err)
			mu.Lock()
			name := fmt.Sprint("ns", len(names))
			names = append(names, name)
			mu.Unlock()
			_, _, err = k.AddVeth("eth0", "peer")
			must(t, err)
			must(t, k.SetName(name))
			k.Close()
		}
	}
	removeAll := func() {
		for _, name := range names {
			_ = netnstest.DeleteName(name)
		}
		names = nil
	}
	t.Cleanup(removeAll)
	watched := func(n float64) {
		t.Helper()
		eventually(t, fmt.Sprintf("%v namespaces watched", n), func() bool { return b.Metric("ifacebridge_namespaces") == n })
	}
	add(20) // what is made once and kept, such as threads
	watched(21)
	removeAll()
	watched(1)
	before := usageOf(t, b)
	count := number(t, "IFACE_TEST_NAMESPACES", 300)
	for range 2 {
		began := time.Now()
		add(count)
		made := time.Since(began)
		watched(float64(count + 1))
		all := time.Since(began)
		during := usageOf(t, b)
		t.Logf("%d namespaces with 3 links each, made within %v, watched after %v: %.1f KiB, %.1f descriptors, %.1f goroutines for each; %d threads",
			count, made.Round(time.Millisecond), all.Round(time.Millisecond), float64(during.kib-before.kib)/float64(count),
			float64(during.files-before.files)/float64(count), float64(during.goroutines-before.goroutines)/float64(count), during.threads)
		began = time.Now()
		removeAll()
		unnamed := time.Since(began)
		watched(1)
		t.Logf("their names gone within %v, let go after %v", unnamed.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	}
	var after usage
	defer func() { t.Logf("before %+v, after %+v", before, after) }()
	eventually(t, "nothing is left behind", func() bool { // a few come and go by themselves
		after = usageOf(t, b)
		return after.files <= before.files+10 && after.goroutines <= before.goroutines+10 && after.threads <= before.threads+10
	})
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/net", b.Pid()))
	must(t, err)
	own, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	for _, task := range tasks {
		if ns, err := os.Readlink(task); err == nil && ns != own {
			t.Errorf("%s is %s, not %s", task, ns, own)
		}
	}
}

// A namespace that is meant by a process in it is called after that, and is over
// when the process is.
func TestNamespaceByProcess(t *testing.T) {
	netnstest.Own(t)
	k := netnstest.New(t)
	_, _, err := k.AddVeth("eth0", "peer")
	must(t, err)
	process := lives(t, k)
	k.Close()
	s := natstest.Start(t, "")
	r := record(t, s)
	bridge(t, s, fmt.Sprintf("IFACE_NETNS=self,/proc/%d/ns/net", process.Process.Pid))
	pid := fmt.Sprint("pid:", process.Process.Pid)
	eventually(t, "its links", func() bool { return len(story(r.Since(0), pid)) == 3 })
	dies(t, process)
	eventually(t, "their dels", func() bool { return len(story(r.Since(0), pid)) == 6 })
	want := []string{"new existing snapshot lo", "new existing snapshot eth0", "new existing snapshot peer", "del deleted resync lo", "del deleted resync eth0", "del deleted resync peer"}
	if got := story(r.Since(0), pid); !sameSet(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Two namespaces whose names are swapped while nobody looks keep their links, each
// under its new name.
func TestNamespaceNamesSwapped(t *testing.T) {
	netnstest.Tool(t, "ip")
	netnstest.Own(t)
	blue, red := named(t, "blue"), named(t, "red")
	for k, name := range map[*netnstest.Kernel]string{blue: "was-blue", red: "was-red"} {
		_, err := k.Add(name, 0, netnstest.Kind{Name: "ifb"})
		must(t, err)
	}
	s := natstest.Start(t, "")
	r := record(t, s)
	b := bridge(t, s, "IFACE_NETNS=all")
	eventually(t, "the opening", func() bool { return len(story(r.Since(0), "blue")) == 4 && len(story(r.Since(0), "red")) == 4 })
	n := r.Mark()
	b.Signal(unix.SIGSTOP)
	must(t, netnstest.DeleteName("blue"))
	must(t, netnstest.DeleteName("red"))
	must(t, blue.SetName("red"))
	must(t, red.SetName("blue"))
	b.Signal(unix.SIGCONT)
	sameInNamespaces(t, follow(t, s), map[string]*netnstest.Kernel{"": nil, "blue": red, "red": blue})
	for _, e := range r.Since(n) {
		if e.Kind == schema.Del || e.Action != schema.Renamed {
			t.Errorf("got %s", e.AppendJSON(nil))
		}
	}
}
