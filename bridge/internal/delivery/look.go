package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/natsio"
)

// Look implements [Delivery].
func (d *jetStream) Look(ctx context.Context) (*Located, error) {
	lastErr := d.nc.LastError()
	if err := d.find(ctx); err != nil {
		return nil, d.explain(err, lastErr)
	}
	return &d.found, nil
}

// locate finds this host's last message, and how many events of the batch are stored
// already.
func (d *jetStream) locate(ctx context.Context, batch []event.Outgoing) (stored int, err error) {
	if err := d.find(ctx); err != nil {
		return 0, err
	}
	d.noteForeign()
	if stored, err = d.story.judge(&d.found, batch); err != nil {
		return 0, err
	}
	d.known, d.lastSeq, d.story.created = true, d.found.StreamSeq, d.found.Created
	if stored > 0 {
		d.already.Add(uint64(stored))
		d.confirm(batch[:stored], d.found.StreamSeq)
	}
	return stored, nil
}

// noteForeign logs that the message that was found is no event of a bridge, each once.
func (d *jetStream) noteForeign() {
	if d.found.StreamSeq == 0 || d.found.Event != nil || d.found.StreamSeq == d.foreign {
		return
	}
	d.foreign = d.found.StreamSeq
	d.log.Warn("the last message of this host in the stream is no event of a bridge; a new epoch follows it",
		"stream", d.cfg.Stream, "stream_seq", d.foreign)
}

// find reads this host's last message. It asks the stream's leader: a direct get may be
// answered by a replica that lags behind.
func (d *jetStream) find(ctx context.Context) error {
	if err := d.prepareStream(ctx); err != nil {
		return err
	}
	request, err := json.Marshal(map[string]string{"last_by_subj": d.host})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, natsio.LookupTimeout)
	defer cancel()
	reply, err := d.nc.RequestWithContext(ctx, d.cfg.API()+".STREAM.MSG.GET."+d.cfg.Stream, request)
	if err != nil {
		return fmt.Errorf("read what is stored: %w", err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq  uint64    `json:"seq"`
			Data []byte    `json:"data"`
			Time time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return fmt.Errorf("read what is stored: %w", err)
	}
	d.found = Located{Created: d.created}
	switch {
	case answer.Error == nil:
		m := &answer.Message
		d.found = Located{StreamSeq: m.Seq, Event: event.Decode(m.Data), Time: m.Time, Created: d.created}
	case answer.Error.ErrorCode != jetstream.JSErrCodeMessageNotFound: // none yet, or expired, or purged
		return fmt.Errorf("read what is stored: %w", answer.Error)
	}
	return nil
}

// prepareStream looks for the stream, and creates it when it is missing. A
// stream that is there is used as it is.
func (d *jetStream) prepareStream(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, natsio.LookupTimeout)
	defer cancel()
	if err := natsio.CheckServer(d.nc.ConnectedServerVersion()); err != nil {
		return err
	}
	stream, err := d.js.Stream(ctx, d.cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		cfg := d.streamConfig()
		if stream, err = d.js.CreateStream(ctx, cfg); err != nil {
			return natsio.ExplainCreation(cfg, err)
		}
		d.log.Info("created the stream",
			"stream", cfg.Name, "subjects", cfg.Subjects, "replicas", cfg.Replicas, "max_age", cfg.MaxAge)
		d.seen = true
	} else if err != nil {
		return fmt.Errorf("look up stream %s: %w", d.cfg.Stream, err)
	}
	cfg := stream.CachedInfo().Config
	d.created, d.keeps = stream.CachedInfo().Created, cfg.MaxAge
	if err := natsio.CheckStream(&d.cfg, &cfg); err != nil {
		return err
	}
	if d.batch == 0 || !cfg.AllowAtomicPublish { // a limit that was found out stays
		d.batch = 1
		if cfg.AllowAtomicPublish {
			d.batch = event.MaxBatch
		}
	}
	if !d.seen {
		d.log.Info("using the stream as it is",
			"stream", cfg.Name, "subjects", cfg.Subjects, "batches", cfg.AllowAtomicPublish)
		d.seen = true
	}
	return nil
}

func (d *jetStream) streamConfig() jetstream.StreamConfig {
	return natsio.StreamConfig(&d.cfg, d.nc.ConnectedServerVersion())
}
