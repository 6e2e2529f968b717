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
// links, all pages of them. The answer is true at its Epoch and Seq. The error is [ErrNobody]
// when there is none.
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
	consumer, err := js.OrderedConsumer(ctx, f.o.Stream, f.begin(ctx, stream.CachedInfo()))
	if err != nil {
		return fmt.Errorf("stream %s: %w", f.o.Stream, err)
	}
	caughtUp := false
	if info := consumer.CachedInfo(); info != nil && info.NumPending == 0 {
		caughtUp = true
		f.give(ctx, input{caughtUp: true})
	}
	failed := make(chan error, 1)
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil { // no message of a stream
			return
		}
		f.publish(ctx, m.Subject(), m.Data(), meta.Sequence.Stream)
		f.resume.after.Store(meta.Sequence.Stream)
		if meta.NumPending == 0 && !caughtUp {
			caughtUp = true
			f.give(ctx, input{caughtUp: true})
		}
	}, jetstream.ConsumeErrHandler(failWith(failed)))
	if err != nil {
		return fmt.Errorf("stream %s: %w", f.o.Stream, err)
	}
	defer func() { consuming.Stop(); <-consuming.Closed() }()
	f.failure.Store(nil)
	return f.whileSame(ctx, stream, failed, func() {})
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
			f.give(ctx, input{lost: true})
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
	keys := []string{">"}
	if len(f.o.Hosts) > 0 {
		keys = nil
		for _, name := range f.o.Hosts {
			token, _ := schema.HostToken(name) // was checked
			keys = append(keys, token+".>")
		}
	}
	watcher, err := kv.WatchFiltered(ctx, keys)
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

// presence is what a bridge says of itself: that it is there, and how far.
type presence struct {
	token, host, epoch string
	seq                uint64
	lacks              int // links that the bucket does not have as they are
}

// askPresence asks all bridges every now and then whether they are there, and how
// far they are: so that new ones are found, quiet ones noticed, and the last event
// before a silence is not missed.
func (f *Fleet) askPresence(ctx context.Context) {
	for {
		list, err := f.roll(ctx, min(f.o.Presence/2, 2*time.Second))
		if err == nil {
			f.give(ctx, input{presence: list})
		}
		for waited := time.Duration(0); waited == 0 || waited < rollRarely && !f.asksRoll(); waited += f.o.Presence {
			select {
			case <-time.After(f.o.Presence):
			case <-ctx.Done():
				return
			}
		}
	}
}

// rollRarely is how often all bridges are asked although the bucket of hosts seems to have
// them: one may have come that does not write there.
const rollRarely = 5 * time.Minute

// roll calls the roll: it returns the bridges that answer within the time. It is
// never nil when there was no error.
func (f *Fleet) roll(ctx context.Context, within time.Duration) ([]presence, error) {
	if !f.nc.IsConnected() {
		return nil, nats.ErrDisconnected
	}
	inbox := f.nc.NewInbox()
	sub, err := f.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := f.nc.PublishRequest(micro.APIPrefix+".STATS."+schema.ServiceName, inbox, nil); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	list := []presence{}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) {
			return list, nil
		} else if err != nil {
			return nil, err
		}
		var stats micro.Stats
		if json.Unmarshal(m.Data, &stats) != nil || len(stats.Endpoints) == 0 { // not one of ours
			continue
		}
		p := presence{token: stats.Metadata["token"], host: stats.Metadata["host"]}
		var at struct {
			Epoch  string
			Seq    uint64
			Behind int `json:"bucket_behind"`
		}
		if json.Unmarshal(stats.Endpoints[0].Data, &at) == nil {
			p.epoch, p.seq, p.lacks = at.Epoch, at.Seq, at.Behind
		}
		if p.token != "" && stats.Metadata["prefix"] == f.o.Prefix && f.follows(p.token) {
			list = append(list, p)
		}
	}
}

// quietAfter is how often a bridge may fail to answer before it is quiet.
const quietAfter = 3

// present compares who is there with who is known.
func (f *Fleet) present(ctx context.Context, list []presence) (changes []Change) {
	there := map[string]bool{}
	for _, p := range list {
		there[p.token] = true
		h := f.host(p.token, p.host)
		if h.isRetired() && time.Since(h.retiredAt) < f.o.Presence { // an answer from before
			continue
		}
		if h.standing == silent || h.standing == retired { // it cannot write there
			h.standing = unknown
		}
		changes = append(changes, f.isThere(ctx, h, p, "")...)
	}
	for token, h := range f.hosts {
		if there[token] || h.standing != unknown || h.isRetired() {
			continue
		}
		if h.awayFor++; h.awayFor == 1 && !h.quiet {
			h.quietSince = time.Now()
		}
		if h.awayFor == quietAfter {
			changes = append(append(changes, h.fallQuiet(h.quietSince)...), h.retire()...)
		}
	}
	f.rolled = true
	f.joined()
	return changes
}

// isThere takes note that a bridge is there, and how far it is.
func (f *Fleet) isThere(ctx context.Context, h *host, p presence, labels schema.Labels) (changes []Change) {
	changes = h.comeBack()
	if h.labels == "" {
		h.labels = labels
	}
	// What the bridge had confirmed at the last presence and is still not here will
	// never come; where nothing comes at all, nothing is waited for.
	h.lacks = p.lacks
	f.doubtStored(h)
	h.lost = h.behind > 0 && (p.epoch != h.epoch || h.seq < h.behind)
	h.behind = 0
	if p.epoch != h.epoch || p.seq > h.seq {
		h.behind = max(p.seq, 1)
	}
	if !h.whole || h.lost && f.o.Join == FromQuery || h.behind > 0 && f.o.Join == FromBucket {
		f.ask(ctx, h)
	}
	return changes
}

// doubtStored takes note that the bucket does not have all of a host's links, if that is so:
// its bridge is to be asked.
func (f *Fleet) doubtStored(h *host) {
	if f.o.Join == FromBucket && h.lacks > 0 && h.stored && f.read {
		h.whole, h.unsure, h.stored = false, true, false
	}
}

// anyUnanswered reports whether a bridge that is there has not told its links.
func (f *Fleet) anyUnanswered() bool {
	for _, h := range f.hosts {
		if !h.whole && h.awayFor == 0 && !h.quiet && !h.isRetired() {
			return true
		}
	}
	return false
}
