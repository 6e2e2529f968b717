package netlinksrc

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Passes reports whether a failure may end by itself, so that the same call is worth
// another try: the kernel or the process was short of memory, buffers or descriptors, the
// call was interrupted, or not answered in time. Any socket call may fail so; it says
// nothing of the links.
func Passes(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	for _, passing := range []unix.Errno{
		unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EAGAIN, unix.EMFILE, unix.ENFILE, unix.ENOSPC, unix.EBUSY,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// refused names what a sandbox does not let a process do, where that is why a socket for
// notifications cannot be had.
func refused(err error) error {
	for _, refusal := range []unix.Errno{
		unix.EPERM, unix.EACCES, unix.ENOSYS, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.ESOCKTNOSUPPORT,
	} {
		if errors.Is(err, refusal) {
			const by = "this kernel or sandbox (gVisor, seccomp)"
			var call *os.SyscallError
			if errors.As(err, &call) && call.Syscall == "bind" {
				return fmt.Errorf("%w; %s gives no multicast groups of rtnetlink, and so no notifications of links", err, by)
			}
			return fmt.Errorf("%w; %s gives no rtnetlink notifications of links", err, by)
		}
	}
	return err
}
