package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A storm changes the alias of one link, which the kernel announces each time.
// What it changes it to ends with a number that counts up, or the time.
type storm struct {
	fd    int
	msg   []byte
	alias []byte // in msg
}

// aliasLen is the length of the alias: what a name and a time in nanoseconds take.
const aliasLen = 24

func newStorm(link int32) (*storm, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	msg := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg+unix.SizeofRtAttr+aliasLen)
	binary.NativeEndian.PutUint32(msg[0:], uint32(len(msg)))
	binary.NativeEndian.PutUint16(msg[4:], unix.RTM_NEWLINK)
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(msg[unix.SizeofNlMsghdr+4:], uint32(link))
	attr := msg[unix.SizeofNlMsghdr+unix.SizeofIfInfomsg:]
	binary.NativeEndian.PutUint16(attr[0:], uint16(len(attr)))
	binary.NativeEndian.PutUint16(attr[2:], unix.IFLA_IFALIAS)
	return &storm{fd, msg, attr[unix.SizeofRtAttr:]}, nil
}

func (s *storm) close() { _ = unix.Close(s.fd) }

func (s *storm) change(n int64) error {
	copy(s.alias, fmt.Appendf(nil, "%0*d", aliasLen, n))
	return os.NewSyscallError("sendto", unix.Sendto(s.fd, s.msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

// run makes n changes at full speed. The kernel handles each in the call, so no
// answer is waited for.
func (s *storm) run(n int) (time.Duration, error) {
	began := time.Now()
	for i := range n {
		digits := s.alias
		for v, at := i+1, len(digits)-1; at >= 0; at-- {
			digits[at] = byte('0' + v%10)
			v /= 10
		}
		if err := unix.Sendto(s.fd, s.msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return 0, os.NewSyscallError("sendto", err)
		}
	}
	return time.Since(began), nil
}

// stamp makes n changes at a rate, each to the time at which it was made.
func (s *storm) stamp(n, perSecond int) error {
	ticker := time.NewTicker(time.Second / time.Duration(perSecond))
	defer ticker.Stop()
	for range n {
		<-ticker.C
		if err := s.change(time.Now().UnixNano()); err != nil {
			return err
		}
	}
	return nil
}
