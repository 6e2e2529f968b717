package bridge

import (
	"context"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/schema"
)

// Many events that wait are written to the server as messages of NATS's protocol that we
// have made ourselves, beside what nats.go writes: to have it make each of a map of
// headers is half of what an event costs. For that, nats.go is given a dialer
// (nats.SetCustomDialer, its documented way), whose connections we can write to, too.
// nats.go writes only whole messages to them, and so do we.
//
// It is only for connections on which what we write is what the server reads: where
// there is TLS or a WebSocket in between, nats.go publishes. See wireOf.

// A dialer makes the connections that nats.go uses, and remembers the last one.
type dialer struct {
	net.Dialer
	last atomic.Pointer[wire]
}

func newDialer(timeout time.Duration) *dialer { return &dialer{Dialer: net.Dialer{Timeout: timeout}} }

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	c, err := d.DialContext(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: c}
	d.last.Store(w)
	return w, nil
}

// wireOf returns the connection that nc is connected by, if ready-made messages may be
// written to it, else nil.
func wireOf(nc *nats.Conn) *wire {
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

// A wire is a connection to a server, to which both nats.go and we write whole messages.
type wire struct {
	net.Conn
	mu sync.Mutex // held for a message, or several, to go out whole
}

// Write is what nats.go calls.
func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Conn.Write(b)
}

// connectTimeout is how long a server may take to accept a connection.
const connectTimeout = 3 * time.Second

// writeTimeout is how long the network may take for what is written; it is nats.go's
// FlusherTimeout, too.
const writeTimeout = 2 * time.Second

// send writes messages. When it fails the connection is closed, since a part of a
// message may have gone out; nats.go connects again.
func (w *wire) send(messages []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails on a closed connection, as Write does
	_, err := w.Conn.Write(messages)
	_ = w.SetWriteDeadline(time.Time{})
	if err != nil {
		_ = w.Close()
	}
	return err
}

// frames makes messages of events, and sends them many at a time.
type frames struct {
	publish [3]string // by schema.Kind: what a message begins with
	buf     []byte    // messages
	extra   []byte    // headers of one
}

// frameBytes is how much is written at once.
const frameBytes = 128 << 10

// manyEvents is how many events are worth a write of their own.
const manyEvents = 16

func newFrames(cfg Config) *frames {
	f := &frames{}
	for _, kind := range []schema.Kind{schema.New, schema.Del} {
		f.publish[kind] = "HPUB " + schema.Subject(cfg.Prefix, cfg.Token, kind) + " "
	}
	return f
}

// send sends each event of a batch as a message with, besides its own, the headers that
// extra appends, if there is an extra.
func (f *frames) send(to *wire, batch []outgoing, extra func(dst []byte, i int) []byte) error {
	f.buf = f.buf[:0]
	for i := range batch {
		yield(i)
		f.add(&batch[i], i, extra)
		if len(f.buf) >= frameBytes || i == len(batch)-1 {
			if err := to.send(f.buf); err != nil {
				return err
			}
			f.buf = f.buf[:0]
		}
	}
	return nil
}

const headerLine = "NATS/1.0\r\n"

// add appends the message of an event: HPUB <subject> <size of headers> <size> CR LF
// headers CR LF data CR LF.
func (f *frames) add(o *outgoing, i int, extra func([]byte, int) []byte) {
	if f.extra = f.extra[:0]; extra != nil {
		f.extra = extra(f.extra, i)
	}
	head := len(headerLine) + len(o.headers.block) + len(f.extra) + len("\r\n")
	b := append(f.buf, f.publish[o.labels.kind]...)
	b = strconv.AppendInt(b, int64(head), 10)
	b = strconv.AppendInt(append(b, ' '), int64(head+len(o.data)), 10)
	b = append(append(append(b, "\r\n"+headerLine...), o.headers.block...), f.extra...)
	f.buf = append(append(append(b, "\r\n"...), o.data...), "\r\n"...)
}

// appendHeader appends a header.
func appendHeader(dst []byte, name, value string) []byte {
	return append(append(append(append(dst, name...), ": "...), value...), "\r\n"...)
}

func appendHeaderInt(dst []byte, name string, value uint64) []byte {
	return append(strconv.AppendUint(append(append(dst, name...), ": "...), value, 10), "\r\n"...)
}
