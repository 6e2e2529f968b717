package fleet

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A resumption is where to go on in the stream.
type resumption struct {
	created time.Time     // the stream that was read last; zero: none was
	after   atomic.Uint64 // what was given of it last; 0: nothing
}

// whereToBegin says where to begin in a stream: behind what was given of it last, or what
// Options.After says. If something behind that has expired, or the stream is another one,
// that is given first.
func (f *Fleet) whereToBegin(ctx context.Context, stream *jetstream.StreamInfo) jetstream.OrderedConsumerConfig {
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: f.subjects()}
	r := &f.resume
	if r.created.IsZero() {
		r.after.Store(f.o.After)
	}
	after, another := r.after.Load(), !r.created.IsZero() && !r.created.Equal(stream.Created)
	r.created = stream.Created
	switch {
	case after == 0:
	case another || after > stream.State.LastSeq:
		after = 0
		r.after.Store(0)
		f.give(ctx, input{expired: new(uint64)})
	case stream.State.FirstSeq > after+1:
		missed := stream.State.FirstSeq - after - 1
		after += missed // else it would be given again if the stream cannot be read yet
		r.after.Store(after)
		f.give(ctx, input{expired: &missed})
	}
	f.resolveAgo(stream)
	switch {
	case after > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, after+1
	case !f.o.Since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &f.o.Since
	}
	return cfg
}

// resolveAgo makes Options.Since of Options.Ago, once: what is read again begins at the same
// place.
func (f *Fleet) resolveAgo(stream *jetstream.StreamInfo) {
	if f.o.Ago > 0 {
		f.o.Since, f.o.Ago = stream.TimeStamp.Add(-f.o.Ago), 0
	}
}

// expire notes that messages which have not been given are not there any more. Of whom
// they were is not known: all hosts are asked, or read anew.
func (f *Fleet) expire(ctx context.Context, missed uint64) []Change {
	for _, h := range f.hosts {
		h.doubt()
		f.ask(ctx, h)
	}
	return []Change{{Kind: Expired, Missed: missed}}
}
