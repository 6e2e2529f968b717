package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"ifacebridge/schema"
)

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
		asked := time.Now()
		list, err := f.roll(ctx, min(f.o.Presence/2, 2*time.Second))
		rest := time.Duration(0) // when it failed, nobody was asked, whatever the bucket of hosts has
		if err == nil {
			f.give(ctx, input{presence: list, asked: asked})
			rest = rollRarely
		}
		for waited := time.Duration(0); waited == 0 || waited < rest && !f.asksRoll(); waited += f.o.Presence {
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

// present compares who is there with who is known. They were asked then.
func (f *Fleet) present(ctx context.Context, list []presence, asked time.Time) (changes []Change) {
	there := map[string]bool{}
	for _, p := range list {
		there[p.token] = true
		h := f.host(p.token, p.host)
		if later(h.retiredAt, h.markedAt).After(asked) { // it may have answered before that
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
