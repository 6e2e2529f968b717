package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"ifacebridge/schema"
)

// answerTimeout is how long a bridge may take to answer.
const answerTimeout = 5 * time.Second

// ErrNobody says that there is no bridge to ask for the host; one that is there and does not
// answer is another error.
var ErrNobody = errors.New("no bridge answers for this host")

// Query asks the bridge of a host, by its token ([schema.HostToken]), for its
// links, all pages of them, and waits for at most five seconds. The answer is true at its
// Epoch and Seq. The error is [ErrNobody] when there is no such bridge.
func Query(ctx context.Context, nc *nats.Conn, token string) (*schema.Links, error) {
	return QueryUnder(ctx, nc, schema.DefaultPrefix, token)
}

// QueryUnder is [Query] of a bridge that publishes under another prefix.
func QueryUnder(ctx context.Context, nc *nats.Conn, prefix, token string) (*schema.Links, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var whole *schema.Links
	for request := []byte(nil); ; {
		reply, err := nc.RequestWithContext(ctx, schema.QuerySubjectUnder(prefix, token), request)
		if errors.Is(err, nats.ErrNoResponders) {
			return nil, ErrNobody
		} else if err != nil {
			return nil, fmt.Errorf("ask for the links: %w", err)
		}
		if code := reply.Header.Get(micro.ErrorCodeHeader); code != "" {
			return nil, fmt.Errorf("ask for the links: %s (%s)", reply.Header.Get(micro.ErrorHeader), code)
		}
		var page schema.Links
		if err := json.Unmarshal(reply.Data, &page); err != nil {
			return nil, fmt.Errorf("ask for the links: %w", err)
		}
		if page.Schema != schema.Name {
			return nil, fmt.Errorf("ask for the links: schema: not %s (got %q)", schema.Name, page.Schema)
		}
		if whole == nil {
			whole = &page
		} else {
			whole.Links = append(whole.Links, page.Links...)
		}
		if page.Next == "" {
			whole.Next = ""
			return whole, nil
		}
		if request, err = json.Marshal(map[string]string{"next": page.Next}); err != nil {
			return nil, err
		}
	}
}

// tokenOf returns the host's token of an event's subject.
func tokenOf(prefix, subject string) (string, bool) {
	rest, ok := strings.CutPrefix(subject, prefix+".")
	token, kind, dot := strings.Cut(rest, ".")
	return token, ok && dot && (kind == "new" || kind == "del")
}

// fromStream replays the stream and follows it, until that fails. The next time it goes
// on behind what it has given.
func (f *Fleet) fromStream(ctx context.Context) error {
	js, err := jetstream.NewWithAPIPrefix(f.nc, f.o.JetStreamAPI)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, f.o.Stream)
	if err != nil {
		return fmt.Errorf("stream %s: %w", f.o.Stream, err)
	}
	consumer, err := js.OrderedConsumer(ctx, f.o.Stream, f.whereToBegin(ctx, stream.CachedInfo()))
	if err != nil {
		return fmt.Errorf("stream %s: %w", f.o.Stream, err)
	}
	handle := func(m jetstream.Msg, meta *jetstream.MsgMetadata) {
		f.publish(ctx, m.Subject(), m.Data(), meta.Sequence.Stream)
		f.resume.after.Store(meta.Sequence.Stream)
	}
	r, err := consume(consumer, handle, func() { f.give(ctx, input{caughtUp: true}) })
	if err != nil {
		return fmt.Errorf("stream %s: %w", f.o.Stream, err)
	}
	defer r.stop()
	f.failure.Store(nil)
	return f.whileSame(ctx, js, stream, r, func() {})
}

// A reading is a stream that is being read.
type reading struct {
	consuming jetstream.ConsumeContext
	failed    chan error
	caughtUp  func()

	handling sync.Mutex // held while a message is handled
	stopped  bool

	mu       sync.Mutex
	consumer string // the server's: after a lost connection there is another one
	handled  uint64 // how many of its messages
	caught   bool   // caughtUp was called

	missing int // how many looks in a row did not find the consumer
}

// consume calls handle with each message of an ordered consumer, one at a time, and
// once caughtUp, when those that were there have been handled. It goes on until it is
// stopped, or has failed.
func consume(
	consumer jetstream.Consumer, handle func(jetstream.Msg, *jetstream.MsgMetadata), caughtUp func(),
) (*reading, error) {
	info := consumer.CachedInfo()
	r := &reading{failed: make(chan error, 1), caughtUp: caughtUp, consumer: info.Name}
	r.handle(info.Name, 0, info.NumPending)
	var err error
	r.consuming, err = consumer.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil { // no message of a stream
			return
		}
		r.handling.Lock()
		defer r.handling.Unlock()
		if r.stopped {
			return
		}
		handle(m, meta)
		r.handle(meta.Consumer, meta.Sequence.Consumer, meta.NumPending)
	}, jetstream.ConsumeErrHandler(failWith(r.failed)))
	if err != nil {
		return nil, err
	}
	return r, nil
}

// stop ends the reading: when it returns, nothing is handled any more. It does not wait for
// nats.go, which lets nobody stop a consumer while it makes it again, for up to 20 s where
// JetStream does not answer. What is left there ends with that.
func (r *reading) stop() {
	r.handling.Lock()
	defer r.handling.Unlock()
	r.stopped = true
	go r.consuming.Stop()
}

// handle takes note of how many messages of a consumer have been handled, when so many were
// to come.
func (r *reading) handle(consumer string, handled, pending uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.consumer, r.handled = consumer, handled
	if pending == 0 {
		r.catchUpLocked()
	}
}

func (r *reading) catchUpLocked() {
	if !r.caught {
		r.caught = true
		r.caughtUp()
	}
}

// look asks whether what was still to come has expired, or was purged: no message says so. It
// reports whether all has been handled. The server is asked by the consumer's name, since to
// ask the ordered consumer itself waits for as long as that is being made again.
func (r *reading) look(ctx context.Context, js jetstream.JetStream, stream string) (caught bool, err error) {
	r.mu.Lock()
	name, caught := r.consumer, r.caught
	r.mu.Unlock()
	if caught {
		return true, nil
	}
	consumer, err := js.Consumer(ctx, stream, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		if r.missing++; r.missing == 3 { // another one was made long ago, and nothing has come of it
			return false, err
		}
		return false, nil
	} else if err != nil {
		return false, nil // it is asked again
	}
	r.missing = 0
	info := consumer.CachedInfo()
	r.mu.Lock()
	defer r.mu.Unlock()
	if info.NumPending == 0 && r.consumer == name && info.Delivered.Consumer == r.handled { // nothing is on its way
		r.catchUpLocked()
	}
	return r.caught, nil
}

// failWith returns what puts an error of an ordered consumer into failed after which it
// does not go on. It begins again behind what it has given; but not when the stream itself
// is another one.
func failWith(failed chan<- error) func(jetstream.ConsumeContext, error) {
	return func(_ jetstream.ConsumeContext, err error) {
		if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) ||
			errors.Is(err, jetstream.ErrOrderedConsumerReset) || errors.Is(err, jetstream.ErrConsumerDeleted) {
			select {
			case failed <- err:
			default:
			}
		}
	}
}

// whileSame waits until a reading has failed, or the stream is another one than it was;
// every now and then it calls also.
func (f *Fleet) whileSame(
	ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, r *reading, also func(),
) error {
	name, created := stream.CachedInfo().Config.Name, stream.CachedInfo().Created
	check := time.NewTicker(min(f.o.Presence, lookOften))
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-r.failed:
			return fmt.Errorf("stream %s: %w", name, err)
		case <-check.C:
			info, err := stream.Info(ctx)
			if errors.Is(err, jetstream.ErrStreamNotFound) || err == nil && !info.Created.Equal(created) {
				return fmt.Errorf("stream %s is another one than it was", name)
			} else if errors.Is(err, nats.ErrConnectionClosed) {
				return fmt.Errorf("stream %s: %w", name, err)
			}
			caught, err := r.look(ctx, js, name)
			if err != nil {
				return fmt.Errorf("stream %s: %w", name, err)
			}
			if caught {
				check.Reset(f.o.Presence)
			}
			also()
		}
	}
}

// lookOften is how often a stream is looked at until all that was there has been handled:
// somebody waits for that.
const lookOften = 2 * time.Second

// publish gives a message to the loop, if it is an event. StreamSeq is its place in the
// stream, 0 of what comes from elsewhere.
func (f *Fleet) publish(ctx context.Context, subject string, data []byte, streamSeq uint64) {
	in, err := decode(f.o.Prefix, subject, data)
	if err != nil {
		f.o.Log.Warn("ignoring a message that is no event", "cause", err)
		return
	}
	in.streamSeq = streamSeq
	f.give(ctx, in)
}

// fromQuery subscribes to the events. Who is there, and what they have, the
// presence finds out.
func (f *Fleet) fromQuery(ctx context.Context) error {
	// What does not fit into the channel is dropped: a gap, which is noticed.
	messages := make(chan *nats.Msg, 64<<10)
	subs, err := f.subscribe(messages)
	if err != nil {
		return err
	}
	var former []*nats.Subscription
	defer func() { // nobody reads what is on its way
		for _, sub := range append(former, subs...) {
			_ = sub.Unsubscribe() // fails only when the connection is closed
		}
	}()
	f.failure.Store(nil)
	// A server that has refused a subscription does not say when it would grant it, nor can be
	// asked what it has refused, so this is done again every now and then.
	anew := time.NewTicker(f.o.Presence)
	defer anew.Stop()
	var overlapped <-chan time.Time
	again := f.nc.StatusChanged(nats.CONNECTED)
	defer f.nc.RemoveStatusListener(again)
	for {
		select {
		case m := <-messages:
			f.publish(ctx, m.Subject, m.Data, 0)
		case <-again: // what was published meanwhile went to others
			f.give(ctx, input{missed: true})
		case <-anew.C:
			made, err := f.subscribe(messages)
			if err != nil {
				return err
			}
			drain(former)
			former, subs = subs, made
			overlapped = time.After(min(f.o.Presence/2, overlap))
		case <-overlapped:
			drain(former)
			former = nil
		case <-ctx.Done():
			return nil
		}
	}
}

// overlap is how long a subscription lasts beside the one that follows it: the server gives what
// it is just delivering to those that there were before, and to none of them that has ended
// since. What comes of both is recognised.
const overlap = time.Second

// subscribe subscribes to the events.
func (f *Fleet) subscribe(messages chan *nats.Msg) (subs []*nats.Subscription, err error) {
	for _, subject := range f.subjects() {
		sub, err := f.nc.ChanSubscribe(subject, messages)
		if err != nil {
			drain(subs)
			return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		subs = append(subs, sub)
	}
	return subs, nil
}

// drain ends subscriptions, behind what is on its way.
func drain(subs []*nats.Subscription) {
	for _, sub := range subs {
		_ = sub.Drain() // as above
	}
}

// fromBucket follows the bucket of current state, until that fails.
func (f *Fleet) fromBucket(ctx context.Context) error {
	js, err := jetstream.NewWithAPIPrefix(f.nc, f.o.JetStreamAPI)
	if err != nil {
		return err
	}
	kv, err := js.KeyValue(ctx, f.o.Bucket)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", f.o.Bucket, err)
	}
	stream, err := js.Stream(ctx, "KV_"+f.o.Bucket)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", f.o.Bucket, err)
	}
	created := stream.CachedInfo().Created
	if former := f.bucketMade; !former.IsZero() && !former.Equal(created) {
		f.give(ctx, input{anew: true})
	}
	f.bucketMade = created
	// The end of its context stops the watcher, and waits for nobody; Stop would wait for an answer.
	watching, stop := context.WithCancel(ctx)
	defer stop()
	watcher, err := kv.WatchFiltered(watching, f.perHost(">", func(token string) string { return token + ".>" }))
	if err != nil {
		return fmt.Errorf("bucket %s: %w", f.o.Bucket, err)
	}
	f.failure.Store(nil)
	check := time.NewTicker(f.o.Presence)
	defer check.Stop()
	for {
		select {
		case entry, ok := <-watcher.Updates():
			switch {
			case !ok:
				return fmt.Errorf("bucket %s: the watcher ended", f.o.Bucket)
			case entry == nil:
				f.give(ctx, input{caughtUp: true})
			default:
				f.entry(ctx, entry)
			}
		case <-check.C:
			info, err := stream.Info(ctx)
			if errors.Is(err, jetstream.ErrStreamNotFound) || err == nil && !info.Created.Equal(created) {
				return fmt.Errorf("bucket %s is another one than it was", f.o.Bucket)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// entry gives an entry of the bucket to the loop.
func (f *Fleet) entry(ctx context.Context, entry jetstream.KeyValueEntry) {
	token, rest, _ := strings.Cut(entry.Key(), ".")
	if entry.Operation() != jetstream.KeyValuePut {
		if k, err := schema.ParseLinkKey(rest); err == nil {
			f.give(ctx, input{token: token, gone: true, key: k})
		}
		return
	}
	in := input{token: token, data: entry.Value()}
	if err := in.event.UnmarshalJSON(in.data); err != nil {
		f.o.Log.Warn("ignoring what is no event", "bucket", f.o.Bucket, "key", entry.Key(), "cause", err)
		return
	}
	f.give(ctx, in)
}
