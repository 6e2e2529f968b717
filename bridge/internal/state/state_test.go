package state

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// What consumers were told is told again: by namespace when it was whole, else as it was.
func TestStateRetells(t *testing.T) {
	st := New()
	apply := func(seq uint64, netns string, index int32, snapshot schema.Snapshot) {
		e := schema.Event{
			Host: "web01", BootID: "boot", Epoch: "one", Seq: seq, Time: time.Unix(1, 0),
			Kind: schema.New, Action: schema.Existing,
			Cause: schema.SnapshotCause, Snapshot: snapshot, Netns: netns, Link: schema.Link{Index: index, Name: "a"},
		}
		st.Apply("one", []event.Outgoing{{Seq: seq, Data: e.AppendJSON(nil), Key: e.Key()}})
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
	want(
		st.RetellPart([]string{"one"}),
		"blue.7 2 1 ",
		schema.Snapshot{Pos: 1, Of: 1, More: 1},
		schema.Snapshot{Pos: 1, Of: 3},
		schema.Snapshot{Pos: 2, Of: 3},
	)
	want(
		st.Retell(time.Now()),
		"1 2 blue.7 ",
		schema.Snapshot{Pos: 1, Of: 2, More: 1},
		schema.Snapshot{Pos: 2, Of: 2, More: 1},
		schema.Snapshot{Pos: 1, Of: 1},
	)
}

// A snapshot answers those who had asked for it when it began. For who asks while it is being
// told, and may have missed its beginning, there is one more.
func TestSnapshotAnswersWhoAskedBefore(t *testing.T) {
	q := &Query{asked: make(chan struct{}, 1)}
	early, late := &nats.Msg{}, &nats.Msg{}
	q.askSnapshot(early)
	q.SnapshotBegins()
	q.askSnapshot(late)
	q.SnapshotTold(schema.PublishedSnapshot{})
	if len(q.asking) != 1 || q.asking[0] != late || !q.SnapshotAsked() {
		t.Errorf("%d still wait, after one snapshot, of one who asked before and one who asked meanwhile", len(q.asking))
	}
	q.SnapshotBegins()
	q.SnapshotTold(schema.PublishedSnapshot{})
	if q.SnapshotAsked() {
		t.Error("after the next snapshot somebody waits")
	}
}

// Pages of different size are no pages of one answer: the next one that is asked for on another
// server belongs to the first that came from there.
func TestPagesAreOfOneSize(t *testing.T) {
	st := New()
	for i := range int32(40) {
		e := schema.Event{Kind: schema.New, Link: schema.Link{Index: i + 1, Name: "a"}}
		data, link := new(schema.Encoder).AppendJSON(nil, &e)
		st.Apply("one", []event.Outgoing{{Seq: 40, Data: data, LinkAt: link, Key: e.Key()}})
	}
	q := &Query{state: st}
	small, large := q.render(event.HeaderRoom+500), q.render(event.HeaderRoom+1000)
	if len(small.pages) <= len(large.pages) || len(large.pages) < 2 || small.token == large.token {
		t.Errorf("%d pages called %s, and %d called %s", len(small.pages), small.token, len(large.pages), large.token)
	}
}
