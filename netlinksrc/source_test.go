package netlinksrc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
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
// it an AF_BRIDGE DELLINK. What they say of a port that is there comes through, as a
// message about the port's settings; the rest stays in the kernel, and in code is Other.
func TestBridgePortMessagesAreFiltered(t *testing.T) {
	k := netnstest.New(t)
	all := open(t, k, 0)
	must(t, all.events.Control(func(fd int) {
		must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0))
	}))
	filtered := open(t, k, 0)

	a, _, err := k.AddVeth("a", "b")
	must(t, err)
	br, err := k.Add("br", 0, netnstest.Kind{Name: "bridge"})
	must(t, err)
	must(t, k.SetUint32(a, unix.IFLA_MASTER, uint32(br)))
	must(t, k.SetUint32(a, unix.IFLA_MASTER, 0))

	count := func(s *Source) (kinds [Kinds]int, ports int) {
		for _, m := range receive(t, s) {
			kinds[m.Kind]++
			if m.Port {
				ports++
				if m.Kind != New || !m.Partial || m.Link.Index != a || !strings.HasPrefix(m.Link.Info.SlaveData, `{"state":"`) {
					t.Errorf("of a port: got %v, partial %v: %s", m.Kind, m.Partial, m.Link.AppendJSON(nil))
				}
			}
		}
		return kinds, ports
	}
	kinds, ports := count(all)
	if kinds[Other] == 0 || kinds[Del] != 0 || ports == 0 {
		t.Errorf("without the filter: got %d other, %d new, %d del, %d of ports", kinds[Other], kinds[New], kinds[Del], ports)
	}
	got, gotPorts := count(filtered)
	if got[Other] != kinds[Other]-1 || got[New] != kinds[New] || got[Del] != 0 || gotPorts != ports {
		t.Errorf("with the filter: got %v and %d of ports, want %v and %d, but for one other", got, gotPorts, kinds, ports)
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

// A link whose messages are larger than there is room for is asked for alone: no overrun,
// no other link is looked at, and a dump shows it whole. When it goes, or moves to another
// namespace, that is said as of any other.
func TestLargeLinks(t *testing.T) {
	k := netnstest.New(t)
	s := open(t, k, 4<<20)
	index, err := k.Add("wide0", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	must(t, k.Up(index)) // a link that is down does not announce its names
	const names = 490    // 64 KiB, which is all that the kernel's attribute of them holds
	most := 0
	for i := range names {
		must(t, k.AddAltName(index, fmt.Sprintf("%0120d", i)))
		for _, m := range receive(t, s) {
			n := len(m.Link.Alt.List())
			if m.Kind != New || m.Link.Index == index && n < most {
				t.Fatalf("got %v with %d names after %d", m.Kind, n, most)
			}
			most = max(most, n)
		}
	}
	if most != names {
		t.Errorf("notifications show %d names of %d", most, names)
	}
	links := map[int32]int{}
	_, err = s.Dump(context.Background(), func(m *Message) { links[m.Link.Index] = len(m.Link.Alt.List()) })
	must(t, err)
	if links[index] != names || len(links) < 2 {
		t.Errorf("a dump shows %d links, and %d names", len(links), links[index])
	}

	must(t, k.Move(index, netnstest.New(t), 0))
	got := receive(t, s)
	last := got[len(got)-1]
	if _, moved := last.Link.NewNetnsID.Get(); last.Kind != Del || !moved || last.Link.Index != index {
		t.Errorf("moved away: got %v of %d: %s", last.Kind, last.Link.Index, last.Link.AppendJSON(nil)[:200])
	}
	if messages, attributes := s.Malformed(); messages+attributes+s.Overruns() > 0 {
		t.Errorf("counted %d bad messages, %d bad attributes, %d overruns", messages, attributes, s.Overruns())
	}
}

// A link that is gone before it could be asked for costs nothing but its message: that it
// went is announced.
func TestLargeLinkThatIsGone(t *testing.T) {
	k := netnstest.New(t)
	s := open(t, k, 4<<20)
	index, err := k.Add("wide0", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	must(t, k.Up(index))
	for i := range 100 {
		receive(t, s)
		must(t, k.AddAltName(index, fmt.Sprintf("%0120d", i)))
	}
	must(t, k.Delete(index))
	got := receive(t, s)
	if last := got[len(got)-1]; last.Kind != Del || last.Link.Index != index || s.Overruns() != 0 {
		t.Errorf("got %v of %d last, %d overruns", last.Kind, last.Link.Index, s.Overruns())
	}
}

// The last of several notifications that follow each other closely is not left in the
// socket until another comes: there may be none for hours.
func TestLastNotificationIsNotLate(t *testing.T) {
	k := netnstest.New(t)
	index, _, err := k.AddVeth("a", "b")
	must(t, err)
	s := open(t, k, 0)
	changed := make(chan error, 1)
	for round := range uint32(2000) {
		first, last := 1000+2*round, 1001+2*round // bytes: the kernel tells of each change of an MTU
		go func() {
			err := k.SetUint32(index, unix.IFLA_MTU, first)
			for range round % 200 { // so that the second comes at any moment of the first one's way
				runtime.Gosched()
			}
			changed <- errors.Join(err, k.SetUint32(index, unix.IFLA_MTU, last))
		}()
		for mtu := uint32(0); mtu != last; {
			for _, m := range receive(t, s) {
				mtu = m.Link.MTU.Or(0)
			}
		}
		must(t, <-changed)
	}
}
