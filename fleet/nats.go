package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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
	handle := func(m jetstream.Msg, meta *jetstream.MsgMetadata) {
		f.publish(ctx, m.Subject(), m.Data(), meta.Sequence.Stream)
		f.resume.after.Store(meta.Sequence.Stream)
	}
	stop, failed, err := consume(ctx, js, f.o.Stream, f.whereToBegin(ctx, stream.CachedInfo()), handle,
		func() { f.give(ctx, input{caughtUp: true}) })
	if err != nil {
		return fmt.Errorf("stream %s: %w", f.o.Stream, err)
	}
	defer stop()
	f.failure.Store(nil)
	return f.whileSame(ctx, stream, failed, func() {})
}

// consume calls handle with each message of a stream that cfg asks for, one at a time, and
// once caughtUp, when those that were there have been handled. It goes on until stop is
// called, or gives the error with which it cannot.
func consume(
	ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.OrderedConsumerConfig,
	handle func(jetstream.Msg, *jetstream.MsgMetadata), caughtUp func(),
) (stop func(), failed <-chan error, err error) {
	consumer, err := js.OrderedConsumer(ctx, stream, cfg)
	if err != nil {
		return nil, nil, err
	}
	caught := false
	if info := consumer.CachedInfo(); info != nil && info.NumPending == 0 {
		caught = true
		caughtUp()
	}
	failures := make(chan error, 1)
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil { // no message of a stream
			return
		}
		handle(m, meta)
		if meta.NumPending == 0 && !caught {
			caught = true
			caughtUp()
		}
	}, jetstream.ConsumeErrHandler(failWith(failures)))
	if err != nil {
		return nil, nil, err
	}
	return func() { consuming.Stop(); <-consuming.Closed() }, failures, nil
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

// whileSame waits until something has failed, or the stream is another one than it was;
// every now and then it calls also.
func (f *Fleet) whileSame(ctx context.Context, stream jetstream.Stream, failed <-chan error, also func()) error {
	name, created := stream.CachedInfo().Config.Name, stream.CachedInfo().Created
	check := time.NewTicker(f.o.Presence)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("stream %s: %w", name, err)
		case <-check.C:
			info, err := stream.Info(ctx)
			if errors.Is(err, jetstream.ErrStreamNotFound) || err == nil && !info.Created.Equal(created) {
				return fmt.Errorf("stream %s is another one than it was", name)
			}
			also()
		}
	}
}

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
	// The library holds 512 Ki messages for a subscription, and drops what does not
	// fit: a gap, which is noticed.
	messages := make(chan *nats.Msg, 64<<10)
	for _, subject := range f.subjects() {
		sub, err := f.nc.ChanSubscribe(subject, messages)
		if err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed
	}
	f.failure.Store(nil)
	again := f.nc.StatusChanged(nats.CONNECTED)
	defer f.nc.RemoveStatusListener(again)
	for {
		select {
		case m := <-messages:
			f.publish(ctx, m.Subject, m.Data, 0)
		case <-again: // what was published meanwhile went to others
			f.give(ctx, input{missed: true})
		case <-ctx.Done():
			return nil
		}
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
	watcher, err := kv.WatchFiltered(ctx, f.perHost(">", func(token string) string { return token + ".>" }))
	if err != nil {
		return fmt.Errorf("bucket %s: %w", f.o.Bucket, err)
	}
	defer func() { _ = watcher.Stop() }() // its consumer expires by itself
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
