package delivery

import (
	"errors"
	"testing"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// What was found stored decides how a story goes on.
func TestStoryIsJudged(t *testing.T) {
	made, anew := time.Unix(1000, 0), time.Unix(2000, 0)
	stored := func(epoch string, seq uint64, name string) *schema.Event {
		return &schema.Event{
			Host: "web01", Epoch: epoch, Seq: seq, Time: time.Unix(int64(seq), 0).UTC(),
			Kind: schema.New, Action: schema.Created, Cause: schema.Notification, Link: schema.Link{Index: 2, Name: name},
		}
	}
	inFlight := []event.Outgoing{
		{Seq: 6, Data: stored("ours", 6, "a").AppendJSON(nil)},
		{Seq: 7, Data: stored("ours", 7, "a").AppendJSON(nil)},
	}
	told := toldStory{
		epoch:     "ours",
		seq:       5,
		data:      stored("ours", 5, "a").AppendJSON(nil),
		streamSeq: 50,
		created:   made,
	}
	begun := toldStory{epoch: "ours", streamSeq: 9, created: made, begun: true}
	for _, tt := range []struct {
		name   string
		story  toldStory
		found  Located
		stored int
		reason event.EpochReason // of a broken story
		other  bool              // another bridge tells its own
	}{
		{name: "nothing told, nothing there", story: toldStory{epoch: "ours"}},
		{name: "nothing told, another's is of the past", story: toldStory{epoch: "ours"},
			found: Located{StreamSeq: 9, Event: stored("theirs", 3, "a"), Created: made}},
		{name: "nothing told, garbage", story: toldStory{epoch: "ours"}, found: Located{StreamSeq: 9, Created: made}},
		{name: "nothing told, another's has come since", story: begun,
			found: Located{StreamSeq: 20, Event: stored("theirs", 3, "a"), Created: made}, other: true},
		{name: "nothing told, what it begins behind", story: begun,
			found: Located{StreamSeq: 9, Event: stored("theirs", 3, "a"), Created: made}},
		{name: "nothing told, in a stream made anew", story: begun,
			found: Located{StreamSeq: 20, Event: stored("theirs", 3, "a"), Created: anew}},
		{name: "the last confirmed", story: told,
			found: Located{StreamSeq: 50, Event: stored("ours", 5, "a"), Created: made}},
		{name: "an acknowledgment was lost", story: told,
			found: Located{StreamSeq: 51, Event: stored("ours", 6, "a"), Created: made}, stored: 1},
		{name: "of a batch, too", story: told,
			found: Located{StreamSeq: 52, Event: stored("ours", 7, "a"), Created: made}, stored: 2},
		{name: "the last confirmed with other content", story: told,
			found: Located{StreamSeq: 50, Event: stored("ours", 5, "b"), Created: made}, reason: event.Cloned},
		{name: "one in flight with other content", story: told,
			found: Located{StreamSeq: 51, Event: stored("ours", 6, "b"), Created: made}, reason: event.Cloned},
		{name: "one that was not sent yet", story: told,
			found: Located{StreamSeq: 60, Event: stored("ours", 15, "a"), Created: made}, reason: event.Cloned},
		{name: "an older one of ours", story: told,
			found: Located{StreamSeq: 48, Event: stored("ours", 3, "a"), Created: made}, reason: event.BrokerLost},
		{name: "nothing any more", story: told, found: Located{Created: made}, reason: event.BrokerLost},
		{name: "another's that is older", story: told,
			found: Located{StreamSeq: 20, Event: stored("theirs", 9, "a"), Created: made}, reason: event.BrokerLost},
		{name: "another's that is newer", story: told,
			found: Located{StreamSeq: 51, Event: stored("theirs", 9, "a"), Created: made}, other: true},
		{name: "garbage", story: told, found: Located{StreamSeq: 51, Created: made}, reason: event.Damaged},
		{name: "a stream made anew, with a copy", story: told,
			found: Located{StreamSeq: 50, Event: stored("ours", 5, "a"), Created: anew}, reason: event.BrokerLost},
		{name: "of an earlier run, whose event is not known", story: toldStory{epoch: "ours", seq: 5, streamSeq: 50},
			found: Located{StreamSeq: 50, Event: stored("ours", 5, "a"), Created: made}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stored, err := tt.story.judge(&tt.found, inFlight)
			var broken *BrokenStoryError
			var replaced *ReplacedError
			switch {
			case tt.reason != "":
				if !errors.As(err, &broken) || broken.Reason != tt.reason {
					t.Errorf("got %v, want a story that is broken by %s", err, tt.reason)
				}
			case tt.other:
				if !errors.As(err, &replaced) || replaced.Epoch != "theirs" {
					t.Errorf("got %v, want another bridge", err)
				}
			case err != nil || stored != tt.stored:
				t.Errorf("got %d stored and %v, want %d", stored, err, tt.stored)
			}
		})
	}
}
