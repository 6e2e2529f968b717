package bridge

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
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/schema"
)

// jetStreamDelivery stores events in a stream: each once, in order, whatever
// fails in between, without relying on the stream's window for duplicates.
//
// One batch is on its way at a time, and its first message says behind which
// message of this host it belongs (Nats-Expected-Last-Subject-Sequence over
// <prefix>.<host>.*). The server refuses it when something else stands there:
// the batch itself, whose acknowledgment was lost, or another bridge's events.
// After any failure the last stored message tells which, and we go on behind it.
// The same condition is a fence against a second bridge under this name.
type jetStreamDelivery struct {
	cfg    config.Config
	nc     *nats.Conn
	js     jetstream.JetStream
	log    *slog.Logger
	host   string // all subjects of this host, "<prefix>.<token>.*"
	one    *message
	many   *message // of a batch
	frames *frames  // of a batch, too
	batch  int      // how many messages the stream takes as an atomic batch; 1: none

	epoch   string        // that events are stored of
	wrote   bool          // some of it are in the stream
	known   bool          // whether lastSeq is true
	lastSeq uint64        // the stream sequence of this host's last message, 0: none
	found   *schema.Event // that message, when it was looked for last
	seen    bool          // the stream was there, and logged

	already atomic.Uint64 // events that were found stored: their acknowledgment was lost
	refused atomic.Uint64 // publishes that the server refused: it had them already, or somebody else's
}

var _ delivery = (*jetStreamDelivery)(nil)

func newJetStreamDelivery(cfg config.Config, nc *nats.Conn, log *slog.Logger) (*jetStreamDelivery, error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(natsio.ConfirmTimeout))
	if err != nil {
		return nil, err
	}
	return &jetStreamDelivery{cfg: cfg, nc: nc, js: js, log: log, host: cfg.Prefix + "." + cfg.Token + ".*",
		one: newMessage(cfg), many: newMessage(cfg), frames: newFrames(cfg)}, nil
}

// FencedError says that another bridge has taken this host's name: it has stored
// events behind ours.
type FencedError struct {
	Host          string // the name
	Epoch, BootID string // of the bridge that writes now
	Since         time.Time
}

func (e *FencedError) Error() string {
	return fmt.Sprintf("another bridge writes as host %q: epoch %s on boot %s, since %s; give each host a name of its own (IFACE_HOST) and run one bridge for it",
		e.Host, e.Epoch, e.BootID, e.Since.UTC().Format(time.RFC3339))
}

func (d *jetStreamDelivery) begin(epoch string, wrote bool) {
	d.epoch, d.wrote, d.known = epoch, wrote, false
}

func (d *jetStreamDelivery) last() *schema.Event { return d.found }

func (d *jetStreamDelivery) store(ctx context.Context, batch []outgoing) (stored int, err error) {
	lastErr := d.nc.LastError()
	if len(batch) == 0 {
		d.known = false // asked to look
	}
	for refusals := 0; !d.known || len(batch) > 0; {
		n := 0
		if d.known {
			n, err = d.send(ctx, batch)
		} else if err = d.prepareStream(ctx); err == nil {
			n, err = d.findLast(ctx, batch)
		}
		stored, batch = stored+n, batch[n:]
		if err != nil {
			d.known = false
			if isTooLarge(err) && d.batch > 1 {
				d.batch /= 2
				continue
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
		case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant, errCodeBatchDuplicate:
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

// errCodeBatchTooLarge is the server's JSAtomicPublishTooLargeBatchErrF.
const errCodeBatchTooLarge jetstream.ErrorCode = 10199

// errCodeBatchDuplicate is the server's JSAtomicPublishContainsDuplicateMessageErr.
const errCodeBatchDuplicate jetstream.ErrorCode = 10201

// send stores one message, or as many as go into a batch.
func (d *jetStreamDelivery) send(ctx context.Context, batch []outgoing) (int, error) {
	if batch = batch[:min(len(batch), d.batch)]; len(batch) == 1 {
		ack, err := d.js.PublishMsg(ctx, d.one.of(&batch[0]), jetstream.WithRetryAttempts(0),
			jetstream.WithExpectStream(d.cfg.Stream), jetstream.WithExpectLastSequenceForSubject(d.lastSeq, d.host))
		if err != nil {
			return 0, err
		}
		if ack.Duplicate { // the window for duplicates answered before the condition was looked at
			return 0, errDuplicate
		}
		d.lastSeq, d.wrote = ack.Sequence, true
		return 1, nil
	}
	if w := natsio.WireOf(d.nc); w != nil {
		return d.sendFrames(ctx, w, batch)
	}
	// No flow control: what is wrong with an earlier message, the commit is told.
	publisher, err := jetstreamext.NewBatchPublisher(d.js, jetstreamext.BatchFlowControl{AckTimeout: natsio.ConfirmTimeout})
	if err != nil {
		return 0, err
	}
	fence := jetstreamext.WithBatchExpectLastSequenceForSubject(d.lastSeq, d.host)
	last := len(batch) - 1
	for i := range batch[:last] {
		yield(i)
		var opts []jetstreamext.BatchMsgOpt
		if i == 0 {
			opts = append(opts, fence, jetstreamext.WithBatchExpectStream(d.cfg.Stream))
		}
		if err := publisher.AddMsg(d.many.of(&batch[i]), opts...); err != nil {
			return 0, err
		}
		if i == 0 { // the fence is its alone
			maps.DeleteFunc(d.many.Header, func(name string, _ []string) bool { return strings.HasPrefix(name, expectHeader) })
		}
	}
	ctx, cancel := context.WithTimeout(ctx, natsio.ConfirmTimeout)
	defer cancel()
	defer delete(d.many.Header, jetstreamext.BatchCommitHeader)
	ack, err := publisher.CommitMsg(ctx, d.many.of(&batch[last]))
	if err != nil {
		return 0, err
	}
	d.lastSeq, d.wrote = ack.Sequence, true
	return len(batch), nil
}

// sendFrames is send of a batch to a connection that takes ready-made messages.
func (d *jetStreamDelivery) sendFrames(ctx context.Context, to *natsio.Wire, batch []outgoing) (int, error) {
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
	commit := nats.Msg{Subject: d.many.of(&batch[last]).Subject, Data: batch[last].data, Header: maps.Clone(d.many.Header)}
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
	d.lastSeq, d.wrote = ack.Sequence, true
	return len(batch), nil
}

var errDuplicate = errors.New("already stored")

// expectHeader is what the names of headers begin with that are conditions.
const expectHeader = "Nats-Expected-"

// findLast reads this host's last message and returns how many events of the
// batch are stored already. It asks the stream's leader: a direct get may be
// answered by a replica that lags behind.
func (d *jetStreamDelivery) findLast(ctx context.Context, batch []outgoing) (stored int, err error) {
	request, err := json.Marshal(map[string]string{"last_by_subj": d.host})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, natsio.LookupTimeout)
	defer cancel()
	reply, err := d.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+d.cfg.Stream, request)
	if err != nil {
		return 0, fmt.Errorf("read what is stored: %w", err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq  uint64    `json:"seq"`
			Hdrs []byte    `json:"hdrs"`
			Data []byte    `json:"data"`
			Time time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return 0, fmt.Errorf("read what is stored: %w", err)
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound { // none yet, or expired, or purged
			d.known, d.lastSeq, d.found = true, 0, nil
			return 0, nil
		}
		return 0, fmt.Errorf("read what is stored: %w", answer.Error)
	}
	header, err := nats.DecodeHeadersMsg(answer.Message.Hdrs)
	if err != nil {
		return 0, fmt.Errorf("read what is stored: %w", err)
	}
	d.found = foundEvent(answer.Message.Data)
	seq, ours := d.ours(header.Get(nats.MsgIdHdr))
	switch {
	case ours:
		for stored < len(batch) && batch[stored].seq <= seq {
			stored++
		}
		d.already.Add(uint64(stored))
		d.wrote = true
	case d.wrote:
		return 0, d.fenced(answer.Message.Time)
	}
	d.known, d.lastSeq = true, answer.Message.Seq
	return stored, nil
}

// ours returns the seq of a message id of this epoch.
func (d *jetStreamDelivery) ours(id string) (seq uint64, ok bool) {
	digits, ok := strings.CutPrefix(id, d.epoch+"-")
	if !ok {
		return 0, false
	}
	seq, err := strconv.ParseUint(digits, 10, 64)
	return seq, err == nil
}

// foundEvent decodes what was stored last; nil when it is no event.
func foundEvent(data []byte) *schema.Event {
	e := new(schema.Event)
	if e.UnmarshalJSON(data) != nil {
		return nil
	}
	return e
}

func (d *jetStreamDelivery) fenced(at time.Time) error {
	err := &FencedError{Host: d.cfg.Host, Epoch: "unknown", BootID: "unknown", Since: at}
	if d.found != nil {
		err.Epoch, err.BootID = d.found.Epoch, d.found.BootID
	}
	return err
}

// prepareStream looks for the stream, and creates it when it is missing. A
// stream that is there is used as it is.
func (d *jetStreamDelivery) prepareStream(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, natsio.LookupTimeout)
	defer cancel()
	stream, err := d.js.Stream(ctx, d.cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		cfg := d.streamConfig()
		if stream, err = d.js.CreateStream(ctx, cfg); err != nil {
			return natsio.WithAdvice(fmt.Errorf("create stream %s: %w", cfg.Name, err),
				"let this user create it, or have someone who may run: %s", natsio.AddCommand(cfg))
		}
		d.log.Info("created the stream", "stream", cfg.Name, "subjects", cfg.Subjects, "replicas", cfg.Replicas, "max_age", cfg.MaxAge)
		d.seen = true
	} else if err != nil {
		return fmt.Errorf("look up stream %s: %w", d.cfg.Stream, err)
	}
	cfg := stream.CachedInfo().Config
	if err := natsio.CheckStream(&d.cfg, &cfg); err != nil {
		return err
	}
	if d.batch == 0 || !cfg.AllowAtomicPublish { // a limit that was found out stays
		d.batch = 1
		if cfg.AllowAtomicPublish {
			d.batch = maxBatch
		}
	}
	if !d.seen {
		d.log.Info("using the stream as it is", "stream", cfg.Name, "subjects", cfg.Subjects, "batches", cfg.AllowAtomicPublish)
		d.seen = true
	}
	return nil
}

func (d *jetStreamDelivery) streamConfig() jetstream.StreamConfig {
	return natsio.StreamConfig(&d.cfg, d.nc.ConnectedServerVersion())
}

// explain adds to an error what only the delivery knows; what it means, natsio tells.
func (d *jetStreamDelivery) explain(err, lastErr error) error {
	refused := natsio.PermissionError(d.nc, lastErr)
	switch {
	case refused != nil && (d.known || d.seen):
		return refused
	case refused != nil:
		return natsio.WithAdvice(refused, "grant it, or have the stream created by someone who may run: %s", natsio.AddCommand(d.streamConfig()))
	case d.seen && errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("stream %s: %w: %w", d.cfg.Stream, jetstream.ErrNoStreamResponse, err)
	}
	return err
}
