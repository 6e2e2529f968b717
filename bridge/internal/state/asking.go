package state

import (
	"encoding/json"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"ifacebridge/bridge/internal/loop"
	"ifacebridge/schema"
)

// maxAsking is how many requests for the snapshot wait for it at most: one snapshot answers
// all that have come before it.
const maxAsking = 64

// askSnapshot takes a request for the snapshot. What is in one is decided by
// [State.Retell] here, and for a run's first epoch by track.Table.Snapshot.
func (q *Query) askSnapshot(m *nats.Msg) {
	q.mu.Lock()
	full := len(q.asking) >= maxAsking
	if !full {
		q.asking = append(q.asking, m)
	}
	q.mu.Unlock()
	if full {
		respondError(m, codeNotReady, "too many ask for the snapshot; it follows")
		return
	}
	loop.Signal(q.asked)
}

// SnapshotAsked reports whether somebody waits for the snapshot to be published again.
func (q *Query) SnapshotAsked() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.asking) > 0
}

// AskedForSnapshot returns a channel that holds a token when that may have become so.
func (q *Query) AskedForSnapshot() <-chan struct{} { return q.asked }

// SnapshotBegins notes that the snapshot is being told to those who have asked for it by now.
// Who asks later may have missed its first events.
func (q *Query) SnapshotBegins() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.telling = len(q.asking)
}

// SnapshotTold answers those who had asked when the snapshot began. The others wait for the
// next.
func (q *Query) SnapshotTold(told schema.PublishedSnapshot) {
	q.mu.Lock()
	waiting := q.asking[:q.telling]
	q.asking, q.telling = slices.Clone(q.asking[q.telling:]), 0
	q.mu.Unlock()
	data, err := json.Marshal(told)
	if err != nil {
		panic(err) // no such value fails
	}
	for _, m := range waiting {
		respond(m, &nats.Msg{Data: data, Header: nats.Header{"Content-Type": {"application/json"}}})
	}
}

func respondError(m *nats.Msg, code, text string) {
	respond(m, &nats.Msg{Header: nats.Header{micro.ErrorHeader: {text}, micro.ErrorCodeHeader: {code}}})
}

// respond answers a request, if an answer is wanted. It fails only when the connection is
// gone, and the one who waits notices that, too.
func respond(m, answer *nats.Msg) {
	if m.Reply != "" {
		_ = m.RespondMsg(answer)
	}
}
