package state

import (
	"bytes"
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
	// Changed is called when puts begin to fail, when that is over, and when the first link
	// cannot be put; nil: not. It must not block.
	Changed func()

	cfg config.Config
	js  jetstream.JetStream
	nc  *nats.Conn
	log *slog.Logger

	state *State // what the bucket should hold

	mu       sync.Mutex
	dirty    map[schema.LinkKey]bool // links that it does not hold like that yet
	stray    map[string]bool         // keys of no link, which are to go
	inFlight int                     // of both, those that were put and are not confirmed
	check    bool                    // it is to be compared with the state
	wake     chan struct{}           // holds a token when a key became dirty, or check true

	puts    atomic.Uint64                // keys that were put or purged
	fault   atomic.Pointer[natsio.Fault] // of the last attempt to put; nil: it did not fail
	failing atomic.Int64                 // since when attempts fail, by loop.Uptime; 0: they do not

	opened   bool             // it was found or made
	markers  bool             // markers of deleted keys can be given a time to live
	rollups  bool             // a marker may take its key's history with it
	ttl      time.Duration    // after which it forgets keys; 0: never
	putAgain time.Time        // when all keys are put again before that
	largest  int              // bytes that a value may have, 0: any
	findings []natsio.Finding // what is not as it should be, when it was looked at last
	logged   map[string]bool  // findings, and keys that were given up, that are logged

	lacking map[schema.LinkKey]bool // links whose value is larger than it takes; under mu
}

// bucketPause is how long to gather changes between two rounds of puts.
const bucketPause = 20 * time.Millisecond

// NewBucket returns what keeps st in the bucket that cfg names. Nothing is asked yet.
func NewBucket(cfg config.Config, st *State, nc *nats.Conn, log *slog.Logger) (*Bucket, error) {
	js, err := natsio.JetStream(&cfg, nc,
		jetstream.WithPublishAsyncMaxPending(maxPuts), jetstream.WithPublishAsyncTimeout(natsio.ConfirmTimeout))
	if err != nil {
		return nil, err
	}
	return &Bucket{
		cfg: cfg, js: js, nc: nc, log: log, state: st,
		dirty: map[schema.LinkKey]bool{}, stray: map[string]bool{}, wake: make(chan struct{}, 1),
		logged: map[string]bool{}, lacking: map[schema.LinkKey]bool{},
	}, nil
}

// key is the key of a link.
func (b *Bucket) key(k schema.LinkKey) string { return b.cfg.Token + "." + k.String() }

// subject is that of a key.
func (b *Bucket) subject(key string) string { return config.BucketSubject(b.cfg.Bucket, key) }

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

// Forget drops what is noted, since the state was reset: another bridge has kept the bucket
// since. It is for when Run is not under way.
func (b *Bucket) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.dirty)
	clear(b.stray)
	clear(b.lacking)
	b.check = false
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
		Last: &b.fault,
	}
	for ending := false; ; {
		if !b.behind() {
			if ending {
				return
			}
			select {
			case <-b.wake:
			case <-loop.After(b.untilPutAgain()):
				b.fillAgain()
			case <-done:
				ending = true
				continue
			case <-ctx.Done():
				return
			}
		}
		if err := b.catchUp(ctx); err != nil {
			b.opened = false // look it up again: it may be gone
			fault := natsio.Classify(err)
			b.fault.Store(&fault)
			b.fail(true)
			if retry.Wait(ctx, b.nc, err, b.behindBy()) != nil {
				return
			}
			continue
		}
		retry.End()
		b.fail(false)
		if b.ttl > 0 && b.untilPutAgain() <= time.Millisecond { // also where there is always something to do
			b.fillAgain()
		}
		select { // gather what comes next
		case <-time.After(bucketPause):
		case <-done:
			ending = true
		case <-ctx.Done():
			return
		}
	}
}

// untilPutAgain returns how long until all keys are to be put again, since the bucket
// forgets them otherwise; 0: never.
func (b *Bucket) untilPutAgain() time.Duration {
	if b.ttl == 0 {
		return 0
	}
	return max(time.Until(b.putAgain), time.Millisecond)
}

// fillAgain has all keys put before the bucket forgets them.
func (b *Bucket) fillAgain() {
	b.putAgain = time.Now().Add(b.ttl / 3)
	b.fill()
}

// fill has all keys put.
func (b *Bucket) fill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range b.state.keys() {
		b.dirty[k] = true
	}
}

// behindBy returns how many keys are not in the bucket as they should be.
func (b *Bucket) behindBy() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.dirty) + len(b.stray)
}

// Behind returns how many links the bucket does not have as they are. It may be called
// from any goroutine, as may Fault.
func (b *Bucket) Behind() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.dirty) + len(b.stray) + b.inFlight + len(b.lacking)
}

// Lacks returns how many links are not put, since they are larger than the bucket takes.
func (b *Bucket) Lacks() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.lacking)
}

// fail notes whether puts fail. Why, fault has then: Run sets it before, so that who is told by
// Changed finds it.
func (b *Bucket) fail(failing bool) {
	before := b.failing.Load()
	switch {
	case failing && before == 0:
		b.failing.Store(int64(loop.Uptime()))
	case !failing && before != 0:
		b.failing.Store(0)
	default:
		return
	}
	b.changed()
}

func (b *Bucket) changed() {
	if b.Changed != nil {
		b.Changed()
	}
}

// Fault returns for how long nothing could be put, and why; nil when that is not so.
func (b *Bucket) Fault() (lasting time.Duration, why *natsio.Fault) {
	failing, fault := b.failing.Load(), b.fault.Load()
	if failing == 0 || fault == nil {
		return 0, nil
	}
	return loop.Uptime() - time.Duration(failing), fault
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
		b.opened = false // how it is to be used may have been changed, too: a limit be raised, as we advise
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
			msg := b.message(puts[i].name, b.value(puts[i].link))
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
			b.arrived()
		case err := <-puts[i].ack.Err():
			failure = err
			b.again(&puts[i])
		case <-ctx.Done():
			failure = ctx.Err()
			b.again(&puts[i])
		}
	}
	if natsio.IsFull(failure) {
		b.opened = false
		if b.find(ctx) == nil { // what it is full of
			failure = natsio.AdviseFull(failure, b.findings)
		}
	}
	return failure
}

// Purge purges all keys of the host, which has no links in the state. The bucket has to be
// there. It blocks for as long as NATS takes, until ctx ends.
func (b *Bucket) Purge(ctx context.Context) error {
	b.Verify()
	for b.behind() {
		if err := b.catchUp(ctx); err != nil {
			return err
		}
	}
	return nil
}

// holds reports whether data is what the bucket is to hold of a link.
func (b *Bucket) holds(k schema.LinkKey, data []byte) bool {
	if b.largest == 0 {
		return b.state.isLast(k, data)
	}
	return bytes.Equal(b.value(&k), data)
}

// lacks reports whether a link's value is larger than the bucket takes.
func (b *Bucket) lacks(k schema.LinkKey) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lacking[k]
}

// value returns what the bucket is to hold of a link: its last event, of which fields are
// left out that make it larger than a value may be. It is nil when the link is not there,
// or when that does not help: rather no key than an old one.
func (b *Bucket) value(k *schema.LinkKey) []byte {
	if k == nil {
		return nil
	}
	data := b.state.last(*k)
	if b.largest > 0 && len(data) > b.largest {
		data, _ = event.Truncate(data, b.largest)
	}
	b.mu.Lock()
	if b.largest == 0 || len(data) <= b.largest {
		delete(b.lacking, *k)
		b.mu.Unlock()
		return data
	}
	news := !b.lacking[*k]
	b.lacking[*k] = true
	first := len(b.lacking) == 1
	b.mu.Unlock() // Put, which must not block, is not to wait for the log
	if news {
		b.log.Error("a link's state is larger than the bucket takes, and is not in it", "bucket", b.cfg.Bucket,
			"key", b.key(*k), "bytes", len(data), "limit", b.largest, "advice", "raise the bucket's max_msg_size")
	}
	if first {
		b.changed()
	}
	return nil
}

// A keyPut is one key on its way into the bucket, or out of it.
type keyPut struct {
	name string
	link *schema.LinkKey // nil: it is no link's
	ack  jetstream.PubAckFuture
}

// maxPuts is how many keys are put in one round: each that waits for its
// acknowledgment holds its value.
const maxPuts = 256

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
	b.inFlight = len(puts)
	slices.SortFunc(puts, func(a, b keyPut) int { return strings.Compare(a.name, b.name) })
	return puts
}

// message is the put of a key, as nats.go's KeyValue makes it; of no data, its
// purge, or its deletion where the bucket takes no purges.
func (b *Bucket) message(key string, data []byte) *nats.Msg {
	msg := nats.NewMsg(b.cfg.PutSubject(b.cfg.Bucket, key))
	if data != nil {
		msg.Data = data
		return msg
	}
	if msg.Header = deleteHeader(); b.rollups {
		msg.Header = purgeHeader()
	}
	if b.markers {
		msg.Header.Set(jetstream.MsgTTLHeader, natsio.MarkerTTL.String())
	}
	return msg
}

// kvOperation is the header by which a message of a bucket is no value.
const kvOperation = "KV-Operation"

// deleteHeader is that of the deletion of a key, which leaves the history that it has.
func deleteHeader() nats.Header { return nats.Header{kvOperation: {"DEL"}} }

// purgeHeader is that of the purge of a key, as nats.go's KeyValue makes it.
func purgeHeader() nats.Header {
	return nats.Header{kvOperation: {"PURGE"}, jetstream.MsgRollup: {jetstream.MsgRollupSubject}}
}

// arrived notes that a key is as it should be.
func (b *Bucket) arrived() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight--
	b.puts.Add(1)
}

// again notes that a key is not as it should be yet.
func (b *Bucket) again(p *keyPut) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight--
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
	info := stream.CachedInfo()
	b.findings = natsio.InspectBucket(&b.cfg, info)
	if err := natsio.Refusal(b.findings); err != nil {
		return err
	}
	natsio.LogFindings(b.log, b.findings, b.logged)
	b.use(&info.Config)
	return nil
}

// use takes note of how the bucket is to be used. Where its limit is another one, values that were cut, or left
// out, are put as they are now.
func (b *Bucket) use(cfg *jetstream.StreamConfig) {
	b.opened, b.markers, b.rollups = true, cfg.SubjectDeleteMarkerTTL > 0, cfg.AllowRollup && !cfg.DenyPurge
	if largest := max(int(cfg.MaxMsgSize), 0); largest != b.largest {
		b.largest = largest
		b.fill()
	}
	if b.ttl != cfg.MaxAge {
		b.ttl, b.putAgain = cfg.MaxAge, time.Now().Add(cfg.MaxAge/3)
	}
}

// streamName is the name of the stream that a bucket is.
func (b *Bucket) streamName() string { return config.BucketStream(b.cfg.Bucket) }

// create makes the bucket, and has it filled.
func (b *Bucket) create(ctx context.Context) error {
	cfg := natsio.BucketConfig(&b.cfg)
	if _, err := b.js.CreateKeyValue(ctx, cfg); err != nil {
		return natsio.CannotCreate(fmt.Errorf("create it: %w", err), natsio.AddBucketCommand(&b.cfg, cfg))
	}
	b.log.Info("created the bucket of link states", "bucket", cfg.Bucket)
	b.fill()
	return nil
}

// Register registers what the bucket counts.
func (b *Bucket) Register(to metrics.Registry) {
	to.CounterFunc("bucket_puts_total", "Keys that were put into or taken out of the bucket of current state.",
		func() float64 { return float64(b.puts.Load()) })
	to.GaugeFunc("bucket_behind_keys", "Keys that the bucket of current state does not hold yet as it should.",
		func() float64 { return float64(b.Behind()) })
}
