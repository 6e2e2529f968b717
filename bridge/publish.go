package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/schema"
)

// An outgoing is an event on its way: it has its place in the epoch, and stays
// the same bytes however often it is sent.
type outgoing struct {
	seq     uint64
	id      string
	subject string
	data    []byte
	index   int32 // of its link
	gone    bool  // the link is
}

// A delivery is the way in which events reach NATS. The one publisher calls it.
type delivery interface {
	// store sends events in order and waits until NATS has confirmed them; of no
	// events, it only sees to it that it could. It returns how many of them, from the first, are confirmed; the others are to be
	// sent again, whether they arrived or not. It ends with the context.
	store(ctx context.Context, batch []outgoing) (int, error)
}

// maxBatch is how many events are on their way at once: what a server takes as
// one atomic batch unless it is told otherwise (nats-server 2.15).
const maxBatch = 1000

// A publisher moves changes from the queue to NATS. It gives each its place in
// the epoch as it leaves the queue, so that seq has no gaps whatever was folded.
type publisher struct {
	identity
	subjects [3]string // by schema.Kind
	queue    *queue
	delivery delivery
	bucket   *bucket // nil: none is kept
	nc       *nats.Conn
	verify   time.Duration // look at what is stored this often; 0: never
	log      *slog.Logger

	seq       uint64
	changes   []change   // what was taken last
	batch     []outgoing // its events
	bytes     []byte     // their data
	confirmed atomic.Uint64
	waiting   atomic.Int64 // events on their way
}

// identity is what every event of a run has in common.
type identity struct {
	host, bootID, epoch string
}

func newPublisher(cfg Config, id identity, q *queue, d delivery, b *bucket, nc *nats.Conn, log *slog.Logger) *publisher {
	p := &publisher{identity: id, queue: q, delivery: d, bucket: b, nc: nc, verify: cfg.Resync, log: log, changes: make([]change, maxBatch)}
	for _, kind := range []schema.Kind{schema.New, schema.Del} {
		p.subjects[kind] = schema.Subject(cfg.Prefix, cfg.Token, kind)
	}
	return p
}

// unconfirmed returns how many events NATS has not confirmed yet.
func (p *publisher) unconfirmed() int {
	waiting, _ := p.queue.size()
	return waiting + int(p.waiting.Load())
}

// run publishes until the queue is closed and empty, or ctx ends. It goes on
// through every failure but being replaced ([FencedError]). The bucket follows
// behind.
func (p *publisher) run(ctx context.Context) error {
	if err := p.publish(ctx, nil); err != nil {
		return err
	}
	if p.bucket == nil {
		return p.publishQueued(ctx)
	}
	if err := p.publishVanished(ctx); err != nil {
		return err
	}
	done := make(chan struct{})
	following, stop := context.WithCancel(ctx)
	defer stop()
	var follower sync.WaitGroup
	follower.Go(func() { p.bucket.run(following, done) })
	err := p.publishQueued(ctx)
	close(done)
	if err != nil {
		stop() // another bridge's state must not be overwritten
	}
	follower.Wait()
	if err == nil && p.bucket.behind() {
		p.log.Warn("stopped before the bucket held every link's state; the next start puts it right", "bucket", p.bucket.cfg.Bucket)
	}
	return err
}

// publishQueued publishes what the queue holds until it is closed and empty.
func (p *publisher) publishQueued(ctx context.Context) error {
	next := time.Now().Add(p.verify)
	for {
		closed := p.queue.isClosed() // before take: nothing comes after it
		n, wait := p.queue.take(p.changes, time.Now())
		if n > 0 {
			if err := p.publish(ctx, p.changes[:n]); err != nil {
				return err
			}
			continue
		}
		if closed {
			return nil
		}
		if p.verify > 0 && (wait == 0 || time.Until(next) < wait) {
			wait = max(time.Until(next), time.Millisecond)
		}
		select {
		case <-p.queue.ready:
		case <-after(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		if p.verify > 0 && !time.Now().Before(next) {
			if err := p.verifyStored(ctx); err != nil {
				return err
			}
			next = time.Now().Add(p.verify)
		}
	}
}

// verifyStored finds out on a quiet host, too, that another bridge has taken its
// name, that the stream is gone, or that somebody changed the bucket.
func (p *publisher) verifyStored(ctx context.Context) error {
	if err := p.publish(ctx, nil); err != nil {
		return err
	}
	if p.bucket != nil {
		p.bucket.verify()
	}
	return nil
}

// bucketTries is how often the bucket is asked for what it holds before the
// epoch begins without.
const bucketTries = 3

// publishVanished publishes, ahead of the snapshot, a del for each link that
// went while the bridge was down.
func (p *publisher) publishVanished(ctx context.Context) error {
	links, at, err := p.queue.firstSnapshot(ctx)
	if errors.Is(err, errNoSnapshot) {
		return nil
	}
	if err != nil {
		return err
	}
	outage := outage{log: p.log, failing: "cannot read from the bucket what was published before; events wait for it", over: "read the bucket"}
	for tries := 0; tries < bucketTries; {
		var gone []change
		gone, err = p.bucket.vanished(ctx, p.bootID, links, at)
		if err == nil {
			outage.end()
			for len(gone) > 0 {
				n := copy(p.changes, gone)
				gone = gone[n:]
				if err := p.publish(ctx, p.changes[:n]); err != nil {
					return err
				}
			}
			return nil
		}
		if p.nc.IsConnected() {
			tries++
		}
		if err := outage.wait(ctx, p.nc, err, p.unconfirmed()); err != nil {
			return err
		}
	}
	p.log.Error("cannot read what was published before; links that went while the bridge was down get no del, the snapshot shows what is there", "cause", err)
	return nil
}

// after is time.After, but never for no time at all.
func after(d time.Duration) <-chan time.Time {
	if d <= 0 {
		return nil
	}
	return time.After(d)
}

// publish sends the changes as events until all of them are confirmed.
func (p *publisher) publish(ctx context.Context, changes []change) error {
	p.encode(changes)
	p.waiting.Store(int64(len(p.batch)))
	rest := p.batch
	for outage := (outage{log: p.log, failing: "cannot publish; events are kept until it works again", over: "publishing again"}); ; {
		n, err := p.store(ctx, rest)
		if p.bucket != nil {
			p.bucket.put(rest[:n])
		}
		rest = rest[n:]
		p.waiting.Store(int64(len(rest)))
		p.confirmed.Add(uint64(n))
		if n > 0 || err == nil {
			outage.end()
		}
		if err == nil && len(rest) == 0 {
			return nil
		} else if err == nil {
			continue
		}
		var fenced *FencedError
		if errors.As(err, &fenced) || ctx.Err() != nil {
			return err
		}
		if err := outage.wait(ctx, p.nc, err, p.unconfirmed()); err != nil {
			return err
		}
	}
}

// store has the delivery store a batch on the connection that there is now.
func (p *publisher) store(ctx context.Context, batch []outgoing) (int, error) {
	if !p.nc.IsConnected() {
		return 0, errNotConnected
	}
	connected, stop := whileConnected(ctx, p.nc)
	defer stop()
	n, err := p.delivery.store(connected, batch)
	if err != nil && errors.Is(context.Cause(connected), errDisconnected) {
		err = errDisconnected
	}
	return n, err
}

var errNotConnected = errors.New("not connected to NATS")

// encode makes the batch of events of the changes.
func (p *publisher) encode(changes []change) {
	limit := int(p.nc.MaxPayload())
	p.batch, p.bytes = p.batch[:0], p.bytes[:0]
	for i := range changes {
		p.seq++
		e := p.event(&changes[i])
		start := len(p.bytes)
		p.bytes = appendWithin(p.bytes, &e, limit)
		p.batch = append(p.batch, outgoing{
			seq: e.Seq, id: e.ID(), subject: p.subjects[e.Kind],
			data: p.bytes[start:len(p.bytes):len(p.bytes)], index: e.Link.Index, gone: e.Kind == schema.Del,
		})
	}
}

func (p *publisher) event(c *change) schema.Event {
	return schema.Event{
		Host: p.host, BootID: p.bootID, Epoch: p.epoch, Seq: p.seq,
		Time: c.time, Kind: c.kind, Action: c.action, Cause: c.cause,
		Overruns: c.overruns, Coalesced: c.count, Snapshot: c.snapshot,
		Changed: c.changed(), Previous: c.beforeNames.named(&c.before),
		Link: c.linkNames.named(&c.link),
	}
}

// headerRoom is what a message's headers and protocol line take, at most.
const headerRoom = 1024

// expendable are the keys of a link that are left out, one group after another,
// when an event is larger than the server takes: the longest first that matter
// least to who acts on an event.
var expendable = func() []schema.FieldSet {
	var sets []schema.FieldSet
	for _, names := range [][]string{
		{"altnames", "altnames_bytes"}, {"linkinfo"}, {"ifalias", "ifalias_bytes"},
		{"phys_port_name", "phys_port_id", "phys_switch_id", "parentbus", "parentdev", "num_tx_queues", "num_rx_queues",
			"gso_max_size", "gso_max_segs", "tso_max_size", "tso_max_segs", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size"},
	} {
		sets = append(sets, mustFields(names...))
	}
	return sets
}()

// appendWithin appends the event's JSON, without what has to go to keep it within
// limit bytes, and says so in the event. 0 is no limit known yet.
func appendWithin(dst []byte, e *schema.Event, limit int) []byte {
	start := len(dst)
	dst = e.AppendJSON(dst)
	for _, set := range expendable {
		if limit <= 0 || len(dst)-start+headerRoom <= limit {
			break
		}
		e.Truncated |= set & (schema.Present(&e.Link) | e.Changed)
		e.Link = e.Link.Without(set)
		e.Previous = e.Previous.Without(set)
		dst = e.AppendJSON(dst[:start])
	}
	return dst
}

// An outage is a row of failures to publish. It is said once, with its cause,
// and once when it is over.
type outage struct {
	log           *slog.Logger
	failing, over string // what to say

	since    time.Time
	lastText string
	backoff  time.Duration
}

const maxBackoff = 2 * time.Second

// wait logs why the last attempt failed, unless it was said, and waits before the
// next: until the connection is back, or a jittered while.
func (o *outage) wait(ctx context.Context, nc *nats.Conn, err error, unconfirmed int) error {
	if o.since.IsZero() {
		o.since = time.Now()
	}
	if text := err.Error(); text != o.lastText {
		o.lastText = text
		o.log.Warn(o.failing, "cause", text, "unconfirmed", unconfirmed)
	}
	if nc.IsClosed() {
		return fmt.Errorf("connection to NATS closed: %w", errors.Join(err, nc.LastError()))
	}
	o.backoff = min(max(2*o.backoff, 20*time.Millisecond), maxBackoff)
	pause := time.NewTimer(o.backoff/2 + rand.N(o.backoff/2))
	defer pause.Stop()
	var up chan nats.Status
	if !nc.IsConnected() {
		up = nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
		defer nc.RemoveStatusListener(up)
	}
	select {
	case <-up:
		o.backoff = 0
	case <-pause.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (o *outage) end() {
	if o.lastText != "" {
		o.log.Info(o.over, "after", time.Since(o.since).Round(time.Millisecond))
	}
	o.since, o.lastText, o.backoff = time.Time{}, "", 0
}
