package natsio

import (
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Many events that wait are written to the server as messages of NATS's protocol that we
// have made ourselves, beside what nats.go writes: to have it make each of a map of
// headers is half of what an event costs. For that, nats.go is given a dialer
// (nats.SetCustomDialer, its documented way), whose connections we can write to, too.
// nats.go writes only whole messages to them, and so do we.
//
// It is only for connections on which what we write is what the server reads: where
// there is TLS or a WebSocket in between, nats.go publishes. See WireOf.

// WireOf returns the connection that nc is connected by, if ready-made messages may be
// written to it, else nil.
func WireOf(nc *nats.Conn) *Wire {
	d, ok := nc.Opts.CustomDialer.(*dialer)
	if !ok {
		return nil
	}
	w := d.last.Load() // before IsConnected: so it is not one on which nats.go has not said CONNECT yet
	if !nc.IsConnected() || !nc.HeadersSupported() || strings.HasPrefix(nc.ConnectedUrl(), "ws") {
		return nil
	}
	if _, err := nc.TLSConnectionState(); err == nil {
		return nil
	}
	return w
}

// A Wire is a connection to a server, to which both nats.go and we write whole messages.
type Wire struct {
	net.Conn
	mu sync.Mutex // held for a message, or several, to go out whole
}

// Write is what nats.go calls.
func (w *Wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.write(b)
}

// write writes for who has the lock.
func (w *Wire) write(b []byte) (n int, err error) {
	defer func() { _ = w.Conn.SetWriteDeadline(time.Time{}) }()
	for {
		_ = w.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails on a closed connection, as Write does
		m, err := w.Conn.Write(b[:min(len(b), writePiece)])
		n, b = n+m, b[m:]
		if err != nil || len(b) == 0 {
			return n, err
		}
	}
}

// SetWriteDeadline does nothing: nats.go sets one before it waits for its turn to write, and
// takes it back afterwards, which would be that of the other one who writes. Each write has
// its own.
func (w *Wire) SetWriteDeadline(time.Time) error { return nil }

// connectTimeout is how long a server may take to accept a connection.
const connectTimeout = 3 * time.Second

// writeTimeout is how long the network may take for each piece of what is written, by us or by
// nats.go (whose FlusherTimeout has no effect on a Wire): one that takes less than 8 KiB a second
// is as good as none.
const (
	writeTimeout = 2 * time.Second
	writePiece   = 16 << 10
)

// Send writes messages. When it fails the connection is closed, since a part of a
// message may have gone out; nats.go connects again.
func (w *Wire) Send(messages []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.write(messages)
	if err != nil {
		_ = w.Close()
	}
	return err
}
