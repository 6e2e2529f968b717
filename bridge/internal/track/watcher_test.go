package track

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/linktest"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// script is a source that does what a kernel may do, step by step. Each dump has
// links, or fails, what the socket holds when the dump is over, and whether that overran.
type script struct {
	sync.Mutex
	steps    []step
	dumps    int
	overruns uint64
	receives [][]*netlinksrc.Message // nil: an overrun
	over     func()                  // called when there is no more of them
}

type step struct {
	links       []schema.Link
	interrupted bool
	meanwhile   []*netlinksrc.Message
	overrun     bool
	err         error
}

func (s *script) Overruns() uint64            { return s.overruns }
func (s *script) Malformed() (uint64, uint64) { return 0, 0 }

func (s *script) Receive(ctx context.Context, handle func(*netlinksrc.Message)) error {
	if len(s.receives) == 0 {
		s.over()
		<-ctx.Done()
		return ctx.Err()
	}
	messages := s.receives[0]
	s.receives = s.receives[1:]
	if messages == nil {
		s.overruns++
		return netlinksrc.ErrOverrun
	}
	for _, m := range messages {
		handle(m)
	}
	return nil
}

func (s *script) Dump(_ context.Context, handle func(*netlinksrc.Message)) (bool, error) {
	now := s.steps[0]
	s.dumps++
	for _, l := range now.links {
		handle(newMsg(l))
	}
	if now.interrupted {
		s.steps = s.steps[1:]
	}
	return now.interrupted, now.err
}

func (s *script) Drain(handle func(*netlinksrc.Message)) error {
	if len(s.steps) == 0 { // the last look, at the end
		return nil
	}
	now := s.steps[0]
	s.steps = s.steps[1:]
	for _, m := range now.meanwhile {
		handle(m)
	}
	if now.overrun {
		s.overruns++
		return netlinksrc.ErrOverrun
	}
	return nil
}

// runScript runs a watcher until the script is at its end, and returns the
// changes that it pushed.
func runScript(t *testing.T, s *script) []string {
	t.Helper()
	q := queue.New(linktest.Events(100), 0)
	w := &watcher{
		src:      s,
		table:    NewTable(config.Filter{}, event.Namespace{}),
		queue:    q,
		log:      slog.New(slog.DiscardHandler),
		overruns: new(atomic.Uint64),
		reopen:   func() error { return nil },
		metrics:  newKernelMetrics(metrics.Registry{Registry: prometheus.NewRegistry()}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.over = cancel
	if err := startAndRun(ctx, w); err != nil {
		t.Fatal(err)
	}
	if len(s.steps) > 0 {
		t.Errorf("%d steps of the script were not reached", len(s.steps))
	}
	return linktest.Taken(q, time.Now())
}

// startAndRun is the life of a watcher.
func startAndRun(ctx context.Context, w *watcher) error {
	if err := w.start(ctx); err != nil {
		return err
	}
	w.queue.PushSnapshot(func(emit func(*event.Change)) { w.snapshot(0, emit) })
	return w.run(ctx)
}

type (
	links    = []schema.Link
	messages = []*netlinksrc.Message
)

// What the kernel may do around a dump, and what has to come of it.
func TestWatcher(t *testing.T) {
	a, b := link(2, "a"), link(3, "b")
	tests := []struct {
		name   string
		script script
		want   []string
	}{
		{"a snapshot, then what happens",
			script{steps: []step{{links: links{a}}}, receives: []messages{{newMsg(b), delMsg(a)}}},
			[]string{"new existing 2:a", "new created 3:b", "del deleted 2:a"}},
		{"what comes during the first dump is in the snapshot",
			script{
				steps: []step{
					{
						links:     links{a, b},
						meanwhile: messages{newMsg(link(2, "a", mtu(1))), delMsg(b), newMsg(link(4, "c"))},
					},
				},
			},
			[]string{"new existing 2:a", "new existing 4:c"}},
		{"an overrun during the first dump: there is one snapshot, and it is right",
			script{steps: []step{{links: links{a}, overrun: true}, {links: links{a, b}}}},
			[]string{"new existing 2:a", "new existing 3:b"}},
		{"an overrun: what was lost is found",
			script{
				steps:    []step{{links: links{a, b}}, {links: links{link(2, "a", mtu(1)), link(4, "c")}}},
				receives: []messages{nil},
			},
			[]string{
				"new existing 2:a",
				"new existing 3:b",
				"del deleted 3:b resync",
				"new updated 2:a [mtu] resync",
				"new created 4:c resync",
			}},
		{"an overrun during the resync: it starts over",
			script{
				steps: []step{
					{links: links{a}},
					{links: links{a, b}, overrun: true},
					{links: links{a}, overrun: true},
					{links: links{b}},
				},
				receives: []messages{nil},
			},
			[]string{
				"new existing 2:a",
				"new created 3:b resync",
				"del deleted 3:b resync",
				"del deleted 2:a resync",
				"new created 3:b resync",
			}},
		{"a dump does not take back a newer notification",
			script{
				steps: []step{
					{links: links{a, b}},
					{links: links{a, b}, meanwhile: messages{newMsg(link(2, "a", mtu(1))), delMsg(b)}},
				},
				receives: []messages{nil},
			},
			[]string{"new existing 2:a", "new existing 3:b", "new updated 2:a [mtu]", "del deleted 3:b"}},
		{"nor does it bring a link back that is announced and gone",
			script{
				steps:    []step{{links: links{a}}, {links: links{a, b}, meanwhile: messages{newMsg(b), delMsg(b)}}},
				receives: []messages{nil},
			},
			[]string{"new existing 2:a", "new created 3:b", "del deleted 3:b"}},
		{"nor does it hide one that came back",
			script{
				steps:    []step{{links: links{a}}, {meanwhile: messages{delMsg(a), newMsg(link(2, "again"))}}},
				receives: []messages{nil},
			},
			[]string{"new existing 2:a", "del deleted 2:a", "new created 2:again"}},
		{"an interrupted dump is made again, and a link that one of them missed is there",
			script{
				steps:    []step{{links: links{a, b}}, {links: links{a}, interrupted: true}, {links: links{b}}},
				receives: []messages{nil},
			},
			[]string{"new existing 2:a", "new existing 3:b"}},
		{"interrupted for ever: used as it is",
			script{
				steps: []step{
					{links: links{a}},
					{links: links{a}, interrupted: true},
					{links: links{a}, interrupted: true},
					{links: links{a}, interrupted: true},
					{links: links{a}, interrupted: true},
					{},
				},
				receives: []messages{nil},
			},
			[]string{"new existing 2:a"}},
		{"several overruns in a row",
			script{
				steps:    []step{{links: links{a}}, {links: links{a}}, {links: links{a, b}}},
				receives: []messages{nil, {newMsg(link(2, "a", mtu(1)))}, nil},
			},
			[]string{
				"new existing 2:a",
				"new updated 2:a [mtu]",
				"new updated 2:a [mtu] resync",
				"new created 3:b resync",
			}},
		{"a dump does not take back what a bridge said of its port meanwhile",
			script{steps: []step{{links: links{link(2, "a", port(`{"state":"learning"}`))}},
				{
					links:     links{link(2, "a", port(`{"state":"learning"}`))},
					meanwhile: messages{portMsg(2, `{"state":"forwarding"}`)},
				}}, receives: []messages{nil}},
			[]string{"new existing 2:a", "new updated 2:a [linkinfo]"}},
		{"a bond that asks for a path does so in each dump",
			script{
				steps: []step{
					{links: links{link(2, "a", slave(9, "ACTIVE", "GOING_BACK")), link(9, "bond", bond(100))}},
					{links: links{link(2, "a", slave(9, "BACKUP", "GOING_DOWN")), link(9, "bond", bond(100))}},
					{links: links{link(2, "a", slave(9, "ACTIVE", "UP")), link(9, "bond", bond(100))}},
				},
				receives: []messages{{newMsg(link(2, "a", slave(9, "ACTIVE", "GOING_DOWN")))}, nil, nil},
			},
			[]string{"new existing 2:a", "new existing 9:bond", "new updated 2:a [linkinfo] resync"}},
		{"an overrun, and a dump that fails, again and again: it goes on",
			script{
				steps: []step{
					{links: links{a}},
					{err: unix.ENOBUFS}, // after the overrun
					{links: links{a}, overrun: true},
					{err: unix.ENOBUFS}, // after the one that came while the source was opened anew
					{err: unix.ENOMEM},
					{links: links{a, b}},
				},
				receives: []messages{nil},
			},
			[]string{"new existing 2:a", "new created 3:b resync"}},
		{"a dump tells of another hardware type as a notification does: the link is the same",
			script{
				steps: []step{
					{links: links{a}},
					{links: links{link(2, "a", hardware(unix.ARPHRD_ETHER))}},
					{links: links{link(2, "a", hardware(unix.ARPHRD_IEEE80211_RADIOTAP))}},
					{
						links:     links{link(2, "a", hardware(unix.ARPHRD_IEEE80211_RADIOTAP))},
						meanwhile: messages{newMsg(link(2, "a", hardware(unix.ARPHRD_ETHER)))},
					},
				},
				receives: []messages{{newMsg(link(2, "a", hardware(unix.ARPHRD_IEEE80211)))}, nil, nil, nil},
			},
			[]string{
				"new existing 2:a",
				"new updated 2:a [link_type]",
				"new updated 2:a [link_type] resync", // to Ethernet
				"new updated 2:a [link_type] resync", // to monitor mode
				"new updated 2:a [link_type]",        // and what came while the dump ran
			}},
		{"a partial message does not hide its link from a dump",
			script{
				steps: []step{
					{
						links:     links{a},
						meanwhile: messages{partialMsg(schema.Link{Index: 2, Name: "a", Type: 1, Flags: 0x1002})},
					},
				},
			},
			[]string{"new existing 2:a"}},
	}
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) { expect(t, runScript(t, &tt.script), tt.want...) })
	}
}
