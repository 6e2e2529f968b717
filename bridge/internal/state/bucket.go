package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
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

// A Bucket keeps the current state of this host's links in a KV bucket: under
// <host>.<ifindex> the last event of the link, as published, and no key for a
// link that is gone. It follows the stream: what is not stored there is not put
// here. Only the latest value of a key is put, so it may skip some, and never
// holds up the events.
//
// The bucket is not the truth, the kernel is: a bucket that is missing, purged,
// or holds something else, is made right when that is noticed, at the latest
// after an IFACE_RESYNC.
type Bucket struct {
	cfg config.Config
	js  jetstream.JetStream
	nc  *nats.Conn
	log *slog.Logger

	state *State // what the bucket should hold

	mu    sync.Mutex
	dirty map[schema.LinkKey]bool // links that it does not hold like that yet
	stray map[string]bool         // keys of no link, which are to go
	check bool                    // it is to be compared with the state
	wake  chan struct{}           // holds a token when a key became dirty, or check true

	puts atomic.Uint64 // keys that were put or purged

	opened  bool // it was found or made
	markers bool // markers of deleted keys can be given a time to live
}

const (
	// markerTTL is how long the marker of a deleted key is kept, for watchers that
	// were away; without an end, a host that makes containers would leave one for
	// each of them for ever.
	markerTTL = time.Hour

	// bucketPause is how long to gather changes between two rounds of puts.
	bucketPause = 20 * time.Millisecond
)

// NewBucket returns what keeps st in the bucket that cfg names. Nothing is asked yet.
func NewBucket(cfg config.Config, st *State, nc *nats.Conn, log *slog.Logger) (*Bucket, error) {
	js, err := natsio.JetStream(&cfg, nc,
		jetstream.WithPublishAsyncMaxPending(256), jetstream.WithPublishAsyncTimeout(natsio.ConfirmTimeout))
	if err != nil {
		return nil, err
	}
	return &Bucket{
		cfg: cfg, js: js, nc: nc, log: log, state: st,
		dirty: map[schema.LinkKey]bool{}, stray: map[string]bool{}, wake: make(chan struct{}, 1),
	}, nil
}

// key is the key of a link.
func (b *Bucket) key(k schema.LinkKey) string { return b.cfg.Token + "." + k.String() }

// subject is that of a key.
func (b *Bucket) subject(key string) string { return "$KV." + b.cfg.Bucket + "." + key }

// Put notes that events were stored, and applied to the state. It does not block.
func (b *Bucket) Put(events []event.Outgoing) {
	b.mu.Lock()
	for i := range events {
		b.dirty[events[i].Key] = true
		if former, renamed := events[i].FormerKey(); renamed {
			b.dirty[former] = true
		}
	}
	b.mu.Unlock()
	loop.Signal(b.wake)
}

// Verify has the bucket compared with what it should hold. It does not block.
func (b *Bucket) Verify() {
	b.mu.Lock()
	b.check = true
	b.mu.Unlock()
	loop.Signal(b.wake)
}

// Run puts what is noted until done is closed and everything is in the bucket, or ctx
// ends.
func (b *Bucket) Run(ctx context.Context, done <-chan struct{}) {
	retry := natsio.Retry{
		Log:     b.log,
		Failing: "cannot put link states into the bucket; events are not affected", Over: "the bucket follows again",
	}
	for ending := false; ; {
		if !b.behind() {
			if ending {
				return
			}
			select {
			case <-b.wake:
			case <-done:
				ending = true
				continue
			case <-ctx.Done():
				return
			}
		}
		if err := b.catchUp(ctx); err != nil {
			b.opened = false // look it up again: it may be gone
			if retry.Wait(ctx, b.nc, err, b.behindBy()) != nil {
				return
			}
			continue
		}
		retry.End()
		select { // gather what comes next
		case <-time.After(bucketPause):
		case <-done:
			ending = true
		case <-ctx.Done():
			return
		}
	}
}

// behindBy returns how many keys are not in the bucket as they should be.
func (b *Bucket) behindBy() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.dirty) + len(b.stray)
}

// Finish logs, after Run, that the bucket does not hold every link's state, if that is so.
func (b *Bucket) Finish() {
	if b.behind() {
		b.log.Warn("stopped before the bucket held every link's state; the next start puts it right",
			"bucket", b.cfg.Bucket)
	}
}

// behind reports whether there is anything to do.
func (b *Bucket) behind() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.check || len(b.dirty)+len(b.stray) > 0
}

// catchUp compares the bucket with what it should hold, if that was asked for,
// and puts what it does not hold.
func (b *Bucket) catchUp(ctx context.Context) error {
	lastErr := b.nc.LastError()
	b.mu.Lock()
	check := b.check
	b.check = false
	b.mu.Unlock()
	err := error(nil)
	if check {
		if err = b.compare(ctx); err != nil {
			b.mu.Lock()
			b.check = true
			b.mu.Unlock()
		}
	}
	if err == nil {
		err = b.flush(ctx)
	}
	return natsio.ExplainPermission(b.nc, lastErr, err)
}

// flush puts every dirty key and waits for the acknowledgments. A key is on its
// way once at a time, so that its values cannot overtake each other.
func (b *Bucket) flush(ctx context.Context) error {
	if err := b.find(ctx); err != nil {
		return err
	}
	var failure error
	puts := b.takeDirty()
	for i := range puts {
		if failure == nil { // else each would wait for the same
			msg := b.message(puts[i].name, b.lastOf(puts[i].link))
			puts[i].ack, failure = b.js.PublishMsgAsync(msg, jetstream.WithRetryAttempts(0))
		}
		if failure != nil {
			b.again(&puts[i])
		}
	}
	for i := range puts {
		if puts[i].ack == nil {
			continue
		}
		select {
		case <-puts[i].ack.Ok():
			b.puts.Add(1)
		case err := <-puts[i].ack.Err():
			failure = err
			b.again(&puts[i])
		case <-ctx.Done():
			failure = ctx.Err()
			b.again(&puts[i])
		}
	}
	return failure
}

// lastOf returns the last event of a link, nil when there is none.
func (b *Bucket) lastOf(k *schema.LinkKey) []byte {
	if k == nil {
		return nil
	}
	return b.state.last(*k)
}

// A keyPut is one key on its way into the bucket, or out of it.
type keyPut struct {
	name string
	link *schema.LinkKey // nil: it is no link's
	ack  jetstream.PubAckFuture
}

// maxPuts is how many keys are put in one round: each that waits for its
// acknowledgment holds its value.
const maxPuts = 512

// takeDirty returns what is not in the bucket as it should be, at most maxPuts.
func (b *Bucket) takeDirty() (puts []keyPut) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k := range b.dirty {
		if len(puts) == maxPuts {
			break
		}
		puts = append(puts, keyPut{name: b.key(k), link: &k})
		delete(b.dirty, k)
	}
	for name := range b.stray {
		if len(puts) == maxPuts {
			break
		}
		puts = append(puts, keyPut{name: name})
		delete(b.stray, name)
	}
	slices.SortFunc(puts, func(a, b keyPut) int { return strings.Compare(a.name, b.name) })
	return puts
}

// message is the put of a key, as nats.go's KeyValue makes it; of no data, its
// purge.
func (b *Bucket) message(key string, data []byte) *nats.Msg {
	msg := nats.NewMsg(b.cfg.PutSubject(b.cfg.Bucket, key))
	if data != nil {
		msg.Data = data
		return msg
	}
	msg.Header = purgeHeader()
	if b.markers {
		msg.Header.Set(jetstream.MsgTTLHeader, markerTTL.String())
	}
	return msg
}

// kvOperation is the header by which a message of a bucket is no value.
const kvOperation = "KV-Operation"

// purgeHeader is that of the purge of a key, as nats.go's KeyValue makes it.
func purgeHeader() nats.Header {
	return nats.Header{kvOperation: {"PURGE"}, jetstream.MsgRollup: {jetstream.MsgRollupSubject}}
}

// again notes that a key is not as it should be yet.
func (b *Bucket) again(p *keyPut) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.link != nil {
		b.dirty[*p.link] = true
	} else {
		b.stray[p.name] = true
	}
}

// LookAgain has the bucket looked for, and made, at its next use: a broker that lost a
// stream may have lost it, too. It is for when Run is not under way.
func (b *Bucket) LookAgain() { b.opened = false }

// find finds the bucket, or makes it. One that was made again is filled again.
func (b *Bucket) find(ctx context.Context) error {
	if b.opened {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, natsio.LookupTimeout)
	defer cancel()
	stream, err := b.js.Stream(ctx, b.streamName())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err = b.create(ctx); err == nil {
			stream, err = b.js.Stream(ctx, b.streamName())
		}
	}
	if err != nil {
		return fmt.Errorf("bucket %s: %w", b.cfg.Bucket, err)
	}
	cfg := stream.CachedInfo().Config
	if !cfg.AllowDirect {
		return natsio.WithAdvice(fmt.Errorf("bucket %s: its stream does not allow direct gets", b.cfg.Bucket),
			"have someone who may run: nats stream edit %s --allow-direct", cfg.Name)
	}
	b.opened, b.markers = true, cfg.SubjectDeleteMarkerTTL > 0
	return nil
}

// streamName is the name of the stream that a bucket is.
func (b *Bucket) streamName() string { return "KV_" + b.cfg.Bucket }

// create makes the bucket, and has it filled.
func (b *Bucket) create(ctx context.Context) error {
	cfg := jetstream.KeyValueConfig{
		Bucket: b.cfg.Bucket, Description: "current network links, the last event of each, schema " + schema.Name,
		History: 1, Storage: jetstream.FileStorage, Replicas: b.cfg.Replicas, LimitMarkerTTL: markerTTL,
	}
	if _, err := b.js.CreateKeyValue(ctx, cfg); err != nil {
		return natsio.WithAdvice(fmt.Errorf("create it: %w", err),
			"let this user create it, or have someone who may run: nats kv add %s --storage=file --replicas=%d",
			cfg.Bucket, cfg.Replicas)
	}
	b.log.Info("created the bucket of link states", "bucket", cfg.Bucket)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range b.state.keys() {
		b.dirty[k] = true
	}
	return nil
}

// Register registers what the bucket counts.
func (b *Bucket) Register(to metrics.Registry) {
	to.CounterFunc("bucket_puts_total", "Keys that were put into or taken out of the bucket of current state.",
		func() float64 { return float64(b.puts.Load()) })
	to.GaugeFunc("bucket_behind_keys", "Keys that the bucket of current state does not hold yet as it should.",
		func() float64 { return float64(b.behindBy()) })
}
