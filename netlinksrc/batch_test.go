package netlinksrc

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ifacebridge/test/netnstest"
)

// datagrams returns the two ends of a socket that keeps the borders of what is written.
func datagrams(t testing.TB) (in, out int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return fds[0], fds[1]
}

// A read is a message as it was read, and whether it was cut off.
type read struct {
	data []byte
	cut  bool
}

// readPlainly reads what there is with one call for each message.
func readPlainly(t testing.TB, fd int) (reads []read) {
	t.Helper()
	buf := make([]byte, slotSize)
	for {
		n, _, flags, _, err := unix.Recvmsg(fd, buf, nil, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
			return reads
		case err != nil:
			t.Fatal(err)
		}
		reads = append(reads, read{bytes.Clone(buf[:n]), flags&unix.MSG_TRUNC != 0})
	}
}

// readInBatches reads what there is as a Source does.
func readInBatches(t testing.TB, b *batch, fd int) (reads []read) {
	t.Helper()
	for {
		n, err := b.read(fd)
		if errors.Is(err, unix.EAGAIN) || err == nil && n == 0 {
			return reads
		} else if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			data, cut := b.message(i)
			if len(data) == 0 {
				return reads // the other end is closed
			}
			reads = append(reads, read{bytes.Clone(data), cut})
		}
	}
}

func equalReads(a, b read) bool { return a.cut == b.cut && bytes.Equal(a.data, b.data) }

// What recvmmsg reads is what one call for each message reads, whatever their sizes and
// however many there are; a batch that is used again has nothing left of the last time.
func FuzzBatch(f *testing.F) {
	f.Add([]byte{1, 200, 3, 0, 77})
	f.Add(bytes.Repeat([]byte{9, 255, 128}, 40))
	b := newBatch()
	f.Fuzz(func(t *testing.T, script []byte) {
		in, out := datagrams(t)
		in2, out2 := datagrams(t)
		for round := 0; len(script) > 0; round++ {
			some := script[:min(len(script), 1+int(script[0])%(2*slots))]
			script = script[len(some):]
			for i, size := range some {
				message := bytes.Repeat([]byte{byte(i), byte(round), size}, 1+int(size)*int(size)/7)
				for _, fd := range []int{in, in2} {
					if _, err := unix.Write(fd, message); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EMSGSIZE) {
						t.Fatal(err)
					}
				}
			}
			got, want := readInBatches(t, b, out), readPlainly(t, out2)
			if !slices.EqualFunc(got, want, equalReads) {
				t.Fatalf("round %d: %d messages in batches, %d plainly, or they differ", round, len(got), len(want))
			}
		}
	})
}

// The same of the kernel's notifications: two sockets hear the same.
func TestBatchReadsNotifications(t *testing.T) {
	k := netnstest.New(t)
	one, other := open(t, k, 1<<20), open(t, k, 1<<20)
	for i := range 3 * slots {
		index, err := k.Add(fmt.Sprint("a", i), 0, netnstest.Kind{Name: "ifb"})
		must(t, err)
		if i%2 == 0 {
			must(t, k.Up(index))
		}
	}
	var got, want []read
	must(t, one.events.Control(func(fd int) { got = readInBatches(t, newBatch(), fd) }))
	must(t, other.events.Control(func(fd int) { want = readPlainly(t, fd) }))
	if len(want) < 3*slots || !slices.EqualFunc(got, want, equalReads) {
		t.Errorf("%d notifications in batches, %d plainly, or they differ", len(got), len(want))
	}
}

// What it costs to read a notification, the kernel's part included.
func BenchmarkRead(b *testing.B) {
	message := bytes.Repeat([]byte{1}, 1500)
	for name, read := range map[string]func(fd int) int{
		"plain": func() func(int) int {
			buf := make([]byte, slotSize)
			return func(fd int) (n int) {
				for {
					if m, err := unix.Read(fd, buf); err != nil || m == 0 {
						return n
					}
					n++
				}
			}
		}(),
		"batch": func() func(int) int {
			batch := newBatch()
			return func(fd int) (n int) {
				for {
					m, err := batch.read(fd)
					if err != nil || m == 0 {
						return n
					}
					n += m
				}
			}
		}(),
	} {
		b.Run(name, func(b *testing.B) {
			in, out := datagrams(b)
			for left := b.N; left > 0; {
				b.StopTimer()
				sent := 0
				for ; sent < min(left, 2*slots); sent++ {
					if _, err := unix.Write(in, message); err != nil {
						break
					}
				}
				b.StartTimer()
				if got := read(out); got != sent {
					b.Fatalf("read %d of %d", got, sent)
				}
				left -= sent
			}
		})
	}
}
