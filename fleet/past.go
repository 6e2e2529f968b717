package fleet

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/schema"
)

// Past calls each, one at a time, with the events that the stream holds since o.Since, or
// o.Ago, of the hosts to follow, in the stream's order, and returns at what was the stream's
// end when it began. Of more than about most events it gives the newest. It returns since
// when they are all there: later than was asked for when there were too many, or when the
// stream does not go back so far. each may keep the event. A stream that cannot be read, or
// ctx, ends it with an error.
func Past(
	ctx context.Context, nc *nats.Conn, o Options, most uint64, each func(*schema.Event),
) (from time.Time, err error) {
	f, err := New(nc, o)
	if err != nil {
		return time.Time{}, err
	}
	js, err := jetstream.NewWithAPIPrefix(nc, f.o.JetStreamAPI)
	if err != nil {
		return time.Time{}, err
	}
	stream, err := js.Stream(ctx, f.o.Stream)
	if err != nil {
		return time.Time{}, fmt.Errorf("stream %s: %w", f.o.Stream, err)
	}
	f.resolveAgo(stream.CachedInfo())
	consumer, bounded, err := f.past(ctx, js, stream.CachedInfo().State.LastSeq, most)
	if err != nil {
		return time.Time{}, fmt.Errorf("stream %s: %w", f.o.Stream, err)
	}
	from = f.o.Since
	if edge := edge(stream.CachedInfo()); edge.After(from) {
		from = edge
	}
	first, err := f.replay(ctx, js, stream, consumer, each)
	if err != nil {
		return time.Time{}, err
	}
	if bounded && first.After(from) {
		from = first
	}
	return from, nil
}

// edge returns since when a stream has what was published.
func edge(stream *jetstream.StreamInfo) time.Time {
	switch state := stream.State; {
	case state.FirstSeq <= 1:
		return stream.Created
	case state.Msgs == 0: // it was purged, or all of it has expired
		return stream.TimeStamp
	default:
		return state.FirstTime
	}
}

// past makes the consumer of the events since Options.Since, or of the newest of them.
func (f *Fleet) past(
	ctx context.Context, js jetstream.JetStream, last, most uint64,
) (c jetstream.Consumer, bounded bool, err error) {
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: f.subjects(), DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &f.o.Since,
	}
	if c, err = js.OrderedConsumer(ctx, f.o.Stream, cfg); err != nil || c.CachedInfo().NumPending <= most || last <= most {
		return c, false, err
	}
	cfg.DeliverPolicy, cfg.OptStartTime, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, nil, last-most+1
	c, err = js.OrderedConsumer(ctx, f.o.Stream, cfg)
	return c, true, err
}

// replay calls each with what a consumer had to come when it was made, and returns the time
// of the first.
func (f *Fleet) replay(
	ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, consumer jetstream.Consumer,
	each func(*schema.Event),
) (first time.Time, err error) {
	reading, end := context.WithCancel(ctx)
	defer end()
	left := consumer.CachedInfo().NumPending
	r, err := consume(consumer, func(m jetstream.Msg, meta *jetstream.MsgMetadata) {
		if reading.Err() != nil { // it has come since
			return
		}
		if first.IsZero() {
			first = meta.Timestamp
		}
		if in, err := decode(f.o.Prefix, m.Subject(), m.Data()); err == nil {
			each(&in.event)
		}
		if left--; left == 0 {
			end()
		}
	}, end)
	if err != nil {
		return first, fmt.Errorf("stream %s: %w", f.o.Stream, err)
	}
	err = f.whileSame(reading, js, stream, r, func() {})
	r.stop()
	return first, cmp.Or(err, ctx.Err())
}
