package netlinksrc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/test/harness"
	"ifacebridge/test/netnstest"
)

func open(t *testing.T, k *netnstest.Kernel, readBuffer int) *Source {
	t.Helper()
	s, err := Open(Config{NetNS: int(k.File.Fd()), ReadBuffer: readBuffer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

var must = harness.Must

// receive returns the messages that are there.
func receive(t *testing.T, s *Source) []Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	var got []Message
	must(t, s.Receive(ctx, func(m *Message) { got = append(got, *m) }))
	return got
}

// A notification, nothing within the time, an error: the outcomes of Receive.
func TestReceive(t *testing.T) {
	k := netnstest.New(t)
	s := open(t, k, 0)

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	none := func(m *Message) { t.Errorf("got %v %s of nothing", m.Kind, m.Link.Name) }
	if err := s.Receive(ctx, none); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing within the time: got %v", err)
	}

	index, _, err := k.AddVeth("a", "b")
	must(t, err)
	got := receive(t, s)
	must(t, k.Delete(index))
	got = append(got, receive(t, s)...)
	if first, last := got[0], got[len(got)-1]; first.Kind != New || first.Link.Name != "b" || last.Kind != Del {
		t.Errorf("got %v of %q first and %v of %q last", first.Kind, first.Link.Name, last.Kind, last.Link.Name)
	}

	must(t, s.events.Close())
	if err := s.Receive(context.Background(), none); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a closed socket: got %v", err)
	}
}

// Fact: a blocked read ends when its deadline is set to the past, with
// os.ErrDeadlineExceeded. Receive ends with its context at once, leaves nothing behind, and the next one
// works.
func TestReceiveIsInterrupted(t *testing.T) {
	k := netnstest.New(t)
	s := open(t, k, 0)
	before := runtime.NumGoroutine()
	for range 100 {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Millisecond, cancel)
		if err := s.Receive(ctx, func(*Message) {}); !errors.Is(err, context.Canceled) { // or the test does not end
			t.Fatalf("got %v", err)
		}
	}
	_, _, err := k.AddVeth("a", "b")
	must(t, err)
	if got := receive(t, s); len(got) == 0 {
		t.Error("nothing received after interruptions")
	}
	harness.Eventually(t, "no goroutine is left behind", func() bool { return runtime.NumGoroutine() <= before })
}

// Fact: enslaving a port sends nine messages, three of them AF_BRIDGE; releasing
// it an AF_BRIDGE DELLINK. They stay in the kernel, and in code they are Other.
func TestBridgePortMessagesAreFiltered(t *testing.T) {
	k := netnstest.New(t)
	all := open(t, k, 0)
	must(t, all.events.RemoveBPF())
	filtered := open(t, k, 0)

	a, _, err := k.AddVeth("a", "b")
	must(t, err)
	br, err := k.Add("br", 0, netnstest.Kind{Name: "bridge"})
	must(t, err)
	must(t, k.SetUint32(a, unix.IFLA_MASTER, uint32(br)))
	must(t, k.SetUint32(a, unix.IFLA_MASTER, 0))

	count := func(s *Source) (kinds [3]int, total int) {
		for _, m := range receive(t, s) {
			kinds[m.Kind]++
			total++
		}
		return kinds, total
	}
	kinds, total := count(all)
	if kinds[Other] == 0 || kinds[Del] != 0 {
		t.Errorf("without the filter: got %d other, %d new, %d del", kinds[Other], kinds[New], kinds[Del])
	}
	if got, n := count(filtered); n != total-kinds[Other] || got[New] != kinds[New] || got[Del] != 0 {
		t.Errorf("with the filter: got %d messages %v, want the %d new", n, got, kinds[New])
	}
}

// Fact: ENOBUFS is reported before older queued messages. All of those are
// handled before ErrOverrun is returned, and the Source goes on after it.
// Fact: a notification takes about 2,304 bytes of the buffer that the kernel
// doubled.
func TestOverrun(t *testing.T) {
	k := netnstest.New(t)
	a, _, err := k.AddVeth("a", "b")
	must(t, err)
	must(t, k.Up(a)) // a link that is down has its alias changed without a word
	s := open(t, k, 16<<10)
	for i := range 200 {
		must(t, k.SetAlias(a, fmt.Sprint(i)))
	}
	var got []string
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	err = s.Receive(ctx, func(m *Message) { got = append(got, m.Link.Alias) })
	if !errors.Is(err, ErrOverrun) || s.Overruns() != 1 {
		t.Fatalf("got %v and %d overruns", err, s.Overruns())
	}
	for i, alias := range got {
		if alias != fmt.Sprint(i) {
			t.Fatalf("message %d is %q: not what was queued before the overrun", i, alias)
		}
	}
	if len(got) == 0 || len(got) == 200 {
		t.Fatalf("got %d messages of 200", len(got))
	}
	if each := 2 * s.ReadBuffer() / len(got); each < 1024 || each > 4096 {
		t.Errorf("a notification takes %d bytes of the receive buffer", each)
	}
	must(t, k.SetAlias(a, "after"))
	if got := receive(t, s); len(got) != 1 || got[0].Link.Alias != "after" {
		t.Errorf("after the overrun: got %d messages", len(got))
	}
}

// A namespace by descriptor or by path: its own links, and no others.
func TestNamespaces(t *testing.T) {
	k := netnstest.New(t)
	_, _, err := k.AddVeth("inside", "peer")
	must(t, err)
	byPath, err := OpenPath(k.Path, mustInode(t, k.Path), Config{})
	must(t, err)
	defer byPath.Close()
	for name, s := range map[string]*Source{"descriptor": open(t, k, 0), "path": byPath} {
		names := map[string]bool{}
		_, err := s.Dump(context.Background(), func(m *Message) { names[m.Link.Name] = true })
		must(t, err)
		if len(names) != 3 || !names["inside"] {
			t.Errorf("by %s: got %v", name, names)
		}
	}
	if _, err := OpenPath("/no/such/namespace", 1, Config{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such namespace: got %v", err)
	}
}

// A dump shows all links, also when they need many reads, ends with its context,
// and works again after it was cut off.
func TestDump(t *testing.T) {
	k := netnstest.New(t)
	for i := range 150 {
		_, _, err := k.AddVeth(fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i))
		must(t, err)
	}
	s := open(t, k, 0)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Dump(ended, func(*Message) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("a dump of an ended context: got %v", err)
	}
	for range 2 {
		seen := map[int32]bool{}
		interrupted, err := s.Dump(context.Background(), func(m *Message) { seen[m.Link.Index] = true })
		must(t, err)
		if len(seen) != 301 || interrupted {
			t.Errorf("got %d links, interrupted %v; want 301", len(seen), interrupted)
		}
	}
}

// Fact: that a dump was interrupted is a bit in the headers of its messages.
func TestDumpIsInterrupted(t *testing.T) {
	k := netnstest.New(t)
	for i := range 400 {
		_, _, err := k.AddVeth(fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i))
		must(t, err)
	}
	s := open(t, k, 0)
	changed := false
	interrupted, err := s.Dump(context.Background(), func(m *Message) {
		if !changed { // the kernel has sent a first part, and has not read the rest
			changed = true
			_, _, err := k.AddVeth("late", "later")
			must(t, err)
		}
	})
	must(t, err)
	if !interrupted {
		t.Error("a link that came while the dump ran was not noticed")
	}
}

// The receive buffer is what was asked for where the process may, and what was
// granted is reported.
func TestReadBuffer(t *testing.T) {
	k := netnstest.New(t)
	if got := open(t, k, 64<<10).ReadBuffer(); got != 64<<10 {
		t.Errorf("asked for 64 KiB, got %d bytes", got)
	}
	if got := open(t, k, 1<<30).ReadBuffer(); got <= 0 || got > 1<<30 {
		t.Errorf("asked for 1 GiB, got %d bytes", got)
	}
}

func mustInode(t *testing.T, path string) uint64 {
	t.Helper()
	inode, err := inodeOf(path)
	if err != nil {
		t.Fatal(err)
	}
	return inode
}

// A notification that is larger than there is room for is not lost in silence: it
// counts as an overrun, and a dump shows the link.
func TestOversizedNotification(t *testing.T) {
	k := netnstest.New(t)
	index, err := k.Add("wide0", 0, netnstest.Kind{Name: "ifb"})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Up(index); err != nil { // a link that is down does not announce its names
		t.Fatal(err)
	}
	src, err := Open(Config{NetNS: int(k.File.Fd()), ReadBuffer: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	const names = 80
	for i := range names {
		if err := k.AddAltName(index, fmt.Sprintf("%0120d", i)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	for err == nil {
		err = src.Receive(ctx, func(*Message) {})
	}
	if !errors.Is(err, ErrOverrun) || src.Overruns() == 0 {
		t.Fatalf("got %v, %d overruns", err, src.Overruns())
	}
	got := 0
	if _, err := src.Dump(ctx, func(m *Message) {
		if m.Link.Index == index {
			got = len(m.Link.Alt.List())
		}
	}); err != nil || got != names {
		t.Errorf("a dump shows %d names, %v", got, err)
	}
}
