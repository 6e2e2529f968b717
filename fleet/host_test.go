package fleet

import (
	"fmt"
	"strings"
	"testing"

	"ifacebridge/schema"
)

// in makes an event: "e1 3 new eth0", "e1 1 snap a 1/2", "e1 4 del a", in the
// namespace behind an "@", which was called what stands behind a "<". A snapshot
// with others behind it is "1/2/1".
func in(t *testing.T, text string) *schema.Event {
	t.Helper()
	f := strings.Fields(text)
	name, netns, _ := strings.Cut(f[3], "@")
	netns, former, _ := strings.Cut(netns, "<")
	e := &schema.Event{Host: "h", Epoch: f[0], Kind: schema.New, Action: schema.Updated, Netns: netns, NetnsPrevious: former}
	if _, err := fmt.Sscan(f[1], &e.Seq); err != nil {
		t.Fatal(err)
	}
	e.Link.Name = name
	e.Link.Index = int32(name[0]-'a') + 1
	switch f[2] {
	case "del":
		e.Kind, e.Action = schema.Del, schema.Deleted
	case "snap":
		e.Action, e.Cause = schema.Existing, schema.SnapshotCause
		if n, err := fmt.Sscanf(f[4], "%d/%d/%d", &e.Snapshot.Pos, &e.Snapshot.Of, &e.Snapshot.More); n < 2 {
			t.Fatal(err)
		}
	}
	return e
}

// answer makes a bridge's answer: "e1 7 a b".
func answer(t *testing.T, text string) *schema.Links {
	t.Helper()
	f := strings.Fields(text)
	a := &schema.Links{Host: "h", Epoch: f[0]}
	if _, err := fmt.Sscan(f[1], &a.Seq); err != nil {
		t.Fatal(err)
	}
	for _, name := range f[2:] {
		a.Links = append(a.Links, schema.LinkInNetns{Link: schema.Link{Name: name, Index: int32(name[0]-'a') + 1}})
	}
	return a
}

func said(changes []Change) string {
	var words []string
	for _, c := range changes {
		word := c.Kind.String()
		if c.Event != nil {
			word += " " + c.Event.Link.Name
		}
		if c.Missed > 0 {
			word += fmt.Sprintf(" %d", c.Missed)
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

func state(h *host) string {
	v := h.view()
	words := []string{fmt.Sprintf("%s-%d", v.Epoch, v.Seq)}
	for _, l := range v.Links {
		words = append(words, strings.TrimSuffix(l.Link.Name+"@"+l.Netns, "@"))
	}
	if !v.Whole {
		words = append(words, "not whole")
	}
	return strings.Join(words, " ")
}

// What a host makes of its events: each step is an event, or "?" and an answer;
// behind the arrow what is said, and the state at the end.
func TestHost(t *testing.T) {
	whole := []string{"e1 1 snap a 1/2 -> applied a", "e1 2 snap b 2/2 -> applied b, joined"}
	after := func(steps ...string) []string { return append(append([]string{}, whole...), steps...) }
	tests := []struct {
		name  string
		steps []string
		want  string
	}{
		{"a snapshot", whole, "e1-2 a b"},
		{"half a snapshot", whole[:1], "e1-1 a not whole"},
		{"changes", after("e1 3 new c -> applied c", "e1 4 del a -> applied a"), "e1-4 b c"},
		{"a repeat", after("e1 2 snap b 2/2 -> ", "e1 1 snap a 1/2 -> "), "e1-2 a b"},
		{"joined in the middle", []string{"e1 7 new c -> applied c", "e1 8 del b -> applied b", "? e1 7 a b c -> joined"}, "e1-8 a c"},
		{"joined by an answer", []string{"? e1 7 a b -> joined", "e1 8 del b -> applied b"}, "e1-8 a"},
		{"a gap", after("e1 5 new c -> gap 2, applied c"), "e1-5 a b c not whole"},
		{"a gap, and the answer behind it", after("e1 5 new c -> gap 2, applied c", "e1 6 del b -> applied b", "? e1 6 c -> gone a, healed"), "e1-6 c"},
		{"a gap, and an answer with more to come", after("e1 5 new c -> gap 2, applied c", "e1 6 del b -> applied b", "? e1 5 a b c -> healed"), "e1-6 a c"},
		{"an answer that is older than the gap", after("e1 6 new c -> gap 3, applied c", "? e1 4 a b -> ", "? e1 6 a b c -> healed"), "e1-6 a b c"},
		{"two gaps", after("e1 5 new c -> gap 2, applied c", "e1 9 del a -> gap 3, applied a", "? e1 6 a c d -> ", "? e1 9 c d -> gone b, healed"), "e1-9 c d"},
		{"an answer that is older than what is known", after("e1 3 new c -> applied c", "? e1 2 a b -> "), "e1-3 a b c"},
		{"an answer as expected", after("? e1 2 a b -> "), "e1-2 a b"},
		{"an answer that knows better", after("? e1 9 a -> gone b, healed", "e1 9 del b -> ", "e1 10 new d -> applied d"), "e1-10 a d"},
		{"a new epoch", after("e2 1 del a -> applied a", "e2 2 snap b 1/1 -> applied b"), "e2-2 b"},
		{"a new epoch without the dels", after("e2 1 snap c 1/1 -> applied c, gone a, gone b"), "e2-1 c"},
		{"late events of the last epoch", after("e2 1 snap c 1/1 -> applied c, gone a, gone b", "e1 3 new d -> "), "e2-1 c"},
		{"the middle of a new epoch", after("e2 4 new c -> gap, applied c", "? e2 4 a c -> gone b, healed"), "e2-4 a c"},
		{"a new epoch ends a gap", after("e1 9 new d -> gap 6, applied d", "e2 1 snap c 1/1 -> applied c, gone a, gone b, gone d, healed"), "e2-1 c"},
		{"an answer of a new epoch, ahead of its events", after("? e2 2 c -> gone a, gone b", "e2 1 snap c 1/2 -> ", "e2 3 new d -> applied d", "e1 3 new x -> "), "e2-3 c d"},
		{"an answer of an old epoch", after("e2 1 snap c 1/1 -> applied c, gone a, gone b", "? e1 2 a b -> "), "e2-1 c"},
		{"the opening is of all namespaces", after("e2 1 snap a 1/1/2 -> applied a", "e2 2 snap a@blue 1/2/1 -> applied a", "e2 3 snap b@blue 2/2/1 -> applied b", "e2 4 snap a@red 1/1 -> applied a, gone b"), "e2-4 a a@blue b@blue a@red"},
		{"half an opening", after("e2 1 snap a 1/1/1 -> applied a"), "e2-1 a b not whole"},
		{"without the bridge's own namespace", after("e2 1 snap a@blue 1/1 -> applied a, gone a, gone b"), "e2-1 a@blue"},
		{"an opening behind what expired", []string{"e1 3 snap a 1/1/1 -> applied a", "e1 4 snap a@blue 1/1 -> applied a, joined"}, "e1-4 a a@blue"},
		{"the second half of an opening", []string{"e1 3 snap a@blue 1/1/1 -> applied a", "e1 4 snap a@red 1/1 -> applied a", "? e1 4 a b -> gone a, gone a, joined"}, "e1-4 a b"},
		{"a namespace that appeared", after("e1 3 snap a@blue 1/2 -> applied a", "e1 4 snap b@blue 2/2 -> applied b"), "e1-4 a b a@blue b@blue"},
		{"another under its name", after("e1 3 snap a@blue 1/1 -> applied a", "e1 4 snap b@blue 1/1 -> applied b, gone a"), "e1-4 a b b@blue"},
		{"a namespace is renamed", after("e1 3 snap a@blue 1/1 -> applied a", "e1 4 new a@red<blue -> applied a"), "e1-4 a b a@red"},
		{"and gone", after("e1 3 snap a@blue 1/1 -> applied a", "e1 4 del a@red<blue -> applied a"), "e1-4 a b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost("h", "h")
			for _, step := range tt.steps {
				step, want, _ := strings.Cut(step, " -> ")
				var got string
				if text, isAnswer := strings.CutPrefix(step, "? "); isAnswer {
					got = said(h.adopt(answer(t, text)))
				} else {
					got = said(h.apply(in(t, step), nil, false))
				}
				if got != want {
					t.Errorf("%s: said %q, want %q", step, got, want)
				}
			}
			if got := state(h); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A stream that was cut off begins in the middle: no gap is said, what is there is
// shown as not whole, and the next snapshot or answer makes it so.
func TestHostBeginsInTheMiddle(t *testing.T) {
	h := newHost("h", "h")
	for _, step := range []string{"e1 7 new a", "e1 8 new b", "e2 4 new c"} {
		if got := said(h.apply(in(t, step), nil, true)); !strings.HasPrefix(got, "applied") {
			t.Errorf("%s: said %q", step, got)
		}
	}
	if got := state(h); got != "e2-4 a b c not whole" {
		t.Errorf("got %q", got)
	}
	h.adopt(answer(t, "e2 5 b c"))
	if got := state(h); got != "e2-5 b c" {
		t.Errorf("got %q", got)
	}
}

// In the stream's order every event is given once, also one that an answer has
// overtaken; an answer of an epoch that the stream has not come to changes nothing, unless
// that was waited for in vain.
func TestHostInStream(t *testing.T) {
	begins := []string{"e1 7 new a -> applied a", "e1 8 new b -> applied b", "? e1 10 a c -> gone b, joined"}
	after := func(steps ...string) []string { return append(append([]string{}, begins...), steps...) }
	for _, tt := range []struct {
		name  string
		steps []string
		want  string
	}{
		{"an answer has overtaken events",
			after("e1 9 del b -> applied b", "e1 10 new c -> applied c", "e1 11 new d -> applied d"), "e1-11 a c d"},
		{"each once", after("e1 8 new b -> ", "e1 9 del b -> applied b", "e1 9 del b -> "), "e1-10 a c"},
		{"a new epoch behind that", after("e1 9 del b -> applied b", "e1 10 new c -> applied c",
			"e2 1 snap c 1/1 -> applied c, gone a"), "e2-1 c"},
		{"whole: the stream has it", after("? e1 12 a -> ", "e1 9 del b -> applied b"), "e1-10 a c"},
		{"ahead of the stream", after("? e2 3 c d -> ", "e1 9 del b -> applied b",
			"e2 1 snap c 1/1 -> applied c, gone a"), "e2-1 c"},
		{"never in the stream", []string{"? e3 9 a -> joined", "e2 4 new b -> applied b", "e3 1 snap a 1/1 -> applied a",
			"e3 9 new a -> applied a", "e3 10 new b -> applied b"}, "e3-10 a b"},
		{"waited for in vain", after("lost", "e1 9 del b -> applied b", "doubt", "? e3 2 d -> gone a, gone c, healed",
			"e1 10 new c -> applied c", "e3 2 new d -> applied d"), "e3-2 d"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost("h", "h")
			h.inStream = true
			for i, step := range tt.steps {
				step, want, _ := strings.Cut(step, " -> ")
				text, isAnswer := strings.CutPrefix(step, "? ")
				got := ""
				switch {
				case step == "lost":
					h.lost = true
				case step == "doubt":
					h.doubt()
				case isAnswer:
					got = said(h.adopt(answer(t, text)))
				default:
					got = said(h.apply(in(t, step), nil, i < 2))
				}
				if got != want {
					t.Errorf("%s: gave %q, want %q", step, got, want)
				}
			}
			if got := state(h); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A bucket that is read again from the beginning, after it was made anew: what is
// not in it any more is gone.
func TestHostReadsTheBucketAgain(t *testing.T) {
	h := newHost("h", "h")
	for _, step := range []string{"e1 1 new a", "e1 2 new b"} {
		h.latest(in(t, step), nil)
	}
	h.restart()
	h.latest(in(t, "e1 2 new b"), nil)
	if got := said(h.sweepUnseen()); got != "gone a" {
		t.Errorf("said %q", got)
	}
	if got := state(h); got != "e1-2 b" {
		t.Errorf("got %q", got)
	}
}
