package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
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
	cfg    config.Config
	nc     *nats.Conn
	js     jetstream.JetStream
	log    *slog.Logger
	host   string // all subjects of this host, "<prefix>.<token>.*"
	one    *event.Message
	many   *event.Message // of a batch
	frames *framer        // of a batch, too
	batch  int            // how many messages the stream takes as an atomic batch; 1: none

	story   toldStory
	known   bool          // whether lastSeq is true
	lastSeq uint64        // the stream sequence of this host's last message, 0: none
	found   Located       // that message, when it was looked for last
	created time.Time     // when the stream was made
	keeps   time.Duration // how long it keeps events; 0: for ever
	seen    bool          // the stream was there, and logged
	foreign uint64        // the stream sequence of a message that is no event, as last logged

	already atomic.Uint64 // events that were found stored: their acknowledgment was lost
	refused atomic.Uint64 // publishes that the server refused: it had them already, or somebody else's
}

var _ Delivery = (*jetStream)(nil)

func newJetStream(cfg config.Config, nc *nats.Conn, log *slog.Logger) (*jetStream, error) {
	js, err := natsio.JetStream(&cfg, nc)
	if err != nil {
		return nil, err
	}
	return &jetStream{
		cfg: cfg, nc: nc, js: js, log: log, host: cfg.Prefix + "." + cfg.Token + ".*",
		one: event.NewMessage(cfg), many: event.NewMessage(cfg), frames: newFramer(cfg),
	}, nil
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
	for refusals := 0; !d.known || len(batch) > 0; {
		n := 0
		if d.known {
			n, err = d.send(ctx, batch)
		} else {
			n, err = d.locate(ctx, batch)
		}
		stored, batch = stored+n, batch[n:]
		if err != nil {
			d.known = false
			if isTooLarge(err) && d.batch > 1 {
				d.batch /= 2
				continue
			}
			if isBatchRefused(err) && d.batch > 1 {
				d.batch = 1
				d.log.Warn("the server refuses batches of events; publishing one at a time, which is slower", "cause", err,
					"advice", "upgrade nats-server to 2.12.1 or later")
				continue
			}
			var broken *BrokenStoryError
			var replaced *ReplacedError
			if errors.As(err, &broken) || errors.As(err, &replaced) {
				return stored, err
			}
			if !isRefusal(err) {
				return stored, d.explain(err, lastErr)
			}
			d.refused.Add(1)
			if refusals++; refusals > 3 {
				return stored, d.explain(err, lastErr)
			}
		}
	}
	return stored, nil
}

// isRefusal reports whether the server answered that something else stands where
// the message belongs, or that it is there already: what is stored will tell.
func isRefusal(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant,
			errCodeBatchDuplicate:
			return true
		}
	}
	return errors.Is(err, errDuplicate)
}

// isTooLarge reports whether the server takes fewer messages as a batch.
func isTooLarge(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == errCodeBatchTooLarge
}

// isBatchRefused reports whether the server does not take batches, or not such as ours.
func isBatchRefused(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == errCodeBatchDisabled || api.ErrorCode == errCodeBatchHeader)
}

const (
	// errCodeBatchDisabled is the server's JSAtomicPublishDisabledErr, and
	// errCodeBatchHeader its JSAtomicPublishUnsupportedHeaderBatchErr: 2.12.0 takes no
	// Nats-Msg-Id in a batch.
	errCodeBatchDisabled jetstream.ErrorCode = 10174
	errCodeBatchHeader   jetstream.ErrorCode = 10177
)

// errCodeBatchTooLarge is the server's JSAtomicPublishTooLargeBatchErrF.
const errCodeBatchTooLarge jetstream.ErrorCode = 10199

// errCodeBatchDuplicate is the server's JSAtomicPublishContainsDuplicateMessageErr.
const errCodeBatchDuplicate jetstream.ErrorCode = 10201

// send stores one message, or as many as go into a batch.
func (d *jetStream) send(ctx context.Context, batch []event.Outgoing) (int, error) {
	if batch = batch[:min(len(batch), d.batch)]; len(batch) == 1 {
		ack, err := d.js.PublishMsg(ctx, d.one.Of(&batch[0]), jetstream.WithRetryAttempts(0),
			jetstream.WithExpectStream(d.cfg.Stream), jetstream.WithExpectLastSequenceForSubject(d.lastSeq, d.host))
		if err != nil {
			return 0, err
		}
		if ack.Duplicate { // the window for duplicates answered before the condition was looked at
			return 0, errDuplicate
		}
		d.confirm(batch, ack.Sequence)
		return 1, nil
	}
	if w := natsio.WireOf(d.nc); w != nil {
		return d.sendFrames(ctx, w, batch)
	}
	// No flow control: what is wrong with an earlier message, the commit is told.
	publisher, err := jetstreamext.NewBatchPublisher(d.js,
		jetstreamext.BatchFlowControl{AckTimeout: natsio.ConfirmTimeout})
	if err != nil {
		return 0, err
	}
	fence := jetstreamext.WithBatchExpectLastSequenceForSubject(d.lastSeq, d.host)
	last := len(batch) - 1
	for i := range batch[:last] {
		event.Yield(i)
		var opts []jetstreamext.BatchMsgOpt
		if i == 0 {
			opts = append(opts, fence, jetstreamext.WithBatchExpectStream(d.cfg.Stream))
		}
		if err := publisher.AddMsg(d.many.Of(&batch[i]), opts...); err != nil {
			return 0, err
		}
		if i == 0 { // the fence is its alone
			maps.DeleteFunc(d.many.Header, func(name string, _ []string) bool {
				return strings.HasPrefix(name, expectHeader)
			})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, natsio.ConfirmTimeout)
	defer cancel()
	defer delete(d.many.Header, jetstreamext.BatchCommitHeader)
	ack, err := publisher.CommitMsg(ctx, d.many.Of(&batch[last]))
	if err != nil {
		return 0, err
	}
	d.confirm(batch, ack.Sequence)
	return len(batch), nil
}

// sendFrames is send of a batch to a connection that takes ready-made messages.
func (d *jetStream) sendFrames(ctx context.Context, to *natsio.Wire, batch []event.Outgoing) (int, error) {
	id, last := nuid.Next(), len(batch)-1
	err := d.frames.send(to, batch[:last], func(dst []byte, i int) []byte {
		if i == 0 { // the fence
			dst = appendHeader(dst, jetstream.ExpectedStreamHeader, d.cfg.Stream)
			dst = appendHeaderInt(dst, jetstream.ExpectedLastSubjSeqHeader, d.lastSeq)
			dst = appendHeader(dst, jetstream.ExpectedLastSubjSeqSubjHeader, d.host)
		}
		dst = appendHeader(dst, jetstreamext.BatchIDHeader, id)
		return appendHeaderInt(dst, jetstreamext.BatchSeqHeader, uint64(i+1))
	})
	if err != nil {
		return 0, err
	}
	msg := d.many.Of(&batch[last])
	commit := nats.Msg{Subject: msg.Subject, Data: msg.Data, Header: maps.Clone(msg.Header)}
	commit.Header.Set(jetstreamext.BatchIDHeader, id)
	commit.Header.Set(jetstreamext.BatchSeqHeader, strconv.Itoa(len(batch)))
	commit.Header.Set(jetstreamext.BatchCommitHeader, "1")
	ctx, cancel := context.WithTimeout(ctx, natsio.ConfirmTimeout)
	defer cancel()
	answer, err := d.nc.RequestMsgWithContext(ctx, &commit)
	if err != nil {
		return 0, err
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		jetstreamext.BatchAck
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return 0, fmt.Errorf("acknowledgment of a batch: %w", err)
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	if ack.BatchID != id || ack.BatchSize != uint64(len(batch)) {
		return 0, fmt.Errorf("acknowledgment of another batch: %s", answer.Data)
	}
	d.confirm(batch, ack.Sequence)
	return len(batch), nil
}

// confirm takes note of events that were stored, the last of them at this place.
func (d *jetStream) confirm(events []event.Outgoing, streamSeq uint64) {
	d.lastSeq = streamSeq
	d.story.confirm(events, streamSeq)
}

var errDuplicate = errors.New("already stored")

// expectHeader is what the names of headers begin with that are conditions.
const expectHeader = "Nats-Expected-"

// explain adds to an error what only the delivery knows; what it means, natsio tells.
func (d *jetStream) explain(err, lastErr error) error {
	refused := natsio.PermissionError(d.nc, lastErr)
	switch {
	case refused != nil && (d.known || d.seen):
		return refused
	case refused != nil:
		return natsio.WithAdvice(refused, "grant it, or have the stream created by someone who may run: %s",
			natsio.AddCommand(d.streamConfig()))
	case d.seen && errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("stream %s: %w: %w", d.cfg.Stream, jetstream.ErrNoStreamResponse, err)
	}
	return err
}

// register registers what the delivery counts.
func (d *jetStream) register(to metrics.Registry) {
	to.CounterFunc("events_already_stored_total",
		"Events whose acknowledgment was lost, and that were found stored instead of being stored twice.",
		func() float64 { return float64(d.already.Load()) })
	to.CounterFunc("publish_refused_total",
		"Batches that the server refused because it had them already, or somebody else had written.",
		func() float64 { return float64(d.refused.Load()) })
}
