package delivery

import (
	"context"
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
	d.story.note(&d.found)
	d.known, d.lastSeq = true, d.found.StreamSeq
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

// find reads this host's last message.
func (d *jetStream) find(ctx context.Context) error {
	if err := d.prepareStream(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, natsio.LookupTimeout)
	defer cancel()
	m, err := natsio.LastStored(ctx, d.nc, &d.cfg)
	if err != nil {
		return err
	}
	d.found = Located{Created: d.created}
	if m != nil { // else none yet, or expired, or purged
		d.found = Located{StreamSeq: m.Seq, Event: event.Decode(m.Data), Time: m.Time, Created: d.created}
	}
	return nil
}

// checkPlace finds out, with the first message that is stored on a connection, that the
// stream has it under its subject: behind a subject mapping of the account, or an import
// that gives it another one, it has not, and would not be found again.
func (d *jetStream) checkPlace(ctx context.Context, streamSeq uint64) error {
	ctx, cancel := context.WithTimeout(ctx, natsio.LookupTimeout)
	defer cancel()
	m, err := natsio.StoredAt(ctx, d.nc, &d.cfg, streamSeq)
	if err != nil {
		return err
	}
	if m != nil && !natsio.Covers([]string{d.host}, m.Subject) {
		return d.misplaced.found(natsio.WithAdvice(
			fmt.Errorf("stream %s has under %s what was published on %s", d.cfg.Stream, m.Subject, d.host),
			"take that subject out of the account's mappings and imports, or set IFACE_SUBJECT_PREFIX to what it becomes"),
			time.Now(), d.connection())
	}
	d.placed = true
	return nil
}

// misplaced is that messages are stored under other subjects. Each that is sent to find
// out whether that is over leaves one more there, so it is done rarely.
type misplaced struct {
	err        error
	at         time.Time
	connection uint64
}

// misplacedRetry is how long until it is tried again.
const misplacedRetry = 30 * time.Second

func (m *misplaced) found(err error, now time.Time, connection uint64) error {
	m.err, m.at, m.connection = err, now, connection
	return err
}

// still returns the error while it is not to be tried again.
func (m *misplaced) still(now time.Time, connection uint64) error {
	if m.err != nil && now.Sub(m.at) < misplacedRetry && m.connection == connection {
		return m.err
	}
	m.err = nil
	return nil
}

// connection is the number of the connection that there is, from 1.
func (d *jetStream) connection() uint64 { return d.nc.Stats().Reconnects + 1 }

// checkServer finds out, on each connection, that JetStream delivery does not work with
// this server. What it refused another one may take.
func (d *jetStream) checkServer(ctx context.Context) error {
	if err := natsio.CheckServer(d.nc.ConnectedServerVersion()); err != nil {
		return err
	}
	if err := natsio.CheckPayload(&d.cfg, d.nc.MaxPayload()); err != nil {
		return err
	}
	connection := d.connection()
	if d.connected == connection {
		return nil
	}
	findings, err := d.account(ctx, false)
	if err != nil {
		return err
	}
	if err := natsio.Refusal(findings); err != nil {
		return err
	}
	d.connected, d.batch, d.placed, d.logged = connection, 0, false, map[string]bool{}
	return nil
}

// account looks at what the account may do. Missing is whether the stream has to be made.
// An account that may not be asked is not looked at: the answer that does not come has a time
// of its own, which nothing else waits for.
func (d *jetStream) account(ctx context.Context, missing bool) ([]natsio.Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, natsio.LookupTimeout)
	defer cancel()
	before := d.nc.LastError()
	info, err := d.js.AccountInfo(ctx)
	switch {
	case err == nil:
		return natsio.InspectAccount(&d.cfg, info, missing), nil
	case natsio.PermissionError(d.nc, before) != nil, errors.Is(err, context.DeadlineExceeded):
		return nil, nil
	}
	return nil, fmt.Errorf("look up the account: %w", err)
}

// prepareStream looks for the stream, and creates it when it is missing. A
// stream that is there is used as it is, if it can be.
func (d *jetStream) prepareStream(ctx context.Context) error {
	if err := d.checkServer(ctx); err != nil {
		return err
	}
	stream, err := d.lookUpStream(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = d.createStream(ctx)
	}
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	d.created, d.keeps, d.from = info.Created, info.Config.MaxAge, origin{info.Config.Name, info.Domain}
	d.findings = natsio.InspectStream(&d.cfg, info)
	if err := natsio.Refusal(d.findings); err != nil {
		return err
	}
	d.use(&info.Config)
	return nil
}

// lookUpStream looks the stream up.
func (d *jetStream) lookUpStream(ctx context.Context) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, natsio.LookupTimeout)
	defer cancel()
	stream, err := d.js.Stream(ctx, d.cfg.Stream)
	if err != nil {
		return nil, fmt.Errorf("look up stream %s: %w", d.cfg.Stream, err)
	}
	return stream, nil
}

// createStream creates the stream.
func (d *jetStream) createStream(ctx context.Context) (jetstream.Stream, error) {
	cfg := d.streamConfig()
	findings, err := d.account(ctx, true)
	if err == nil {
		err = natsio.Refusal(findings)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, natsio.LookupTimeout)
	defer cancel()
	stream, err := d.js.CreateStream(ctx, cfg)
	if err != nil {
		other := ""
		if natsio.IsOverlap(err) {
			other, _ = d.js.StreamNameBySubject(ctx, cfg.Subjects[0]) // which this user may not be allowed to ask
		}
		return nil, natsio.ExplainCreation(&d.cfg, cfg, other, err)
	}
	d.log.Info("created the stream",
		"stream", cfg.Name, "subjects", cfg.Subjects, "replicas", cfg.Replicas, "max_age", cfg.MaxAge)
	d.seen = true
	return stream, nil
}

// use takes note of how the stream is to be used, and logs what is not as it was set.
func (d *jetStream) use(cfg *jetstream.StreamConfig) {
	d.largest.Store(max(int64(cfg.MaxMsgSize), 0))
	if d.batch == 0 || d.atomic != cfg.AllowAtomicPublish { // else a limit that was found out stays
		d.batch, d.atomic = 1, cfg.AllowAtomicPublish
		if cfg.AllowAtomicPublish {
			d.batch = event.MaxBatch
		}
	}
	if !d.seen {
		d.log.Info("using the stream as it is",
			"stream", cfg.Name, "subjects", cfg.Subjects, "batches", cfg.AllowAtomicPublish)
		d.seen = true
	}
	natsio.LogFindings(d.log, d.findings, d.logged)
}

func (d *jetStream) streamConfig() jetstream.StreamConfig {
	return natsio.StreamConfig(&d.cfg, d.nc.ConnectedServerVersion())
}
