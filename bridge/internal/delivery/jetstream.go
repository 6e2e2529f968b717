package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/natsio"
)

// jetStream stores events in a stream: each once, in order, whatever
// fails in between, without relying on the stream's window for duplicates.
//
// One batch is on its way at a time, and its first message says behind which
// message of this host it belongs (Nats-Expected-Last-Subject-Sequence over
// <prefix>.<host>.*). The server refuses it when something else stands there:
// the batch itself, whose acknowledgment was lost, or another bridge's events.
// After any failure, a timeout above all, the last stored message tells which, and we go on behind it.
// The same condition is a fence against a second bridge under this name.
type jetStream struct {
	cfg     config.Config
	nc      *nats.Conn
	js      jetstream.JetStream
	log     *slog.Logger
	host    string         // all subjects of this host, "<prefix>.<token>.*"
	msg     *event.Message // where nats.go writes
	frames  *framer        // where we do
	answers *answers
	batch   int  // how many messages the stream takes as an atomic batch; 1: none
	single  bool // that is 1 for this call of Store alone
	atomic  bool // the stream takes batches, when it was looked at last

	story   toldStory
	known   bool          // whether lastSeq is true
	lastSeq uint64        // the stream sequence of this host's last message, 0: none
	found   Located       // that message, when it was looked for last
	created time.Time     // when the stream was made
	keeps   time.Duration // how long it keeps events; 0: for ever
	foreign uint64        // the stream sequence of a message that is no event, as last logged

	from      origin           // who has to confirm
	seen      bool             // the stream was there, and logged
	findings  []natsio.Finding // what is not as it should be, when it was looked at last
	logged    map[string]bool  // findings that were
	connected uint64           // the connection, by number, on which the server was looked at
	placed    bool             // a message was seen to be stored under its subject
	misplaced misplaced        // since when, and why, that is not so
	largest   atomic.Int64     // bytes that a message of the stream may have, 0: no limit

	already   atomic.Uint64 // events that were found stored: their acknowledgment was lost
	refused   atomic.Uint64 // publishes that the server refused: it had them already, or somebody else's
	elsewhere atomic.Bool   // streams elsewhere answer, too
}

var _ Delivery = (*jetStream)(nil)

func newJetStream(cfg config.Config, nc *nats.Conn, log *slog.Logger) (*jetStream, error) {
	js, err := natsio.JetStream(&cfg, nc)
	if err != nil {
		return nil, err
	}
	d := &jetStream{
		cfg: cfg, nc: nc, js: js, log: log, host: cfg.HostSubjects(),
		msg: event.NewMessage(cfg), frames: newFramer(cfg), logged: map[string]bool{},
	}
	d.answers = newAnswers(nc, d.heardElsewhere)
	return d, nil
}

// heardElsewhere logs that another stream answers to what is published, once.
func (d *jetStream) heardElsewhere(ack *acknowledgment) {
	d.elsewhere.Store(true)
	d.log.Warn("another stream stores what is published here, too; its acknowledgments are not ours",
		"their_stream", ack.Stream, "their_domain", ack.Domain, "stream", d.from.stream, "domain", d.from.domain,
		"advice", "have one of them take the other as its source, rather than these subjects")
}

// overhead is what a message has of headers besides its event's, at most, in bytes.
func (d *jetStream) overhead() int {
	const digits, id, names = 20, 37, 224 // TestOverhead
	return names + len(d.cfg.Stream) + digits + len(d.host) + id + digits
}

// Room implements [Delivery].
func (d *jetStream) Room() int64 {
	limit := d.nc.MaxPayload()
	if largest := d.largest.Load(); largest > 0 && (limit == 0 || largest < limit) {
		limit = largest
	}
	if limit == 0 {
		return 0
	}
	return max(limit-int64(d.overhead()), 1)
}

// Begin implements [Delivery].
func (d *jetStream) Begin(epoch string, told event.Mark) {
	d.story = toldStory{epoch: epoch, seq: told.Seq, streamSeq: told.StreamSeq, created: told.Created}
	d.known = false
}

// Told implements [Delivery].
func (d *jetStream) Told() event.Mark {
	return event.Mark{
		Epoch: d.story.epoch, Seq: d.story.seq, StreamSeq: d.story.streamSeq, Created: d.story.created,
	}
}

// Keeps implements [Delivery].
func (d *jetStream) Keeps() time.Duration { return d.keeps }

// Verify implements [Delivery].
func (d *jetStream) Verify(ctx context.Context) error {
	d.known = false
	_, err := d.Store(ctx, nil)
	return err
}

// Store implements [Delivery].
func (d *jetStream) Store(ctx context.Context, batch []event.Outgoing) (stored int, err error) {
	lastErr := d.nc.LastError()
	if err := d.misplaced.still(time.Now(), d.connection()); err != nil {
		return 0, err
	}
	if d.single { // what one of the last batch was refused for may be over
		d.known, d.single, d.batch = false, false, 0
	}
	for refusals := 0; !d.known || len(batch) > 0; {
		n := 0
		if d.known {
			n, err = d.send(ctx, batch)
		} else {
			n, err = d.locate(ctx, batch)
		}
		stored, batch = stored+n, batch[n:]
		if err == nil {
			continue
		}
		d.known = false
		switch {
		case d.batch > 1 && d.takesFewer(err):
		case IsJudgment(err):
			return stored, err
		case !natsio.IsStale(err) && !errors.Is(err, errDuplicate):
			return stored, d.explain(err, lastErr)
		default:
			d.refused.Add(1)
			if refusals++; refusals > 3 {
				return stored, d.explain(err, lastErr)
			}
		}
	}
	return stored, nil
}

// takesFewer reports whether the server would take fewer messages at once, or none but one
// by one, and has them sent like that.
func (d *jetStream) takesFewer(err error) bool {
	var large *TooLargeError
	switch {
	case natsio.IsBatchTooLarge(err):
		d.batch /= 2
	case natsio.IsFull(err), natsio.IsTooLarge(err) && !errors.As(err, &large): // for one of them, perhaps
		d.batch, d.single = 1, true
	case natsio.IsBatchRefused(err):
		d.batch = 1
		d.log.Warn("the server refuses batches of events; publishing one at a time, which is slower", "cause", err,
			"advice", "upgrade nats-server to 2.12.1 or later")
	default:
		return false
	}
	return true
}

// send stores one message, or as many as go into a batch.
func (d *jetStream) send(ctx context.Context, batch []event.Outgoing) (int, error) {
	if batch = batch[:min(len(batch), d.batch)]; !d.placed {
		batch = batch[:1]
	}
	batch, err := fitting(batch, d.Room())
	if err != nil {
		return 0, err
	}
	ack, err := d.request(ctx, batch)
	if err != nil {
		return 0, err
	}
	if !d.placed {
		if err := d.checkPlace(ctx, ack.Sequence); err != nil {
			return 0, err
		}
	}
	if ack.Duplicate { // the window for duplicates answered before the condition was looked at
		return 0, errDuplicate
	}
	d.confirm(batch, ack.Sequence)
	return len(batch), nil
}

// request publishes a batch, and waits for the answer.
func (d *jetStream) request(ctx context.Context, batch []event.Outgoing) (*acknowledgment, error) {
	reply, id, err := d.answers.next(ctx)
	if err != nil {
		return nil, err
	}
	if len(batch) == 1 {
		id = "" // it is no batch to the server
	}
	if err := d.publish(batch, id, reply); err != nil {
		return nil, err
	}
	ack, err := d.answers.await(ctx, reply, d.from)
	if err == nil && id != "" && (ack.BatchID != id || ack.BatchSize != len(batch)) {
		return nil, fmt.Errorf("acknowledgment of another batch: %+v", *ack)
	}
	return ack, err
}

// publish sends the messages of a batch, or one without an id of a batch. The last is
// answered.
func (d *jetStream) publish(batch []event.Outgoing, id, reply string) error {
	n := len(batch)
	extra := func(dst []byte, i int) []byte { return d.extra(dst, i, n, id) }
	if w := natsio.WireOf(d.nc); w != nil {
		return d.frames.send(w, batch, reply, extra)
	}
	for i := range batch {
		event.Yield(i)
		msg := d.msg.Of(&batch[i])
		names := setHeaders(msg.Header, extra(nil, i))
		if i == n-1 {
			msg.Reply = reply
		}
		err := d.nc.PublishMsg(msg)
		for _, name := range names {
			delete(msg.Header, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// extra appends the headers that the i-th of n messages has besides those of its event. Id
// is that of the batch, "": it is none.
func (d *jetStream) extra(dst []byte, i, n int, id string) []byte {
	if i == 0 { // the fence, its sequence in front of the subject, whose name begins as its own
		dst = appendHeader(dst, jetstream.ExpectedStreamHeader, d.cfg.Stream)
		dst = appendHeaderInt(dst, jetstream.ExpectedLastSubjSeqHeader, d.lastSeq)
		dst = appendHeader(dst, jetstream.ExpectedLastSubjSeqSubjHeader, d.host)
	}
	if id == "" {
		return dst
	}
	dst = appendHeader(dst, jetstreamext.BatchIDHeader, id)
	dst = appendHeaderInt(dst, jetstreamext.BatchSeqHeader, uint64(i+1))
	if i == n-1 {
		dst = appendHeader(dst, jetstreamext.BatchCommitHeader, "1")
	}
	return dst
}

// setHeaders sets headers that were appended, and returns their names.
func setHeaders(to nats.Header, block []byte) (names []string) {
	for line := range strings.Lines(string(block)) {
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
		to[name] = []string{value}
		names = append(names, name)
	}
	return names
}

// confirm takes note of events that were stored, the last of them at this place.
func (d *jetStream) confirm(events []event.Outgoing, streamSeq uint64) {
	d.lastSeq = streamSeq
	d.story.confirm(events, streamSeq)
}

var errDuplicate = errors.New("already stored")

// explain adds to an error what only the delivery knows; what it means, natsio tells.
func (d *jetStream) explain(err, lastErr error) error {
	refused := natsio.PermissionError(d.nc, lastErr)
	switch {
	case refused != nil && (d.seen || !natsio.IsRefusedUnder(refused, d.cfg.API()+".STREAM.")):
		return refused
	case refused != nil:
		return natsio.WithAdvice(refused, "grant it, or have the stream created by someone who may run: %s",
			natsio.AddCommand(&d.cfg, d.streamConfig()))
	case d.seen && errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("stream %s: %w: %w", d.cfg.Stream, jetstream.ErrNoStreamResponse, err)
	}
	return natsio.AdviseFull(err, d.findings)
}

// register registers what the delivery counts.
func (d *jetStream) register(to metrics.Registry) {
	to.CounterFunc("events_already_stored_total",
		"Events whose acknowledgment was lost, and that were found stored instead of being stored twice.",
		func() float64 { return float64(d.already.Load()) })
	to.CounterFunc("publish_refused_total",
		"Batches that the server refused because it had them already, or somebody else had written.",
		func() float64 { return float64(d.refused.Load()) })
	to.GaugeFunc("answered_elsewhere", "1 when another stream than ours stores what is published, too.",
		func() float64 { return metrics.Bool(d.elsewhere.Load()) })
}
