package netlinksrc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ifacebridge/netlinksrc/internal/uapi"
)

// A link's message has no limit: 80 alternative names are 10 KiB, 500 are 64. What is
// larger than the room for it is cut off (MSG_TRUNC). A dump is read with a buffer that
// is made large enough first; a notification that was cut is asked for again, alone.

// linkRequest is the body of an RTM_GETLINK for one link, or for all (0). The filter
// (RTEXT_FILTER_*) says what else the answer shall have, or not have.
func linkRequest(index int32, filter uint32) ([]byte, error) {
	return (&rtnetlink.LinkMessage{Index: uint32(index), Attributes: &rtnetlink.LinkAttributes{ExtMask: &filter}}).MarshalBinary()
}

// readWhole reads what is next on a socket into the Reader's buffer, which it makes
// large enough for it. It does not wait.
func (s *Source) readWhole(fd int) (n int, err error) {
	size, err := recvfrom(fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT)
	if err != nil {
		return 0, err
	}
	if size > len(s.buf) {
		s.buf = make([]byte, 2*size)
	}
	n, err = recvfrom(fd, s.buf, unix.MSG_TRUNC|unix.MSG_DONTWAIT)
	if n > len(s.buf) {
		return 0, unix.EMSGSIZE // somebody else reads this socket
	}
	return n, err
}

// recvfrom is recvfrom(2), again when a signal has interrupted it: what is there would not
// wake up anybody who waits for more.
func recvfrom(fd int, buf []byte, flags int) (n int, err error) {
	for {
		if n, _, err = unix.Recvfrom(fd, buf, flags); err != unix.EINTR {
			return n, err
		}
	}
}

// takeCut handles a notification that was cut off: what it says is asked for again. Of a
// link that is gone nobody can ask, but all that its last message says stands in front of
// the names. It reports false when the notification is lost.
func (s *Source) takeCut(data []byte, handle func(*Message)) bool {
	if len(data) < unix.NLMSG_HDRLEN+unix.SizeofIfInfomsg {
		return s.lost()
	}
	typ, body := binary.NativeEndian.Uint16(data[4:]), data[unix.NLMSG_HDRLEN:]
	bad := s.dec.BadAttributes
	s.dec.Decode(typ, body, &s.msg)
	s.dec.BadAttributes = bad // the one that was cut
	switch s.msg.Kind {
	case Del:
		handle(&s.msg)
		return true
	case New:
		return s.again(handle)
	}
	return s.lost()
}

// again asks for the link that the message is about, and handles the answer in its place.
func (s *Source) again(handle func(*Message)) bool {
	reason := s.msg.Link.Reason
	request, err := linkRequest(s.msg.Link.Index, uapi.RTEXT_FILTER_SKIP_STATS)
	if err != nil {
		return s.lost()
	}
	replies, err := s.ask(unix.RTM_GETLINK, request)
	switch {
	case errors.Is(err, unix.ENODEV): // it went meanwhile, which is announced
		return true
	case err != nil || len(replies) != 1:
		return s.lost()
	}
	s.decodeMessage(uint16(replies[0].Header.Type), replies[0].Data)
	s.msg.Link.Reason = reason
	handle(&s.msg)
	return true
}

// lost counts a notification of which nothing is known.
func (s *Source) lost() bool {
	s.badMessages++
	s.overruns++
	return false
}

// ask asks the kernel a question that it answers at once, on a socket of its own. It does
// not wait, and may be called by a handle.
func (s *Source) ask(typ uint16, body []byte) (replies []netlink.Message, err error) {
	if s.asks == nil {
		if s.asks, err = s.dial(); err != nil {
			return nil, fmt.Errorf("netlink: %w", err)
		}
	}
	if err = s.asks.SetDeadline(time.Now().Add(answerTimeout)); err == nil {
		replies, err = s.asks.Execute(netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request}, Data: body,
		})
	}
	if Passes(err) { // the answer may still come, and be taken for the next one's
		s.asks.Close()
		s.asks = nil
	}
	return replies, err
}
