package state

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// answerPages are the pages of an answer that were not asked for yet.
type answerPages struct {
	token string // of the pages: "<token>.<page>" asks for one
	pages [][]byte
	until time.Time
}

const (
	maxAnswers = 4 // of several pages, kept for their followers
	answerTTL  = 30 * time.Second
)

// page returns the page that next asks for, or the first of a new answer.
func (q *Query) page(next string, now time.Time) (page []byte, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.answers = slices.DeleteFunc(q.answers, func(a *answerPages) bool { return now.After(a.until) })
	if next != "" {
		for _, a := range q.answers {
			for i := range a.pages {
				if next == a.token+"."+strconv.Itoa(i) {
					return a.pages[i], true
				}
			}
		}
		return nil, false
	}
	a := q.render(int(q.nc.MaxPayload()))
	if len(a.pages) > 1 {
		a.until = now.Add(answerTTL)
		q.answers = slices.DeleteFunc(q.answers, func(kept *answerPages) bool { return kept.token == a.token })
		q.answers = append(q.answers, a)
		q.answers = q.answers[max(0, len(q.answers)-maxAnswers):]
	}
	return a.pages[0], true
}

// render makes the pages of an answer (schema.Links), all of one moment.
func (q *Query) render(limit int) *answerPages {
	st := q.state
	st.mu.Lock()
	defer st.mu.Unlock()
	// A state has one answer for a limit, which is another one on the next server, perhaps.
	a := &answerPages{token: fmt.Sprintf("%s-%d-%d", st.epoch, st.seq, limit)}
	begin := func() []byte {
		head := fmt.Appendf(nil, `{"schema":%q,"host":`, schema.Name)
		head = append(head, mustJSON(q.id.Host)...)
		head = fmt.Appendf(head, `,"boot_id":%q`, q.id.BootID)
		if q.id.Labels != "" {
			head = append(append(head, `,"labels":`...), q.id.Labels...)
		}
		return fmt.Appendf(head, `,"epoch":%q,"seq":%d,"links":[`, st.epoch, st.seq)
	}
	page, empty := begin(), true
	for _, k := range slices.SortedFunc(maps.Keys(st.links), schema.LinkKey.Compare) {
		v := st.links[k]
		var entry []byte
		if k.Netns != "" {
			entry = append(append(append(entry, `{"netns":`...), mustJSON(k.Netns)...), `,"link":`...)
		} else {
			entry = append(entry, `{"link":`...)
		}
		entry = append(entry, v.data[v.link:]...) // with the event's closing brace
		if !empty && limit > 0 && len(page)+len(entry)+event.HeaderRoom > limit {
			next := a.token + "." + strconv.Itoa(len(a.pages)+1)
			a.pages = append(a.pages, fmt.Appendf(page, `],"next":%q}`, next))
			page, empty = begin(), true
		}
		if !empty {
			page = append(page, ',')
		}
		page, empty = append(page, entry...), false
	}
	a.pages = append(a.pages, append(page, "]}"...))
	return a
}

// mustJSON is the JSON of a string.
func mustJSON(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // no string fails
	}
	return b
}
