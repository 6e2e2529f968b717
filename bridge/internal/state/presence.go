package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/loop"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/schema"
)

// A Presence says in the bucket of hosts that this host is there, and what it is
// ([schema.Presence]): again and again, each time for a while only, so that the server
// marks the key when the bridge has fallen silent. It holds up nothing.
type Presence struct {
	cfg config.Config
	id  event.Identity
	js  jetstream.JetStream
	nc  *nats.Conn
	log *slog.Logger

	state      *State
	namespaces func() int
	lacking    func() int // how many links the bucket of current state lacks that does not follow
	since      time.Time

	wake chan struct{} // holds a token when there is news

	opened  bool   // the bucket was found or made
	expires bool   // its keys can be given a time to live
	marks   bool   // it marks hosts that fall silent
	lastSeq uint64 // of our last value in the bucket's stream; 0: none
	puts    atomic.Uint64
	logged  bool // that it does not mark
}

// leaveTTL is how long a bridge that was stopped still counts as there: one that is only
// started again does not look silent.
const leaveTTL = 5 * time.Second

// NewPresence returns what says that the host of st is there, in the bucket that cfg names.
// Nothing is asked yet. Namespaces returns how many are watched; it is called from Run.
func NewPresence(
	cfg config.Config, id event.Identity, st *State, nc *nats.Conn, namespaces, lacking func() int, log *slog.Logger,
) (*Presence, error) {
	js, err := natsio.JetStream(&cfg, nc)
	if err != nil {
		return nil, err
	}
	return &Presence{
		cfg: cfg, id: id, js: js, nc: nc, log: log, state: st, namespaces: namespaces, lacking: lacking,
		since: time.Now().UTC(), wake: make(chan struct{}, 1),
	}, nil
}

// News has the value written at once: the links are all known, or the bucket of current state
// lacks some of them. It does not block.
func (p *Presence) News() { loop.Signal(p.wake) }

// Run writes the value until done is closed or ctx ends, for an epoch of which this bridge
// tells. A write that is under way when done is closed is waited for, so that Leave knows what
// is stored; one after a failure is not.
func (p *Presence) Run(ctx context.Context, epoch string, done <-chan struct{}) {
	retry := natsio.Retry{
		Log:     p.log,
		Failing: "cannot write this host into the bucket of hosts; events are not affected",
		Over:    "this host is in the bucket of hosts again",
	}
	retrying, stop := untilClosed(ctx, done)
	defer stop()
	for {
		select {
		case <-p.wake:
		case <-time.After(p.pause()):
		case <-done:
			return
		case <-ctx.Done():
			return
		}
		for attempt := ctx; ; attempt = retrying {
			err := p.put(attempt, epoch, p.ttl())
			if err == nil {
				retry.End()
				break
			}
			p.opened = false // look it up again: it may be gone
			if retrying.Err() != nil || retry.Wait(retrying, p.nc, err, 0) != nil {
				return
			}
		}
	}
}

// untilClosed returns a context that ends with ctx, and when done is closed. The caller calls
// stop.
func untilClosed(ctx context.Context, done <-chan struct{}) (until context.Context, stop func()) {
	until, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-done:
			cancel()
		case <-until.Done():
		}
	})
	return until, func() {
		cancel()
		watching.Wait()
	}
}

// pause is the time until the value is written again: not the same for all hosts, which
// may have started together.
func (p *Presence) pause() time.Duration {
	return p.cfg.Presence - rand.N(max(1, p.cfg.Presence/5))
}

// ttl is how long the value is good for, in whole seconds as the server has it: two may be
// missed.
func (p *Presence) ttl() time.Duration {
	return (3*p.cfg.Presence + time.Second - 1).Truncate(time.Second)
}

// put writes the value, good for a while.
func (p *Presence) put(ctx context.Context, epoch string, ttl time.Duration) error {
	lastErr := p.nc.LastError()
	err := p.find(ctx)
	if err == nil {
		err = p.publish(ctx, p.message(p.value(epoch), ttl))
	}
	return natsio.ExplainPermission(p.nc, lastErr, err)
}

func (p *Presence) publish(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) error {
	ctx, cancel := context.WithTimeout(ctx, natsio.ConfirmTimeout)
	defer cancel()
	ack, err := p.js.PublishMsg(ctx, msg, append(opts, jetstream.WithRetryAttempts(0))...)
	if err != nil {
		return err
	}
	p.lastSeq = ack.Sequence
	p.puts.Add(1)
	return nil
}

// value is what there is to say now.
func (p *Presence) value(epoch string) []byte {
	v := schema.Presence{
		Schema: schema.Name, Host: p.id.Host, BootID: p.id.BootID, Labels: p.id.Labels, Epoch: epoch,
		Version: p.cfg.Version, Since: p.since, Namespaces: p.namespaces(), Prefix: p.cfg.Prefix,
		TTL: int(p.ttl() / time.Second), BucketBehind: p.lacking(),
	}
	told, seq, links := p.state.size()
	if v.Links = links; told == epoch {
		v.Seq = seq
	}
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // no such value fails
	}
	return data
}

// message is the put of a value that is good for a while, or, of none, the purge of the key.
func (p *Presence) message(value []byte, ttl time.Duration) *nats.Msg {
	msg := nats.NewMsg(p.cfg.PutSubject(p.cfg.HostsBucket, p.cfg.Token))
	if msg.Data = value; value == nil {
		msg.Header = purgeHeader()
	}
	if p.expires {
		msg.Header.Set(jetstream.MsgTTLHeader, strconv.Itoa(int(ttl/time.Second)))
	}
	return msg
}

// Leave says, after Run, that the bridge stops: soon the host is silent, or, when it is
// retired, not there at all. It is only said if nobody else has spoken for the host since.
func (p *Presence) Leave(ctx context.Context, epoch string, retired bool) {
	if p.lastSeq == 0 || !p.opened {
		return
	}
	msg := p.message(p.value(epoch), min(leaveTTL, p.ttl()))
	switch {
	case retired:
		msg = p.message(nil, natsio.MarkerTTL)
	case !p.expires: // nothing else would end it
		msg = p.message(nil, 0)
		msg.Header = deleteHeader()
	}
	if err := p.publish(ctx, msg, jetstream.WithExpectLastSequencePerSubject(p.lastSeq)); err != nil {
		p.log.Debug("cannot note in the bucket of hosts that this bridge stops; what it wrote there expires", "cause", err)
	}
}

// Known reports whether the bucket has a value of the host, or that it fell silent. Where
// there is no bucket it has none.
func (p *Presence) Known(ctx context.Context) (bool, error) {
	stream, err := p.js.Stream(ctx, p.streamName())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	if err == nil {
		var m *jetstream.RawStreamMsg
		m, err = stream.GetLastMsgForSubject(ctx, config.BucketSubject(p.cfg.HostsBucket, p.cfg.Token))
		if err == nil {
			return m.Header.Get(kvOperation) != "PURGE", nil
		}
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return false, nil
		}
	}
	return false, fmt.Errorf("bucket %s: %w", p.cfg.HostsBucket, err)
}

// Purge purges the key of the host, if there is a bucket: it will not come back. It blocks
// for as long as NATS takes to answer.
func (p *Presence) Purge(ctx context.Context) error {
	stream, err := p.js.Stream(ctx, p.streamName())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err == nil {
		p.expires = stream.CachedInfo().Config.AllowMsgTTL
		err = p.publish(ctx, p.message(nil, natsio.MarkerTTL))
	}
	if err != nil {
		return fmt.Errorf("bucket %s: %w", p.cfg.HostsBucket, err)
	}
	return nil
}

// LookAgain has the bucket looked for, and made, at its next use. It is for when Run is not
// under way.
func (p *Presence) LookAgain() { p.opened = false }

// streamName is the name of the stream that the bucket is.
func (p *Presence) streamName() string { return config.BucketStream(p.cfg.HostsBucket) }

// find finds the bucket, or makes it. One that does not mark hosts that fall silent is looked at each time: that may be
// mended, as we advise.
func (p *Presence) find(ctx context.Context) error {
	if p.opened && p.marks {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, natsio.LookupTimeout)
	defer cancel()
	stream, err := p.js.Stream(ctx, p.streamName())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err = p.create(ctx); err == nil {
			stream, err = p.js.Stream(ctx, p.streamName())
		}
	}
	if err != nil {
		return fmt.Errorf("bucket %s: %w", p.cfg.HostsBucket, err)
	}
	if err := natsio.Refusal(natsio.InspectHostsBucket(&p.cfg, stream.CachedInfo())); err != nil {
		return err
	}
	cfg := stream.CachedInfo().Config
	p.opened, p.expires, p.marks = true, cfg.AllowMsgTTL, natsio.MarksSilent(&cfg)
	if !p.marks && !p.logged {
		p.log.Warn("the bucket of hosts does not mark hosts that fall silent; readers have to go by the age of its values",
			"bucket", p.cfg.HostsBucket, "advice", natsio.MarksAdvice(&p.cfg))
	}
	p.logged = !p.marks
	return nil
}

// create makes the bucket; on a server that has no markers, without them.
func (p *Presence) create(ctx context.Context) error {
	cfg := natsio.HostsBucketConfig(&p.cfg)
	_, err := p.js.CreateKeyValue(ctx, cfg)
	if errors.Is(err, jetstream.ErrLimitMarkerTTLNotSupported) {
		cfg.LimitMarkerTTL = 0
		_, err = p.js.CreateKeyValue(ctx, cfg)
	}
	if err != nil {
		return natsio.CannotCreate(fmt.Errorf("create it: %w", err), natsio.AddBucketCommand(&p.cfg, cfg))
	}
	p.log.Info("created the bucket of hosts", "bucket", cfg.Bucket)
	return nil
}

// Register registers what the presence counts.
func (p *Presence) Register(to metrics.Registry) {
	to.CounterFunc("presence_puts_total", "Times that this host was written into the bucket of hosts.",
		func() float64 { return float64(p.puts.Load()) })
}
