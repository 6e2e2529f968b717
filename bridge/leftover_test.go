package bridge

import (
	"cmp"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"ifacebridge/bridge/internal/delivery"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/schema"
)

// A leftover is a backlog that holds one event that an earlier run has not published.
type leftover struct {
	memory
	holds     *schema.Event
	discarded bool
}

func (l *leftover) DropThrough(stored *schema.Event, _ event.Mark) (bool, error) {
	return event.SameContent(l.holds, stored), nil
}

func (l *leftover) Discard(string) (int, error) {
	l.discarded = true
	return 1, nil
}

// What was found stored decides where the leftovers of a run go on.
func TestLeftoversAreJudged(t *testing.T) {
	made, anew := time.Unix(1000, 0), time.Unix(2000, 0)
	stored := func(epoch string, seq uint64, cause schema.Cause, alias string) *schema.Event {
		return &schema.Event{
			Epoch: epoch, Seq: seq, Kind: schema.New, Action: schema.Updated, Cause: cause,
			Link: schema.Link{Index: 2, Name: "a", Alias: alias},
		}
	}
	held := stored("theirs", 6, schema.Notification, "held")
	mark := event.Mark{Run: "theirs", Epoch: "theirs", Seq: 5, StreamSeq: 50, Created: made}
	spooled := event.Mark{Run: "theirs", Epoch: "theirs"} // nothing was noted
	begun := event.Mark{Run: "theirs", Epoch: "theirs", StreamSeq: 40, Created: made}
	begunFirst := event.Mark{Run: "theirs", Epoch: "theirs", Created: made} // of all in the stream
	for _, tt := range []struct {
		name   string
		left   event.Mark
		found  *delivery.Located
		epoch  string            // to go on in; "": theirs; "new": one that is named now
		seq    uint64            // to go on behind
		reason event.EpochReason // of a new epoch
		drop   bool
	}{
		{name: "nobody can know", left: mark, seq: 5},
		{name: "the last that was noted", left: mark, seq: 5,
			found: &delivery.Located{StreamSeq: 50, Event: stored("theirs", 5, schema.Notification, "x"), Created: made}},
		{name: "one that is in the spool", left: mark, seq: 6,
			found: &delivery.Located{StreamSeq: 51, Event: held, Created: made}},
		{name: "one that is not", left: mark, reason: event.Cloned,
			found: &delivery.Located{StreamSeq: 52, Event: stored("theirs", 7, schema.Notification, "x"), Created: made}},
		{name: "the del of one that had vanished", left: spooled, seq: 2,
			found: &delivery.Located{StreamSeq: 47, Event: stored("theirs", 2, schema.Resync, "x"), Created: made}},
		{name: "nothing of it, and nothing was noted", left: spooled, epoch: "new",
			found: &delivery.Located{StreamSeq: 40, Event: stored("older", 9, schema.Notification, "x"), Created: made}},
		{name: "one that is in the spool, of an epoch that was not noted", left: spooled,
			epoch: "named anew", seq: 4,
			found: &delivery.Located{StreamSeq: 47, Event: stored("named anew", 4, schema.Notification, "held"), Created: made}},
		{name: "nothing of it, where it begins", left: begun, epoch: "new",
			found: &delivery.Located{StreamSeq: 40, Event: stored("older", 9, schema.Notification, "x"), Created: made}},
		{name: "another's since it was to begin", left: begun, drop: true,
			found: &delivery.Located{StreamSeq: 60, Event: stored("newer", 9, schema.Notification, "x"), Created: made}},
		{name: "another's since it was to begin with nothing stored", left: begunFirst, drop: true,
			found: &delivery.Located{StreamSeq: 3, Event: stored("newer", 1, schema.Notification, "x"), Created: made}},
		{name: "an earlier one", left: mark, reason: event.BrokerLost,
			found: &delivery.Located{StreamSeq: 48, Event: stored("theirs", 3, schema.Notification, "x"), Created: made}},
		{name: "nothing any more", left: mark, reason: event.BrokerLost, found: &delivery.Located{Created: made}},
		{name: "another's that is older", left: mark, reason: event.BrokerLost,
			found: &delivery.Located{StreamSeq: 40, Event: stored("older", 9, schema.Notification, "x"), Created: made}},
		{name: "another's, in a stream made anew", left: mark, reason: event.BrokerLost,
			found: &delivery.Located{StreamSeq: 60, Event: stored("newer", 9, schema.Notification, "x"), Created: anew}},
		{name: "garbage", left: mark, reason: event.Damaged, found: &delivery.Located{StreamSeq: 51, Created: made}},
		{name: "another's that is newer", left: mark, drop: true,
			found: &delivery.Located{StreamSeq: 51, Event: stored("newer", 1, schema.Notification, "x"), Created: made}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &leftover{holds: held}
			var logged strings.Builder
			p := &publisher{
				nc: new(nats.Conn), backlog: l, log: slog.New(slog.NewTextHandler(&logged, nil)),
				metrics: newPublishMetrics(metrics.Registry{Registry: prometheus.NewRegistry()}),
			}
			from, drop, err := p.judgeLeftover(tt.left, tt.found)
			if err != nil || drop != tt.drop || l.discarded != tt.drop {
				t.Fatalf("dropped: %v, %v", drop, err)
			}
			switch {
			case drop:
			case tt.reason != "":
				if from.Epoch == tt.left.Epoch || from.Seq != 0 || !strings.Contains(logged.String(), "reason="+string(tt.reason)) {
					t.Errorf("goes on from %+v, want a new epoch for %s", from, tt.reason)
				}
			case tt.epoch == "new":
				want := event.Mark{Run: "theirs", Epoch: from.Epoch}
				if from != want || from.Epoch == tt.left.Epoch || len(from.Epoch) != 32 {
					t.Errorf("goes on from %+v, want a new epoch", from)
				}
			case from.Epoch != cmp.Or(tt.epoch, tt.left.Epoch) || from.Seq != tt.seq:
				t.Errorf("goes on from %+v, want %d of epoch %q", from, tt.seq, tt.epoch)
			}
		})
	}
}
