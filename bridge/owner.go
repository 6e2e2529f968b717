package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/internal/delivery"
	"ifacebridge/schema"
)

// One bridge owns the name of a host: the one that answers on its behalf. A bridge that
// starts asks first, and stands by while another answers; one that finds itself replaced
// does the same. So two bridges of one name do not take it from each other for ever,
// whatever restarts them. What asking cannot see, the fence of the stream does.

const (
	// askEvery is how often a bridge that stands by asks whether the owner is still there.
	// After askMisses without an answer in a row, for each of which it waits for
	// state.AskTimeout, the owner is taken for gone: within 5 s, also when it hangs.
	askEvery  = 1500 * time.Millisecond
	askMisses = 2
)

// A rival is what is known of another bridge that owns the name.
type rival struct {
	log      *slog.Logger
	fenced   bool                   // it has written behind us
	heard    bool                   // it has answered since
	unheard  int                    // how often it has written behind us and had never answered
	stoodBy  bool                   // this bridge has stood by, and has not begun anew since
	standing atomic.Pointer[string] // why this bridge stands by; nil: it does not
}

// replacedBy notes that another bridge has written behind us.
func (o *rival) replacedBy(by *delivery.ReplacedError) {
	o.fenced, o.heard = true, false
	o.unheard++
	o.standBy("standing by: "+by.Error(), "their_epoch", by.Epoch, "their_boot_id", by.BootID)
}

// standBy notes why this bridge does not publish, and logs it once.
func (o *rival) standBy(why string, attrs ...any) {
	o.stoodBy = true
	if before := o.standing.Swap(&why); before == nil {
		o.log.Warn("standing by: another bridge publishes as this host; going on when it is gone",
			append(attrs, "advice", "give each host a name of its own (IFACE_HOST), and run one bridge for it")...)
	}
}

// answered notes that it answers.
func (o *rival) answered() { o.heard, o.unheard = true, 0 }

// maxDoublings bounds how long is waited for an answer: for five minutes or so.
const maxDoublings = 6

// isGone reports whether it is taken for gone, after it has not answered so often in a row.
// That nobody is there is believed at once of one that was never heard; one that was may be
// connecting again, since NATS was restarted and this bridge was connected first.
// One that writes and never answers may hang, or may not be able to: each time that it was
// taken for gone and was not, it is waited for twice as long. Where asking is not allowed
// nobody can know, and it is there.
func (o *rival) isGone(misses int, why error) bool {
	switch {
	case !o.heard && errors.Is(why, nats.ErrNoResponders):
		return true
	case !o.fenced || o.heard:
		return misses >= askMisses
	}
	return !errors.Is(why, nats.ErrPermissionViolation) && misses >= askMisses<<min(o.unheard-1, maxDoublings)
}

// ownNow notes that nobody else owns the name.
func (o *rival) ownNow() {
	o.fenced, o.heard = false, false
	if o.standing.Swap(nil) != nil {
		o.log.Info("publishing as this host again: the other bridge is gone")
	}
}

// errStandingBy says that the bridge was stopped while it stood by.
var errStandingBy = errors.New("stopped while standing by")

// own waits until no other bridge answers for this host, and answers from then on.
func (p *publisher) own(ctx context.Context) error {
	if p.query.Serves() { // the host's name is ours
		p.name()
		p.query.Serve(p.epoch)
		return nil
	}
	for misses := 0; ; {
		var other *schema.Owner
		var askErr error
		if err := p.keepAt(ctx, func(ctx context.Context) (bool, error) {
			other, askErr = p.query.AskOwner(ctx)
			return false, ctx.Err()
		}); err != nil {
			return err
		}
		if askErr == nil {
			misses = 0
			p.owner.answered()
			p.owner.standBy(fmt.Sprintf("standing by: another bridge publishes as this host (epoch %s, boot %s, since %s)",
				other.Epoch, other.BootID, other.Started.UTC().Format(time.RFC3339)),
				"their_epoch", other.Epoch, "their_boot_id", other.BootID, "since", other.Started)
		} else if misses++; p.owner.isGone(misses, askErr) {
			p.owner.ownNow()
			p.name()
			p.query.Serve(p.epoch)
			return nil
		}
		p.progress.Rest()
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
		p.progress.Work()
		if p.backlog.Closed() && p.owner.standing.Load() != nil { // else there may be no other
			return errStandingBy
		}
	}
}
