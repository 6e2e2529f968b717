package netlinksrc

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/test/harness"
)

// What comes between a read that finds nothing and the wait is not waited for: the kernel
// does not ring again for a socket that it has rung for (ep_modify leaves out one that is
// in the list of the ready).
func TestListenerLosesNoWakeUp(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	l := &listener{fd: fds[0]}
	if err := l.hang(); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	send := func() {
		if _, err := unix.Write(fds[1], []byte{1}); err != nil {
			t.Error(err)
		}
	}
	receive := func(fd int) bool {
		_, err := unix.Read(fd, make([]byte, 1))
		return err == nil
	}
	for range 20 {
		if err := l.SetReadDeadline(time.Now().Add(harness.Patience)); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Millisecond, send) // while it is waited for
		if err := l.Read(receive); err != nil {
			t.Fatal("the one that rings:", err)
		}
		late := false
		err := l.Read(func(fd int) bool {
			if receive(fd) {
				return true
			}
			if !late { // it comes just after the look
				late = true
				send()
			}
			return false
		})
		if err != nil {
			t.Fatal("the one that comes between a look and the wait:", err)
		}
	}
}
