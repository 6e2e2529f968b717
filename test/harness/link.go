package harness

import (
	"fmt"
	"net"
	"testing"
	"time"

	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// A NetworkLink is what lies between a bridge and a server.
type NetworkLink struct {
	Delay time.Duration // in each direction
}

// Through returns where a server is found behind a link. It ends with the test.
func (l NetworkLink) Through(t testing.TB, s *natstest.Server) (url string) {
	t.Helper()
	place := netnstest.Where(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Must(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := place.Dial("tcp", net.JoinHostPort(s.Host, fmt.Sprint(s.Port)))
			if err != nil {
				c.Close()
				continue
			}
			go carry(to, c, l.Delay)
			go carry(c, to, l.Delay)
		}
	}()
	return "nats://" + listener.Addr().String()
}

// linkChunk is how many bytes are carried at once.
const linkChunk = 4096

// carry writes to one connection what comes from another, that much later, until one of them
// ends.
func carry(to, from net.Conn, delay time.Duration) {
	type chunk struct {
		due  time.Time
		data []byte
	}
	chunks := make(chan chunk, 4096) // of what is on its way
	go func() {
		defer close(chunks)
		for {
			data := make([]byte, linkChunk)
			n, err := from.Read(data)
			if err != nil {
				return
			}
			chunks <- chunk{time.Now().Add(delay), data[:n]}
		}
	}()
	for c := range chunks {
		<-time.After(time.Until(c.due))
		if _, err := to.Write(c.data); err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	for range chunks { // until its reader has ended
	}
}
