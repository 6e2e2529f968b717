package netnstest

import (
	"os"

	"golang.org/x/sys/unix"
)

// OpenTap makes a tap link that lives as long as the file.
func (k *Kernel) OpenTap(name string) (*os.File, error) {
	fd := -1
	err := k.Do(func() (err error) { // the link is in the namespace of the thread that opens the file
		fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, os.NewSyscallError("open /dev/net/tun", err)
	}
	f := os.NewFile(uintptr(fd), "/dev/net/tun")
	req, err := unix.NewIfreq(name)
	if err != nil {
		f.Close()
		return nil, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		f.Close()
		return nil, os.NewSyscallError("TUNSETIFF", err)
	}
	return f, nil
}
