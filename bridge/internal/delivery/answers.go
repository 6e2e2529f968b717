package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/bridge/internal/natsio"
)

// An origin is where a stream is: two streams of one name may answer a publish, each in a
// JetStream domain of its own.
type origin struct{ stream, domain string }

// An acknowledgment is what a stream answers to a publish, or to the commit of a batch.
type acknowledgment struct {
	Stream    string              `json:"stream"`
	Domain    string              `json:"domain"`
	Sequence  uint64              `json:"seq"`
	Duplicate bool                `json:"duplicate"`
	BatchID   string              `json:"batch"`
	BatchSize int                 `json:"count"`
	Error     *jetstream.APIError `json:"error"`
}

// answers receives what is answered to publishes, of which one is under way at a time: all
// answers, where a request of nats.go takes the first. It is for one goroutine.
type answers struct {
	nc    *nats.Conn
	on    string // the connection of the inbox
	inbox string
	n     uint64 // publishes
	sub   *nats.Subscription
	read  func(context.Context) (*nats.Msg, error) // its NextMsgWithContext

	// elsewhere is whether other streams than ours were heard to answer, too: then a
	// refusal, which does not name its domain, may be theirs.
	elsewhere bool
	heard     func(*acknowledgment) // called with the first answer of another stream
}

// elsewhereGrace is how long after a refusal the answer of our stream may come.
const elsewhereGrace = time.Second

func newAnswers(nc *nats.Conn, heard func(*acknowledgment)) *answers {
	return &answers{nc: nc, heard: heard}
}

// next returns the subject for the answers to the next publish, and a name of that publish. Both
// are of the connection: the inbox alone is also that of a machine that goes on from the same
// saved memory.
func (a *answers) next(ctx context.Context) (reply, name string, err error) {
	on := natsio.ConnectionName(a.nc)
	if a.sub == nil || !a.sub.IsValid() || a.on != on {
		a.stop()
		a.on, a.inbox = on, a.nc.NewInbox()+"-"+on
		if a.sub, err = a.nc.SubscribeSync(a.inbox + ".*"); err != nil {
			return "", "", err
		}
		a.read = a.sub.NextMsgWithContext
		ctx, cancel := context.WithTimeout(ctx, natsio.ConfirmTimeout)
		defer cancel()
		// The publish may be written before what nats.go has in its buffer.
		if err := a.nc.FlushWithContext(ctx); err != nil {
			return "", "", err
		}
	}
	a.n++
	n := strconv.FormatUint(a.n, 10)
	return a.inbox + "." + n, on + "-" + n, nil
}

// await waits for the answer that a stream gives on a subject of next, from now on for as long
// as an answer may take: what was published may have taken longer. What others answer
// is none. It returns the stream's refusal as its error. What follows when no answer comes
// in time is in jetstream.go: the last stored message is looked at before anything is sent.
func (a *answers) await(ctx context.Context, reply string, from origin) (*acknowledgment, error) {
	ctx, cancel := context.WithTimeout(ctx, natsio.ConfirmTimeout)
	defer cancel()
	var refusal *jetstream.APIError
	for {
		m, err := a.read(ctx)
		switch {
		case err != nil && refusal != nil:
			return nil, refusal
		case err != nil:
			a.drop(err)
			return nil, err
		}
		ack := new(acknowledgment)
		if err := json.Unmarshal(m.Data, ack); err != nil {
			return nil, fmt.Errorf("acknowledgment: %w", err)
		}
		ours := ack.Stream == from.stream && ack.Domain == from.domain
		if ack.Error != nil { // it names no domain, and not always the stream
			ours = ack.Stream == from.stream || ack.Stream == ""
		}
		switch {
		case !ours:
			a.note(ack)
		case m.Subject != reply: // to an earlier publish, which was given up
		case ack.Error == nil:
			return ack, nil
		case !a.elsewhere:
			return nil, ack.Error
		case refusal == nil: // of ours, or of another domain's stream of that name
			refusal = ack.Error
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, elsewhereGrace)
			defer cancel()
		}
	}
}

// note takes note that other streams answer, too.
func (a *answers) note(ack *acknowledgment) {
	if !a.elsewhere {
		a.elsewhere = true
		a.heard(ack)
	}
}

// drop gives a subscription up that has ended, such as one that was refused.
func (a *answers) drop(err error) {
	ended := !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) &&
		!errors.Is(err, nats.ErrNoResponders)
	if ended {
		a.stop()
	}
}

// stop ends the subscription, if there is one.
func (a *answers) stop() {
	if a.sub != nil {
		_ = a.sub.Unsubscribe() // fails when it has ended
		a.sub = nil
	}
}
