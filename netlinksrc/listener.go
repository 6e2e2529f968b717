package netlinksrc

import (
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A listener is the socket of notifications, and a bell that rings when there are some
// while somebody waits for them.
//
// Go's poller is woken by every notification, whether anybody waits or not: in a storm
// that is a wake-up of a thread for each, also while the reader reads, or pauses so that
// many come together. So the socket is not in Go's poller. It is in an epoll of its
// own, which is in Go's poller, and in which it stands armed only while the reader waits:
// a third of what an event costs in a storm is saved by that.
type listener struct {
	fd   int // the socket
	bell *os.File
	raw  syscall.RawConn // of bell
	epfd int             // its descriptor
}

// listen takes the socket of a connection over, and closes the connection.
func listen(conn *netlink.Conn) (*listener, error) {
	fd, err := duplicate(conn)
	if err := errors.Join(err, conn.Close()); err != nil {
		return nil, err
	}
	l := &listener{fd: fd}
	if err := l.hang(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// duplicate returns a descriptor of a connection's socket that Go's poller does not know.
func duplicate(conn *netlink.Conn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	ctlErr := raw.Control(func(own uintptr) {
		fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0)
		err = os.NewSyscallError("fcntl", err)
	})
	return fd, errors.Join(ctlErr, err)
}

// hang makes the bell, and puts it into Go's poller.
func (l *listener) hang() (err error) {
	if l.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(l.epfd, true) // asks os.NewFile to put it into the poller; it cannot fail
	l.bell = os.NewFile(uintptr(l.epfd), "netlink notifications")
	if err := l.ctl(unix.EPOLL_CTL_ADD, 0); err != nil {
		return err
	}
	if l.raw, err = l.bell.SyscallConn(); err != nil {
		return err
	}
	return l.bell.SetReadDeadline(time.Time{}) // fails when it is not in the poller
}

func (l *listener) ctl(op int, events uint32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.epfd, op, l.fd, &unix.EpollEvent{Events: events, Fd: int32(l.fd)}))
}

// Read calls read, which does not wait, until it returns true: at once, and then each
// time that there is something to read. It ends with the read deadline, too.
func (l *listener) Read(read func(fd int) bool) error {
	armed := false
	arm := func(events uint32) error {
		armed = events != 0
		return l.ctl(unix.EPOLL_CTL_MOD, events)
	}
	var failed error
	err := l.raw.Read(func(uintptr) (done bool) {
		if armed {
			if failed = arm(0); failed != nil {
				return true
			}
		}
		if read(l.fd) {
			return true
		}
		if failed = arm(unix.EPOLLIN); failed != nil {
			return true
		}
		// What came since that look may not ring: the epoll may still have the socket among
		// those that are ready, from the last ring, and to arm it rings only for one that
		// becomes ready (ep_modify in the kernel). What comes after this look does ring.
		return read(l.fd)
	})
	if armed { // it was read, or the deadline is over
		failed = errors.Join(failed, arm(0))
	}
	return errors.Join(err, failed)
}

// Control calls f with the socket, which stays open until f returns.
func (l *listener) Control(f func(fd int)) error {
	return l.raw.Control(func(uintptr) { f(l.fd) })
}

// SetReadDeadline ends a Read then, or, in the past, at once.
func (l *listener) SetReadDeadline(t time.Time) error { return l.bell.SetReadDeadline(t) }

// Close closes the socket. Nothing may be under way on it.
func (l *listener) Close() error {
	var err error
	if l.bell != nil {
		err = l.bell.Close()
	}
	return errors.Join(err, os.NewSyscallError("close", unix.Close(l.fd)))
}
