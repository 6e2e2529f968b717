package bridge

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
			Host: "web01", Epoch: epoch, Seq: seq, Time: time.Unix(int64(seq), 0).UTC(), Kind: schema.New, Action: schema.Created,
			Cause: schema.Notification, Link: schema.Link{Index: 2, Name: name},
		}
	}
	inFlight := []event.Outgoing{
		{Seq: 6, Data: stored("ours", 6, "a").AppendJSON(nil)},
		{Seq: 7, Data: stored("ours", 7, "a").AppendJSON(nil)},
	}
	told := story{epoch: "ours", seq: 5, data: stored("ours", 5, "a").AppendJSON(nil), streamSeq: 50, created: made}
	for _, tt := range []struct {
		name   string
		story  story
		found  located
		stored int
		reason event.EpochReason // of a broken story
		other  bool              // another bridge tells its own
	}{
		{name: "nothing told, nothing there", story: story{epoch: "ours"}},
		{name: "nothing told, another's is of the past", story: story{epoch: "ours"}, found: located{streamSeq: 9, event: stored("theirs", 3, "a"), created: made}},
		{name: "nothing told, garbage", story: story{epoch: "ours"}, found: located{streamSeq: 9, created: made}},
		{name: "the last confirmed", story: told, found: located{streamSeq: 50, event: stored("ours", 5, "a"), created: made}},
		{name: "an acknowledgment was lost", story: told, found: located{streamSeq: 51, event: stored("ours", 6, "a"), created: made}, stored: 1},
		{name: "of a batch, too", story: told, found: located{streamSeq: 52, event: stored("ours", 7, "a"), created: made}, stored: 2},
		{name: "the last confirmed with other content", story: told, found: located{streamSeq: 50, event: stored("ours", 5, "b"), created: made}, reason: event.Cloned},
		{name: "one in flight with other content", story: told, found: located{streamSeq: 51, event: stored("ours", 6, "b"), created: made}, reason: event.Cloned},
		{name: "one that was not sent yet", story: told, found: located{streamSeq: 60, event: stored("ours", 15, "a"), created: made}, reason: event.Cloned},
		{name: "an older one of ours", story: told, found: located{streamSeq: 48, event: stored("ours", 3, "a"), created: made}, reason: event.BrokerLost},
		{name: "nothing any more", story: told, found: located{created: made}, reason: event.BrokerLost},
		{name: "another's that is older", story: told, found: located{streamSeq: 20, event: stored("theirs", 9, "a"), created: made}, reason: event.BrokerLost},
		{name: "another's that is newer", story: told, found: located{streamSeq: 51, event: stored("theirs", 9, "a"), created: made}, other: true},
		{name: "garbage", story: told, found: located{streamSeq: 51, created: made}, reason: event.Damaged},
		{name: "a stream made anew, with a copy", story: told, found: located{streamSeq: 50, event: stored("ours", 5, "a"), created: anew}, reason: event.BrokerLost},
		{name: "of an earlier run, whose event is not known", story: story{epoch: "ours", seq: 5, streamSeq: 50},
			found: located{streamSeq: 50, event: stored("ours", 5, "a"), created: made}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stored, err := tt.story.judge(&tt.found, inFlight)
			var broken *brokenStoryError
			var replaced *replacedError
			switch {
			case tt.reason != "":
				if !errors.As(err, &broken) || broken.reason != tt.reason {
					t.Errorf("got %v, want a story that is broken by %s", err, tt.reason)
				}
			case tt.other:
				if !errors.As(err, &replaced) || replaced.epoch != "theirs" {
					t.Errorf("got %v, want another bridge", err)
				}
			case err != nil || stored != tt.stored:
				t.Errorf("got %d stored and %v, want %d", stored, err, tt.stored)
			}
		})
	}
}

// What consumers were told is told again: by namespace when it was whole, else as it was.
func TestStateRetells(t *testing.T) {
	st := newState()
	apply := func(seq uint64, netns string, index int32, snapshot schema.Snapshot) {
		e := schema.Event{
			Host: "web01", BootID: "boot", Epoch: "one", Seq: seq, Time: time.Unix(1, 0), Kind: schema.New, Action: schema.Existing,
			Cause: schema.SnapshotCause, Snapshot: snapshot, Netns: netns, Link: schema.Link{Index: index, Name: "a"},
		}
		st.apply("one", []event.Outgoing{{Seq: seq, Data: e.AppendJSON(nil), Key: e.Key()}})
	}
	apply(1, "blue", 7, schema.Snapshot{Pos: 1, Of: 1, More: 1})
	apply(2, "", 2, schema.Snapshot{Pos: 1, Of: 3})
	apply(3, "", 1, schema.Snapshot{Pos: 2, Of: 3})
	want := func(events []schema.Event, keys string, snapshots ...schema.Snapshot) {
		t.Helper()
		got := ""
		for i, e := range events {
			got += e.Key().String() + " "
			if i < len(snapshots) && e.Snapshot != snapshots[i] {
				t.Errorf("%s: snapshot %+v, want %+v", e.Key(), e.Snapshot, snapshots[i])
			}
		}
		if got != keys {
			t.Errorf("got %q, want %q", got, keys)
		}
	}
	want(st.retell(false, time.Now()), "blue.7 2 1 ", schema.Snapshot{Pos: 1, Of: 1, More: 1}, schema.Snapshot{Pos: 1, Of: 3}, schema.Snapshot{Pos: 2, Of: 3})
	want(st.retell(true, time.Now()), "1 2 blue.7 ", schema.Snapshot{Pos: 1, Of: 2, More: 1}, schema.Snapshot{Pos: 2, Of: 2, More: 1}, schema.Snapshot{Pos: 1, Of: 1})
}
