// Package netlinksrc reads the kernel's network links over rtnetlink: the
// notifications about them as they happen, and dumps of all of them.
//
// A [Source] is one network namespace. It has a socket that only receives
// notifications and another that only dumps; one socket for both would mix
// replies with events. It is subscribed before Open returns, so that a dump made
// afterwards misses nothing: whatever the dump does not show yet is announced.
//
//	src, err := netlinksrc.Open(netlinksrc.Config{ReadBuffer: 8 << 20})
//	…
//	interrupted, err := src.Dump(ctx, func(m *netlinksrc.Message) { … })
//	for {
//		err := src.Receive(ctx, func(m *netlinksrc.Message) { … })
//		switch {
//		case err == nil: // one message or more were handled
//		case errors.Is(err, netlinksrc.ErrOverrun): // some were lost: dump again
//		case errors.Is(err, context.DeadlineExceeded): // nothing within the time
//		default: // the socket is broken, or ctx was cancelled
//		}
//	}
//
// The messages are decoded by a [Decoder], which is a pure function of their
// bytes: the kernel's rules stand in decode.go and are tested without a kernel.
// What they mean, which links there are and what changed, is not decided here.
package netlinksrc

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"ifacebridge/netlinksrc/internal/uapi"
)

// ErrOverrun says that notifications were lost; why, its text says. All that the kernel had
// queued before has been handled.
var ErrOverrun = errors.New("netlink: notifications were lost")

var (
	errFull = fmt.Errorf("%w: the receive buffer was full (ENOBUFS)", ErrOverrun)
	errCut  = fmt.Errorf("%w: one was too large, and the link could not be asked for", ErrOverrun)
)

const (
	// readSize is larger than most pieces of a dump: the kernel makes them of 32 KiB, or
	// as large as the largest link (rtnl_calcit).
	readSize = 64 << 10

	// enough is how many notifications one Receive handles at most, so that a
	// storm does not keep its caller from everything else.
	enough = 1024
)

// Config says which namespace to read and how.
type Config struct {
	// NetNS is a file descriptor of a network namespace, which stays the caller's;
	// 0 is the calling process's own. Entering another one needs
	// CAP_SYS_ADMIN. A Source keeps its namespace alive until it is closed.
	NetNS int

	// ReadBuffer is the size in bytes to ask for the notifications' socket, 0 for
	// the system's default. The kernel counts about 2.3 KB for a notification.
	ReadBuffer int

	// Reader is what to read with; nil is one of its own.
	Reader *Reader

	// Namespaces has the Source receive, besides, what the kernel says of other
	// namespaces that are known in this one, as messages of kind [Netns].
	Namespaces bool
}

// A Reader is what Sources read with: a buffer, and a [Decoder] with the strings
// that it has seen. Sources that share one take turns, so that a thousand of them
// cost little, and what their handles do is done by one at a time. Its lock may be
// taken to be that one.
type Reader struct {
	sync.Mutex
	dec    *Decoder
	buf    []byte // for dumps; it grows
	events *batch
	within *batch // for a CatchUp in a handle; nil until the first
}

// NewReader returns a Reader.
func NewReader() *Reader {
	return &Reader{dec: NewDecoder(), buf: make([]byte, readSize), events: newBatch()}
}

// A Source reads the links of one network namespace. Receive and Dump are for one
// goroutine; CatchUp is for whoever has its Reader's lock.
type Source struct {
	*Reader
	netns      *os.File // the namespace
	own        bool     // it is the process's: nothing need be entered
	events     *listener
	unfiltered error // why there is no socket filter; nil: there is one
	granted    int
	dumps      *netlink.Conn // nil until the first dump, and after a failed one
	asks       *netlink.Conn // for questions with one answer; nil until the first

	longest  time.Duration // pause under load, see pace
	handled  int           // by the last Receive
	woken    time.Time     // by it
	often    int           // Receives that were woken soon after the one before, in a row
	overruns uint64
	overrun  bool // in a CatchUp: Receive has to report it

	badMessages, badAttributes uint64

	msg Message
}

// OpenPath opens the namespace that a file stands for, such as
// /run/netns/blue or /proc/4711/ns/net, if it is the one with this inode.
func OpenPath(path string, inode uint64, cfg Config) (*Source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	defer f.Close()
	if now, err := inodeOf(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err != nil || now != inode {
		return nil, fmt.Errorf("network namespace: %s stands for another one now: %w", path, cmp.Or(err, fs.ErrNotExist))
	}
	cfg.NetNS = int(f.Fd())
	return Open(cfg)
}

// Open subscribes to the link notifications of a namespace. The caller closes
// the Source.
func Open(cfg Config) (*Source, error) {
	groups := uint32(unix.RTMGRP_LINK)
	if cfg.Namespaces {
		groups |= 1 << (unix.RTNLGRP_NSID - 1)
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: groups, NetNS: cfg.NetNS})
	if err != nil {
		return nil, fmt.Errorf("netlink: subscribe to link notifications: %w", refused(err))
	}
	filterErr := conn.SetBPF(dropLeftBridges)
	events, err := listen(conn)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	s := &Source{events: events, unfiltered: filterErr, Reader: cfg.Reader, own: cfg.NetNS == 0}
	if s.Reader == nil {
		s.Reader = NewReader()
	}
	if err := s.prepare(cfg); err != nil {
		s.Close()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return s, nil
}

func (s *Source) prepare(cfg Config) error {
	path := "/proc/self/ns/net"
	if !s.own {
		path = fmt.Sprintf("/proc/self/fd/%d", cfg.NetNS)
	}
	var err error
	if s.netns, err = os.Open(path); err != nil { // for other sockets, later
		return fmt.Errorf("network namespace: %w", err)
	}
	var sockErr error
	err = s.events.Control(func(fd int) { s.granted, sockErr = setReadBuffer(fd, cfg.ReadBuffer) })
	s.longest = time.Duration(s.granted/stormFills) * loadPause
	return errors.Join(err, sockErr)
}

// setReadBuffer asks for a receive buffer, past net.core.rmem_max where the
// process may (CAP_NET_ADMIN), and returns what was granted. The kernel doubles
// what is asked, for its own bookkeeping (socket(7)), and reports the double.
func setReadBuffer(fd, size int) (granted int, err error) {
	if size > 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size); err != nil {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size); Passes(err) {
				return 0, fmt.Errorf("receive buffer: %w", err)
			}
		}
	}
	doubled, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return doubled / 2, err
}

// dropLeftBridges is a socket filter that leaves the AF_BRIDGE messages in the kernel that
// say nothing of a port that is there: one that leaves its bridge does so with an RTM_DELLINK.
// Each would cost a wake-up and a place in the receive buffer. The type is in the header, in
// the machine's byte order, which the filter does not know; the family is the first byte behind.
var dropLeftBridges = func() []bpf.RawInstruction {
	del := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.RTM_DELLINK))
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: unix.NLMSG_HDRLEN, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_BRIDGE, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(del), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1<<32 - 1},
	})
	if err != nil {
		panic(err) // a constant program
	}
	return filter
}()

// ReadBuffer returns the size in bytes of the notifications' receive buffer as
// the kernel granted it, on the scale on which Config.ReadBuffer asks for it.
func (s *Source) ReadBuffer() int { return s.granted }

// Unfiltered returns why the kernel, or a sandbox, did not take the socket filter; nil when
// it did. Without it more messages have to be looked at, and nothing else is different.
func (s *Source) Unfiltered() error { return s.unfiltered }

// Overruns returns how often notifications were lost: the kernel has reported that it dropped
// some, or one was cut off. One [ErrOverrun] may stand for several.
func (s *Source) Overruns() uint64 { return s.overruns }

// Malformed returns how many messages and attributes were left out so far.
func (s *Source) Malformed() (messages, attributes uint64) {
	return s.badMessages, s.badAttributes
}

// Close ends the Source. Nothing may be under way on it.
func (s *Source) Close() error {
	err := s.events.Close()
	for _, conn := range []*netlink.Conn{s.dumps, s.asks} {
		if conn != nil {
			err = errors.Join(err, conn.Close())
		}
	}
	if s.netns != nil {
		err = errors.Join(err, s.netns.Close())
	}
	return err
}

// Receive waits for notifications and calls handle with each that is there, up
// to about 1024 of them. The message is handle's until it returns, and so is the
// Reader's lock. Receive returns nil when it handled any, the context's error when
// there was none until the context ended, [ErrOverrun] after an overrun, and else
// what failed: notifications may be lost, and the socket may be broken or not ([Passes]).
func (s *Source) Receive(ctx context.Context, handle func(*Message)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.pace()
	handled, readErr := 0, error(nil)
	err := interruptible(ctx, s.events, func() error {
		return s.events.Read(func(fd int) bool {
			s.Lock()
			defer s.Unlock()
			handled, readErr = s.drain(fd, s.Reader.events, handle)
			if s.overrun { // of a CatchUp
				s.overrun, readErr = false, ErrOverrun
			}
			return handled > 0 || readErr != nil
		})
	})
	s.note(handled)
	if readErr != nil {
		return readErr
	}
	if errors.Is(err, context.DeadlineExceeded) && s.takeOverrun() { // its doing
		return ErrOverrun
	}
	return err
}

const (
	// It is a load when so many notifications were there at once, or so many wake-ups
	// came so close together.
	manyHandled = 4
	manyWoken   = 4
	closeWoken  = 500 * time.Microsecond

	// loadPause is how long to wait under load, and stormPause when a call's slots were
	// full. stormFills is what a storm fills of the buffer in a loadPause, four times
	// over: 75,000 notifications a second, as the kernel was seen to make, are 170 KiB.
	loadPause  = time.Millisecond
	stormPause = 4 * loadPause
	stormFills = 700 << 10
)

// pace waits a little under load. To be woken costs more than to read: one wake-up
// for all that a millisecond brings, in the place of one for each, is what makes a
// storm cheap. It is no wait for anything, so nothing need interrupt it.
func (s *Source) pace() {
	switch {
	case s.handled >= enough: // there is more
	case s.handled >= slots:
		time.Sleep(min(stormPause, s.longest))
	case s.handled >= manyHandled || s.often >= manyWoken:
		time.Sleep(min(loadPause, s.longest))
	}
}

// note takes note of a wake-up, for pace.
func (s *Source) note(handled int) {
	now := time.Now()
	if s.often++; now.Sub(s.woken) > closeWoken {
		s.often = 0
	}
	s.handled, s.woken = handled, now
}

func (s *Source) takeOverrun() bool {
	s.Lock()
	defer s.Unlock()
	overrun := s.overrun
	s.overrun = false
	return overrun
}

// Drain is Receive without waiting: it handles all that is there, however much.
// The caller has the Reader's lock.
func (s *Source) Drain(handle func(*Message)) error { return s.drainAll(s.Reader.events, handle) }

// CatchUp is Drain for the handle of another Source of the same Reader. An overrun
// that it meets is reported by Receive, which returns at once.
func (s *Source) CatchUp(handle func(*Message)) error {
	if s.within == nil {
		s.within = newBatch()
	}
	err := s.drainAll(s.within, handle)
	if errors.Is(err, ErrOverrun) {
		s.overrun = true
		return s.events.SetReadDeadline(time.Unix(1, 0))
	}
	return err
}

func (s *Source) drainAll(into *batch, handle func(*Message)) error {
	var overrun error
	for {
		n, readErr := 0, error(nil)
		if err := s.events.Control(func(fd int) { n, readErr = s.drain(fd, into, handle) }); err != nil {
			return err
		}
		switch {
		case errors.Is(readErr, ErrOverrun):
			overrun = readErr
		case readErr != nil:
			return readErr
		}
		if n < enough {
			return overrun
		}
	}
}

// drain reads notifications until there are none, or enough. ENOBUFS comes
// before the messages that were queued when the buffer ran full, and until those
// are read the kernel drops everything without another word (netlink_overrun,
// NETLINK_S_CONGESTED): so all of them are read before the overrun is reported,
// unless a storm refills the queue faster than that.
func (s *Source) drain(fd int, into *batch, handle func(*Message)) (handled int, err error) {
	for handled < enough || err != nil && handled < 64*enough {
		n, readErr := into.read(fd)
		switch readErr {
		case nil:
			s.msg.Time = time.Now()
			for i := range n {
				if !s.take(into, i, handle) {
					err = errCut
				}
			}
			if handled += n; n < slots && err == nil {
				return handled, nil // there was no more
			}
		case unix.EAGAIN:
			return handled, err
		case unix.EINTR:
		case unix.ENOBUFS:
			s.overruns++
			err = errFull
		default:
			return handled, os.NewSyscallError("read", readErr)
		}
	}
	return handled, err
}

// take handles a message that was read. It reports false when the message was cut off
// and could not be asked for again, which counts for one that the kernel dropped.
func (s *Source) take(from *batch, i int, handle func(*Message)) bool {
	data, cut := from.message(i)
	if cut {
		return s.takeCut(data, handle)
	}
	s.decode(data, func(h header, body []byte) {
		s.decodeMessage(h.typ, body)
		handle(&s.msg)
	})
	return true
}

func (s *Source) decode(datagram []byte, each func(h header, body []byte)) {
	if !messages(datagram, each) {
		s.badMessages++
	}
}

func (s *Source) decodeMessage(typ uint16, body []byte) {
	messages, attributes := s.dec.BadMessages, s.dec.BadAttributes
	s.dec.Decode(typ, body, &s.msg)
	s.badMessages += s.dec.BadMessages - messages
	s.badAttributes += s.dec.BadAttributes - attributes
}

// interruptible runs wait, a blocking read of c, until it returns or ctx ends,
// and then returns ctx's error. The one who interrupts is joined, so that it
// cannot interrupt the next read.
func interruptible(ctx context.Context, c interface{ SetReadDeadline(time.Time) error }, wait func() error) error {
	deadline, _ := ctx.Deadline() // the zero time is none
	if err := c.SetReadDeadline(deadline); err != nil {
		return err
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = c.SetReadDeadline(time.Unix(1, 0)) // fails only when c is closed, which ends the read too
	})
	err := wait()
	if !stop() {
		<-interrupted
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return context.DeadlineExceeded // the socket's clock was ahead of the context's
	}
	return err
}

// answerTimeout is how long a question may take to be sent, and to be answered where the
// kernel answers at once. After EAGAIN Go's poller waits for a socket to become ready once
// more, and that does not happen to one that is.
const answerTimeout = 2 * time.Second

// readable reports whether there is something to read now, whatever the last read returned.
func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// dial opens one more socket in the namespace.
func (s *Source) dial() (*netlink.Conn, error) {
	cfg := &netlink.Config{}
	if !s.own {
		cfg.NetNS = int(s.netns.Fd())
	}
	return netlink.Dial(unix.NETLINK_ROUTE, cfg)
}

// Dump asks the kernel for all links and calls handle with each. The message is
// handle's until it returns, and so is the Reader's lock. Interrupted reports that
// the links changed meanwhile, so that some may be missing or there twice
// (NLM_F_DUMP_INTR): ask again. It ends with the context.
func (s *Source) Dump(ctx context.Context, handle func(*Message)) (interrupted bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if s.dumps == nil {
		if s.dumps, err = s.dial(); err != nil {
			return false, fmt.Errorf("netlink: dump: %w", err)
		}
	}
	interrupted, err = s.dump(ctx, handle)
	if err != nil {
		// What is left of this dump would be taken for the next one's reply.
		s.dumps.Close()
		s.dumps = nil
		return false, fmt.Errorf("netlink: dump: %w", err)
	}
	return interrupted, nil
}

func (s *Source) dump(ctx context.Context, handle func(*Message)) (interrupted bool, err error) {
	body, err := linkRequest(0, uapi.RTEXT_FILTER_SKIP_STATS|uapi.RTEXT_FILTER_VF)
	if err != nil {
		return false, err
	}
	if err := s.dumps.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
		return false, err
	}
	request, err := s.dumps.Send(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | netlink.Dump},
		Data:   body,
	})
	if err != nil {
		return false, err
	}
	raw, err := s.dumps.SyscallConn()
	if err != nil {
		return false, err
	}
	for done := false; !done; {
		var answer error
		err := interruptible(ctx, s.dumps, func() error {
			return raw.Read(func(fd uintptr) bool {
				s.Lock()
				defer s.Unlock()
				n, readErr := s.readWhole(int(fd))
				if readErr == unix.EAGAIN && !readable(int(fd)) {
					return false
				}
				answer = os.NewSyscallError("read", readErr)
				s.msg.Time = time.Now()
				s.decode(s.buf[:max(n, 0)], func(h header, body []byte) {
					if h.seq != request.Header.Sequence || done {
						return
					}
					interrupted = interrupted || h.flags&unix.NLM_F_DUMP_INTR != 0
					switch h.typ {
					case unix.NLMSG_DONE, unix.NLMSG_ERROR:
						done, answer = true, dumpError(body)
					default:
						s.decodeMessage(h.typ, body)
						handle(&s.msg)
					}
				})
				return true
			})
		})
		if err := errors.Join(err, answer); err != nil {
			return false, err
		}
	}
	return interrupted, nil
}

// NetnsID returns the id under which this Source's namespace knows another
// Source's, as in IFLA_NEW_NETNSID; ok is false when it does not. It does not wait,
// and may be called by a handle.
func (s *Source) NetnsID(other *Source) (id int32, ok bool, err error) {
	attrs := netlink.NewAttributeEncoder()
	attrs.Uint32(unix.NETNSA_FD, uint32(other.netns.Fd()))
	request, err := attrs.Encode()
	if err != nil {
		return 0, false, err
	}
	const rtgenmsg = 4 // struct rtgenmsg: a family, and up to where attributes start
	replies, err := s.ask(unix.RTM_GETNSID, append(make([]byte, rtgenmsg), request...))
	if err != nil {
		return 0, false, fmt.Errorf("netlink: namespace id: %w", err)
	}
	for _, reply := range replies {
		attributes(reply.Data[min(rtgenmsg, len(reply.Data)):], func(typ uint16, v []byte) {
			if typ == unix.NETNSA_NSID && len(v) == 4 {
				id = int32(binary.NativeEndian.Uint32(v))
				ok = id >= 0 // NETNSA_NSID_NOT_ASSIGNED
			}
		})
	}
	return id, ok, nil
}

// dumpError is the error number with which NLMSG_DONE and NLMSG_ERROR begin.
func dumpError(body []byte) error {
	if len(body) < 4 {
		return errors.New("short reply")
	}
	if errno := -int32(binary.NativeEndian.Uint32(body)); errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}
