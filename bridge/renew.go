package bridge

import (
	"context"
	"math/rand/v2"
	"time"

	"ifacebridge/schema"
)

// A stream forgets what is older than its max_age, and with it the snapshot that an epoch
// began with: a reader that begins with what is left would not know the links that have not
// changed since. So the snapshot is told again in time, in the middle of the epoch, as
// consumers know the links; and whenever somebody asks for it.

// A renewal is when the snapshot is to be told again.
type renewal struct {
	toldAt time.Time // when the last one was begun
	quiet  time.Time // until when none is told on request
	share  float64   // of what the stream keeps, after which the next is due
}

// over notes that a snapshot was told.
func (r *renewal) over() { r.quiet = time.Now().Add(askedPause) }

// begun notes that a snapshot is being told. The next is due well before it is older than
// half of what the stream keeps, and not at once on hosts that have started together.
func (r *renewal) begun() {
	r.toldAt, r.share = time.Now(), 0.25+0.2*rand.Float64()
	r.over() // that of an epoch's beginning is not told at once: its end is not noted
}

// due returns when the next is, for a stream that keeps events so long; the zero time is
// never. It is now when that is over by the wall clock: Go's timers stand still while the
// machine sleeps, and the server goes on to forget.
func (r *renewal) due(kept time.Duration, now, wall time.Time) (at time.Time) {
	if kept == 0 {
		return at
	}
	at = r.toldAt.Add(time.Duration(r.share * float64(kept)))
	if !wall.Before(at.Round(0)) {
		return now
	}
	return at
}

// askedPause is how long the snapshot is not told again on request after it was: what has
// happened meanwhile has its turn, also where somebody asks each time before it is over.
const askedPause = time.Second

// renewAt returns when the snapshot is to be told again. The zero time is not before something
// else happens: the end of the snapshot that is being told, or a request.
func (p *publisher) renewAt() (at time.Time) {
	if !p.isWhole.Load() || p.inSnapshot { // nothing may stand inside of one
		return at
	}
	now := time.Now()
	at = p.renewal.due(p.delivery.Keeps(), now, now.Round(0))
	if p.query.SnapshotAsked() {
		if asked := p.renewal.quiet; at.IsZero() || asked.Before(at) {
			at = asked
		}
	}
	return at
}

// renew tells the snapshot again.
func (p *publisher) renew(ctx context.Context) error {
	events, first := p.state.Retell(time.Now()), p.encoder.Seq+1
	p.sign(events)
	p.renewal.begun()
	p.backlog.Settle()
	p.query.SnapshotBegins()
	if err := p.publishEvents(ctx, events); err != nil {
		return err
	}
	p.renewal.over()
	p.backlog.Confirm(p.delivery.Told())
	p.metrics.renewed.Inc()
	p.log.Debug("told the snapshot again", "links", len(events), "epoch", p.epoch, "seq", p.encoder.Seq)
	p.query.SnapshotTold(schema.PublishedSnapshot{
		Schema: schema.Name, Host: p.id.Host, Epoch: p.epoch, First: first, Seq: p.encoder.Seq,
	})
	return nil
}

// sign makes events those of this run.
func (p *publisher) sign(events []schema.Event) {
	for i := range events {
		e := &events[i]
		e.Host, e.BootID, e.OwnNetnsInode, e.Labels = p.id.Host, p.id.BootID, p.id.OwnNetns, p.id.Labels
	}
}
