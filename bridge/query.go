package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// A query answers with the links of this host, as a NATS micro service: `nats
// micro ls` lists the fleet, and a request on ifacebridge.<host>.links returns the
// published state and the epoch and seq that it is true at. A consumer that
// subscribes, asks, and applies what comes behind that seq has missed nothing.
//
// An answer that is larger than a message comes in pages. The pages of one answer
// are made together, and kept for a while for the one who asks for the next.
type query struct {
	id    event.Identity
	state *state
	nc    *nats.Conn
	ready func() bool // whether the state is whole
	token string
	cfg   micro.Config
	log   *slog.Logger

	mu      sync.Mutex
	owner   schema.Owner
	service micro.Service  // nil: this bridge is not the owner
	answers []*answerPages // the newest last, at most maxAnswers
}

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

// Codes of the query service's errors, in the header Nats-Service-Error-Code.
const (
	codeBadRequest = "400"
	codeGone       = "410" // ask anew
	codeNotReady   = "503"
)

// semver is what micro wants a version to look like.
var semver = regexp.MustCompile(`^v?(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)$`)

func newQuery(
	cfg config.Config, id event.Identity, st *state, nc *nats.Conn,
	overruns func() uint64, ready func() bool, log *slog.Logger,
) *query {
	version := "0.0.0"
	if m := semver.FindStringSubmatch(cfg.Version); m != nil {
		version = m[1]
	}
	q := &query{
		id: id, state: st, nc: nc, ready: ready, log: log, token: cfg.Token,
		owner: schema.Owner{Schema: schema.Name, Host: cfg.Host, BootID: id.BootID, Started: time.Now().UTC(), NetnsInode: id.OwnNetns},
	}
	q.cfg = micro.Config{
		Name: schema.ServiceName, Version: version, Description: "network links of " + cfg.Host,
		Metadata: map[string]string{
			"host": cfg.Host, "token": cfg.Token, "epoch": id.Epoch, "boot_id": id.BootID, "version": cfg.Version,
			"delivery": string(cfg.Delivery), "prefix": cfg.Prefix, "schema": schema.Name,
		},
		StatsHandler: func(*micro.Endpoint) any {
			st.mu.Lock()
			defer st.mu.Unlock()
			return map[string]any{"epoch": st.epoch, "seq": st.seq, "links": len(st.links), "overruns": overruns()}
		},
	}
	if cfg.Delivery == config.JetStream {
		q.cfg.Metadata["stream"], q.cfg.Metadata["bucket"] = cfg.Stream, cfg.Bucket
	}
	return q
}

// serve answers, as the owner of the host's name in this epoch, until stop. It is called
// again every now and then: micro gives a service up when a subscription is refused, and
// the permission may come later.
func (q *query) serve(epoch string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.service != nil && !q.service.Stopped() && q.owner.Epoch == epoch {
		return
	}
	q.stopLocked()
	q.owner.Epoch = epoch
	q.cfg.Metadata["epoch"] = epoch
	service, err := micro.AddService(q.nc, q.cfg)
	if err == nil {
		err = errors.Join(
			q.add(service, "links", schema.QuerySubject(q.token), q.answer, `the links of this host; {"next":…} asks for the next page`),
			q.add(service, "owner", schema.OwnerSubject(q.token), q.answerOwner, "who publishes as this host"))
	}
	if err != nil {
		q.log.Warn("cannot answer queries; events are not affected", "cause", err)
		return
	}
	q.service = service
}

// add adds an endpoint. It is in no queue group: a bridge that is being replaced must not
// answer in the place of the one that replaces it.
func (q *query) add(to micro.Service, name, subject string, answer func(micro.Request), description string) error {
	return to.AddEndpoint(name, micro.HandlerFunc(answer), micro.WithEndpointSubject(subject),
		micro.WithEndpointQueueGroupDisabled(), micro.WithEndpointMetadata(map[string]string{"description": description}))
}

func (q *query) answerOwner(req micro.Request) {
	q.mu.Lock()
	owner := q.owner
	q.mu.Unlock()
	if err := req.RespondJSON(owner); err != nil {
		q.log.Warn("cannot answer a query", "cause", err)
	}
}

// serves reports whether this bridge answers as the owner.
func (q *query) serves() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.service != nil
}

// stop ends the service: this bridge is not the owner any more.
func (q *query) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopLocked()
}

func (q *query) stopLocked() {
	if q.service != nil {
		_ = q.service.Stop() // fails when the connection is gone, and the service with it
	}
	q.service = nil
}

// answer answers one request. Its errors are the requester's to see.
func (q *query) answer(req micro.Request) {
	var request struct {
		Next string `json:"next"`
	}
	if len(req.Data()) > 0 {
		if err := json.Unmarshal(req.Data(), &request); err != nil {
			_ = req.Error(codeBadRequest, `the request is not empty and no {"next":"…"}: `+err.Error(), nil)
			return
		}
	}
	if !q.ready() {
		_ = req.Error(codeNotReady, "the snapshot is not confirmed yet; ask again", nil)
		return
	}
	page, ok := q.page(request.Next, time.Now())
	if !ok {
		_ = req.Error(codeGone, "that page is not there any more; ask anew, without next", nil)
		return
	}
	if err := req.Respond(page, micro.WithHeaders(micro.Headers{"Content-Type": {"application/json"}})); err != nil {
		q.log.Warn("cannot answer a query", "cause", err)
	}
}

// page returns the page that next asks for, or the first of a new answer.
func (q *query) page(next string, now time.Time) (page []byte, ok bool) {
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
		q.answers = append(q.answers, a)
		q.answers = q.answers[max(0, len(q.answers)-maxAnswers):]
	}
	return a.pages[0], true
}

// render makes the pages of an answer (schema.Links), all of one moment.
func (q *query) render(limit int) *answerPages {
	st := q.state
	st.mu.Lock()
	defer st.mu.Unlock()
	// Unique within the epoch: a state has one answer for a limit.
	a := &answerPages{token: fmt.Sprintf("%s-%d", st.epoch, st.seq)}
	begin := func() []byte {
		head := fmt.Appendf(nil, `{"schema":%q,"host":`, schema.Name)
		head = append(head, mustJSON(q.id.Host)...)
		return fmt.Appendf(head, `,"boot_id":%q,"epoch":%q,"seq":%d,"links":[`, q.id.BootID, st.epoch, st.seq)
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
