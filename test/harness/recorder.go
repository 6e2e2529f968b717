package harness

import (
	"encoding/json"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"ifacebridge/schema"
	"ifacebridge/test/natstest"
	"ifacebridge/test/schematest"
)

// A Recorder holds every event that was published since it was made. Each is
// validated against the schema.
type Recorder struct {
	Conn *nats.Conn

	t      testing.TB
	mu     sync.Mutex
	events []schema.Event
}

// Record records what is published on iface.> from now on.
func Record(t testing.TB, s *natstest.Server) *Recorder {
	t.Helper()
	nc := Connect(t, s)
	r := &Recorder{t: t, Conn: nc}
	_, err := nc.Subscribe("iface.>", func(m *nats.Msg) {
		schematest.Validate(t, m.Data)
		var e schema.Event
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Errorf("%s: %v", m.Data, err)
		}
		checkHeaders(t, m, &e)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, e)
	})
	Must(t, err)
	Flush(t, nc)
	return r
}

// checkHeaders checks the headers of an event: its id, and what makes a CloudEvent
// of it, whose names are lower case to the letter.
func checkHeaders(t testing.TB, m *nats.Msg, e *schema.Event) {
	for name, want := range map[string]string{
		nats.MsgIdHdr: e.ID(), "Content-Type": "application/json", "ce-datacontenttype": "application/json",
		"ce-specversion": "1.0", "ce-id": e.ID(),
		"ce-type": "iface.v1." + e.Kind.String(), "ce-time": e.Time.Format("2006-01-02T15:04:05.000000000Z"), "ce-subject": e.Key().String(),
	} {
		if got := m.Header[name]; len(got) != 1 || got[0] != want {
			t.Errorf("header %s is %q, want %q", name, got, want)
		}
	}
	token, err := schema.HostToken(e.Host)
	if got := m.Header["ce-source"]; err != nil || len(got) != 1 || got[0] != "/ifacebridge/"+token {
		t.Errorf("header ce-source is %q, want /ifacebridge/%s", got, token)
	}
}

// Since returns the events from n on.
func (r *Recorder) Since(n int) []schema.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events[n:])
}

// Mark returns the number of events so far.
func (r *Recorder) Mark() int { return len(r.Since(0)) }

// Until waits for an event from n on that is as wanted.
func (r *Recorder) Until(n int, what string, ok func(*schema.Event) bool) schema.Event {
	r.t.Helper()
	var found schema.Event
	Eventually(r.t, what, func() bool {
		for _, e := range r.Since(n) {
			if ok(&e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// Snapshot waits for the end of a snapshot and returns the number of events up to
// it.
func (r *Recorder) Snapshot() int {
	r.t.Helper()
	end := r.Until(0, "a snapshot", func(e *schema.Event) bool { return e.Snapshot.Of > 0 && e.Snapshot.Pos == e.Snapshot.Of })
	return slices.IndexFunc(r.Since(0), func(e schema.Event) bool { return e.Seq == end.Seq && e.Epoch == end.Epoch }) + 1
}

// About returns the events from n on about the link with this index.
func (r *Recorder) About(n int, index int32) []schema.Event {
	return slices.DeleteFunc(r.Since(n), func(e schema.Event) bool { return e.Link.Index != index })
}
