package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"ifacebridge/fleet"
	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// recipe returns the command that runs one of docs/recipes. Where its language has no
// client of NATS here, it is checked by its runtime, and the test is skipped.
func recipe(t *testing.T, file string) []string {
	t.Helper()
	path, err := filepath.Abs("../docs/recipes/" + file)
	must(t, err)
	checked := func(language, has string, check ...string) []string {
		netnstest.Tool(t, check[0])
		if exec.Command(check[0], check[1], has).Run() != nil {
			if out, err := exec.Command(check[0], append(check[2:], path)...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			netnstest.Skip(t, "nats-for-"+language, "checked, not run: no NATS client for it here")
		}
		return []string{check[0], path}
	}
	switch filepath.Ext(file) {
	case ".py":
		return checked("python", "import nats", "python3", "-c", "-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())")
	case ".mjs":
		return checked("javascript", "require.resolve('@nats-io/jetstream')", "node", "-e", "--check")
	}
	program := filepath.Join(t.TempDir(), "recipe")
	build := exec.Command("go", "build", "-o", program, path)
	build.Dir = ".." // the module whose packages it imports
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return []string{program}
}

// ids are those of the events that a recipe has recorded; a line that was cut off is not
// recorded.
func ids(t testing.TB, path string) (list []string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data[:bytes.LastIndexByte(data, '\n')+1]) {
		var e schema.Event
		must(t, json.Unmarshal(line[bytes.IndexByte(line, '{'):], &e))
		list = append(list, e.ID())
	}
	return list
}

// recorded is how many events a recipe has recorded.
func recorded(t testing.TB, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return bytes.Count(data, []byte("\n"))
}

// A consumer that is killed at random points, again and again, and resumes: it has each
// event once, in the stream's order, and is given nothing from before its place.
func TestConsumersResume(t *testing.T) {
	k := netnstest.Parallel(t)
	r := seed(t)
	s := natstest.Start(t, "")
	bridge(t, s)
	holds(t, s)
	nc := connect(t, s)
	js, err := nc.JetStream(nats.MaxWait(30 * time.Second))
	must(t, err)
	index, err := k.Add("busy", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	for _, file := range []string{"resume.go", "durable.go", "durable.py", "durable.mjs"} {
		t.Run(file, func(t *testing.T) {
			command := recipe(t, file)
			path := filepath.Join(t.TempDir(), "events")
			env := append(os.Environ(), "NATS_URL="+s.URL, "ACK_WAIT=1", "DURABLE="+strings.ReplaceAll(file, ".", "-"))
			stop := changeMTU(t, k, index)
			kills := number(t, "IFACE_TEST_RESUMES", 8)
			run := func() *service {
				return keptRunning(func() *process {
					return startWith(t, launch{On: k}, command[0], env, append(command[1:], path)...)
				})
			}
			for range kills {
				p := run()
				until := recorded(t, path) + 1 + r.IntN(30)
				eventually(t, "some more events", func() bool { p.keep(); return recorded(t, path) >= until })
				p.b.Kill()
			}
			stop()
			p, n := run(), 0
			eventually(t, "the last event", func() bool {
				p.keep()
				stream, err := js.StreamInfo("IFACE")
				if err != nil {
					return false
				}
				n = int(stream.State.Msgs)
				return recorded(t, path) >= n
			})
			var want []string
			for _, e := range stored(t, nc, "IFACE")[:n] {
				want = append(want, e.ID())
			}
			if got := ids(t, path); !slices.Equal(got[:n], want) {
				t.Errorf("it has recorded %d events, not those of the stream, in its order", len(got))
			}
			t.Logf("killed %d times: %d events, each once", kills, n)
		})
	}
}

// keptRunning is a program that ends when a server does not answer it in time, and that a
// service manager starts again.
func keptRunning(run func() *process) *service { return &service{run: run, b: run()} }

// changeMTU changes a link again and again until stop is called, or the test ends.
func changeMTU(t testing.TB, k *netnstest.Kernel, index int32) (stop func()) {
	end := make(chan struct{})
	var changing sync.WaitGroup
	changing.Go(func() {
		for n := uint32(0); ; n++ {
			select {
			case <-end:
				return
			case <-time.After(10 * time.Millisecond):
			}
			if err := k.SetUint32(index, unix.IFLA_MTU, 1000+n%500); err != nil {
				t.Error(err)
				return
			}
		}
	})
	stop = sync.OnceFunc(func() { close(end); changing.Wait() })
	t.Cleanup(stop)
	return stop
}

// What is given by a fleet that resumes, until it has read all that is stored and a host is whole.
func resumeUntilWhole(t testing.TB, s *natstest.Server, after uint64) (changes []fleet.Change, view []fleet.Host) {
	t.Helper()
	f, err := fleet.New(connect(t, s), fleet.Options{After: after, Presence: time.Second})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var mu sync.Mutex
	done := make(chan error, 1)
	go func() {
		done <- f.Run(ctx, func(c fleet.Change) {
			mu.Lock()
			defer mu.Unlock()
			changes = append(changes, c)
		})
	}()
	catchesUp(t, f)
	eventually(t, "the host is whole", func() bool {
		view = f.View()
		return len(view) == 1 && view[0].Whole
	})
	cancel()
	must(t, <-done)
	return changes, view
}

// expired are the changes that tell of messages which are not there any more.
func expired(changes []fleet.Change) (list []fleet.Change) {
	return slices.DeleteFunc(slices.Clone(changes), func(c fleet.Change) bool { return c.Kind != fleet.Expired })
}

// A place in the stream that is beyond its edge, or of a stream that was made anew: that
// is reported, and the hosts are joined anew.
func TestFleetResumesBeyondTheEdge(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	bridge(t, s)
	holds(t, s)
	changes, _ := resumeUntilWhole(t, s, 0)
	if len(expired(changes)) > 0 {
		t.Errorf("from the beginning: %+v", expired(changes))
	}
	read := uint64(0) // what is asked of a bridge has no place in the stream
	for _, c := range changes {
		read = max(read, c.StreamSeq)
	}
	if read == 0 {
		t.Fatalf("no place in the stream is known: %+v", changes)
	}
	for i := range 5 {
		_, err := k.Add(fmt.Sprintf("a%d", i), 0, netnstest.Kind{Name: "ifb"})
		must(t, err)
	}
	settled(t, s)
	whole := func(what string, after uint64, missed func(uint64) bool, applied func(int) bool) {
		t.Helper()
		changes, view := resumeUntilWhole(t, s, after)
		told, count := expired(changes), 0
		for _, c := range changes {
			if c.Kind == fleet.Applied {
				count++
			}
			if c.StreamSeq > 0 && c.StreamSeq <= after && missed == nil {
				t.Errorf("%s: something from before: %+v", what, c)
			}
		}
		asItShould := len(told) == 0
		if missed != nil {
			asItShould = len(told) == 1 && missed(told[0].Missed) && told[0].Host == ""
		}
		if !asItShould {
			t.Errorf("%s: told %+v", what, told)
		}
		if !applied(count) {
			t.Errorf("%s: %d events", what, count)
		}
		links := map[int32]schema.Link{}
		for _, l := range view[0].Links {
			links[l.Link.Index] = l.Link
		}
		if _, diffs := sameAsIP(t, links); len(diffs) > 0 {
			t.Errorf("%s: %q", what, diffs)
		}
	}
	whole("behind the first", read, nil, func(n int) bool { return n >= 5 })

	js := jetStream(t, connect(t, s))
	stream, err := js.Stream(t.Context(), "IFACE")
	must(t, err)
	must(t, stream.Purge(t.Context(), jetstream.WithPurgeKeep(2)))
	whole("beyond the edge", read,
		func(n uint64) bool { return n > 0 && n < 20 }, func(n int) bool { return n == 2 })

	must(t, js.DeleteStream(t.Context(), "IFACE"))
	_, err = k.Add("last", 0, netnstest.Kind{Name: "ifb"}) // the bridge notices when it publishes
	must(t, err)
	eventually(t, "the stream is there again", func() bool {
		again, err := js.Stream(t.Context(), "IFACE")
		return err == nil && again.CachedInfo().State.LastSeq > 0
	})
	settled(t, s)
	whole("another stream", 1000, func(n uint64) bool { return n == 0 }, func(n int) bool { return n >= 6 })
}

const many = 3000 // more than a consumer has on its way

// publishMany publishes many events of a host.
func publishMany(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	for seq := range uint64(many) {
		event := (&schema.Event{Host: "h", Epoch: "e", Seq: seq + 1, Kind: schema.New}).AppendJSON(nil)
		_, err := js.PublishAsync("iface.h.new", event)
		must(t, err)
	}
	<-js.PublishAsyncComplete()
}

// What was to come of the stream is purged while it is read, as it might expire: no message is
// the last one then, and the reading ends all the same.
func TestStreamIsPurgedWhileItIsRead(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	nc := connect(t, s)
	js := jetStream(t, nc)
	for what, read := range map[string]func(t *testing.T, held func()){
		"the fleet": func(t *testing.T, held func()) {
			f, err := fleet.New(nc, fleet.Options{})
			must(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- f.Run(ctx, func(fleet.Change) { held() }) }()
			defer func() { cancel(); must(t, <-done) }()
			catchesUp(t, f)
		},
		"the past": func(t *testing.T, held func()) {
			ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
			defer cancel()
			_, err := fleet.Past(ctx, nc, fleet.Options{Ago: time.Hour}, 1<<20, func(*schema.Event) { held() })
			must(t, err)
		},
	} {
		t.Run(what, func(t *testing.T) {
			stream, err := js.CreateOrUpdateStream(t.Context(), *operatorStream(func(*jetstream.StreamConfig) {}))
			must(t, err)
			publishMany(t, js)
			n := 0
			read(t, func() {
				if n++; n > 1 {
					return
				}
				if err := stream.Purge(t.Context()); err != nil {
					t.Error(err)
				}
			})
			if n >= many {
				t.Errorf("all %d were read, so that nothing was missing", n)
			}
		})
	}
}

// What somebody else publishes among the events is not recorded, and stops no consumer.
func TestRecipesIgnoreWhatIsNoEvent(t *testing.T) {
	s := natstest.Start(t, "")
	nc := connect(t, s)
	js, err := nc.JetStream(nats.MaxWait(30 * time.Second))
	must(t, err)
	_, err = js.AddStream(&nats.StreamConfig{Name: "IFACE", Subjects: []string{"iface.*.*"}})
	must(t, err)
	event, err := os.ReadFile("../schema/testdata/created.json")
	must(t, err)
	for _, data := range []string{"garbage", "null", "{}", "[]", string(bytes.TrimSpace(event))} {
		_, err := js.Publish("iface.web01_example_com.new", []byte(data))
		must(t, err)
	}
	for _, file := range []string{"resume.go", "durable.go", "durable.py", "durable.mjs"} {
		t.Run(file, func(t *testing.T) {
			command := recipe(t, file)
			path := filepath.Join(t.TempDir(), "events")
			env := append(os.Environ(), "NATS_URL="+s.URL, "DURABLE="+strings.ReplaceAll(file, ".", "-"))
			p := keptRunning(func() *process {
				return startWith(t, launch{}, command[0], env, append(command[1:], path)...)
			})
			eventually(t, "the event", func() bool { p.keep(); return recorded(t, path) >= 1 })
			if got, err := os.ReadFile(path); err != nil || !bytes.HasSuffix(got, event) || recorded(t, path) != 1 {
				t.Errorf("%v, it has recorded %s", err, got)
			}
		})
	}
}
