package delivery

import (
	"strconv"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/schema"
)

// A framer makes messages of events, and sends them many at a time.
type framer struct {
	publish [3]string // by schema.Kind: what a message begins with
	buf     []byte    // messages
	extra   []byte    // headers of one
}

// frameBytes is how much is written at once.
const frameBytes = 128 << 10

// ManyEvents is how many events are worth a write of their own.
const ManyEvents = 16

func newFramer(cfg config.Config) *framer {
	f := &framer{}
	for _, kind := range []schema.Kind{schema.New, schema.Del} {
		f.publish[kind] = "HPUB " + schema.Subject(cfg.Prefix, cfg.Token, kind) + " "
	}
	return f
}

// send sends each event of a batch as a message with, besides its own, the headers that
// extra appends, if there is an extra, and in front of them: so that a server which finds
// a header by its name finds the one that is meant. The last one has a reply subject, if
// there is one.
func (f *framer) send(
	wire *natsio.Wire, batch []event.Outgoing, reply string, extra func(dst []byte, i int) []byte,
) error {
	f.buf = f.buf[:0]
	for i := range batch {
		event.Yield(i)
		last := i == len(batch)-1
		to := ""
		if last {
			to = reply
		}
		f.add(&batch[i], i, to, extra)
		if len(f.buf) >= frameBytes || last {
			if err := wire.Send(f.buf); err != nil {
				return err
			}
			f.buf = f.buf[:0]
		}
	}
	return nil
}

const headerLine = "NATS/1.0\r\n"

// add appends the message of an event, the i-th of a batch: HPUB <subject> [<reply>] <size of
// headers> <size> CR LF headers CR LF data CR LF.
func (f *framer) add(o *event.Outgoing, i int, reply string, extra func([]byte, int) []byte) {
	if f.extra = f.extra[:0]; extra != nil {
		f.extra = extra(f.extra, i)
	}
	head := len(headerLine) + len(o.Headers.Block) + len(f.extra) + len("\r\n")
	b := append(f.buf, f.publish[o.Labels.Kind]...)
	if reply != "" {
		b = append(append(b, reply...), ' ')
	}
	b = strconv.AppendInt(b, int64(head), 10)
	b = strconv.AppendInt(append(b, ' '), int64(head+len(o.Data)), 10)
	b = append(append(append(b, "\r\n"+headerLine...), f.extra...), o.Headers.Block...)
	f.buf = append(append(append(b, "\r\n"...), o.Data...), "\r\n"...)
}

// appendHeader appends a header.
func appendHeader(dst []byte, name, value string) []byte {
	return append(append(append(append(dst, name...), ": "...), value...), "\r\n"...)
}

func appendHeaderInt(dst []byte, name string, value uint64) []byte {
	return append(strconv.AppendUint(append(append(dst, name...), ": "...), value, 10), "\r\n"...)
}
