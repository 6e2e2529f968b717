package netlinksrc

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// slots is how many messages one call takes from a socket. A call costs about as
	// much as two messages: 16 of them read with one cost 0.7 µs each, with one call
	// each 2.3 µs (on the kernel 6.18 of a virtual machine).
	slots = 64

	// slotSize is larger than notifications are, 1.5 KiB or so: of a link's attributes
	// only its alternative names have no limit, and 8 KiB are 50 of the longest. A
	// larger one is cut off, and asked for again (large.go).
	slotSize = 8 << 10
)

// A batch is where messages are read into.
type batch struct {
	buf   []byte
	iov   [slots]unix.Iovec
	heads [slots]mmsghdr
}

// mmsghdr is struct mmsghdr (recvmmsg(2)): Go aligns it as C does.
type mmsghdr struct {
	unix.Msghdr
	len uint32
}

func newBatch() *batch {
	b := &batch{buf: make([]byte, slots*slotSize)}
	for i := range b.heads {
		b.iov[i].Base = &b.buf[i*slotSize]
		b.iov[i].SetLen(slotSize)
		b.heads[i].Iov = &b.iov[i]
		b.heads[i].SetIovlen(1)
	}
	return b
}

// read takes what a socket has, up to slots messages, and does not wait: so the
// scheduler need not hear of the call, which it would answer with another thread.
func (b *batch) read(fd int) (n int, err error) {
	got, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.heads[0])), slots, unix.MSG_DONTWAIT, 0, 0)
	runtime.KeepAlive(b)
	if errno != 0 {
		return 0, errno
	}
	return int(got), nil
}

// message returns one of those that were read, until the next read. It is cut off
// when it was larger than a slot.
func (b *batch) message(i int) (data []byte, cut bool) {
	h := &b.heads[i]
	return b.buf[i*slotSize:][:h.len], h.Flags&unix.MSG_TRUNC != 0
}
