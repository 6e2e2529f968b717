package state

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/schema"
)

// A Query answers with the links of this host, as a NATS micro service: `nats
// micro ls` lists the fleet, and a request on ifacebridge.<host>.links returns the
// published state and the epoch and seq that it is true at. A consumer that
// subscribes, asks, and applies what comes behind that seq has missed nothing.
//
// An answer that is larger than a message comes in pages. The pages of one answer
// are made together, and kept for a while for the one who asks for the next.
type Query struct {
	id            event.Identity
	state         *State
	nc            *nats.Conn
	ready         func() bool     // whether the state is whole
	refused       func() []string // subjects that the server has refused since the last call
	token, prefix string
	cfg           micro.Config
	log           *slog.Logger

	mu      sync.Mutex
	owner   schema.Owner
	service micro.Service  // nil: this bridge is not the owner
	answers []*answerPages // the newest last, at most maxAnswers

	snapshots *nats.Subscription // to requests for the snapshot
	asking    []*nats.Msg        // those of them that are not answered, at most maxAsking
	telling   int                // how many of asking are answered by the snapshot that is being told
	asked     chan struct{}      // holds a token when there is one more
}

// Codes of the query service's errors, in the header Nats-Service-Error-Code.
const (
	codeBadRequest = "400"
	codeGone       = "410" // ask anew
	codeNotReady   = "503"
)

// semver is what micro wants a version to look like.
var semver = regexp.MustCompile(`^v?(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)$`)

// NewQuery returns a service that does not answer yet. Overruns, behind, which tells how
// many links the bucket does not have, and ready, which tells whether the state is whole,
// are called from goroutines of nats.go. Refused, which Serve calls, returns the subjects to
// which the server did not let this user subscribe since it was called last.
func NewQuery(
	cfg config.Config, id event.Identity, st *State, nc *nats.Conn,
	overruns func() uint64, behind func() int, ready func() bool, refused func() []string, log *slog.Logger,
) *Query {
	version := "0.0.0"
	if m := semver.FindStringSubmatch(cfg.Version); m != nil {
		version = m[1]
	}
	q := &Query{
		id: id, state: st, nc: nc, ready: ready, refused: refused, log: log,
		token: cfg.Token, prefix: cfg.Prefix, asked: make(chan struct{}, 1),
		owner: schema.Owner{
			Schema: schema.Name, Host: cfg.Host, BootID: id.BootID, Started: time.Now().UTC(), NetnsInode: id.OwnNetns,
		},
	}
	q.cfg = micro.Config{
		Name: schema.ServiceName, Version: version, Description: "network links of " + cfg.Host,
		Metadata: map[string]string{
			"host": cfg.Host, "token": cfg.Token, "epoch": id.Epoch, "boot_id": id.BootID, "version": cfg.Version,
			"delivery": string(cfg.Delivery), "prefix": cfg.Prefix, "schema": schema.Name,
		},
		StatsHandler: func(*micro.Endpoint) any {
			epoch, seq, links := st.size()
			return map[string]any{
				"epoch": epoch, "seq": seq, "links": links, "overruns": overruns(), "bucket_behind": behind(),
			}
		},
	}
	if id.Labels != "" {
		q.cfg.Metadata["labels"] = id.Labels.String()
	}
	if cfg.Delivery == config.JetStream {
		q.cfg.Metadata["stream"], q.cfg.Metadata["bucket"] = cfg.Stream, cfg.Bucket
	}
	return q
}

// Serve answers, as the owner of the host's name in this epoch, until Stop. It is called
// again every now and then: what the server refuses may be granted later, and only who
// subscribes anew learns of that on the same connection.
func (q *Query) Serve(epoch string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	anew := q.owner.Epoch != epoch
	if anew {
		q.turnAwayLocked()
		q.owner.Epoch = epoch
		q.cfg.Metadata = maps.Clone(q.cfg.Metadata) // it is the former service's
		q.cfg.Metadata["epoch"] = epoch
	}
	if err := q.serveLocked(anew, q.refused()); err != nil {
		q.log.Warn("cannot answer queries; events are not affected", "cause", err)
		q.stopLocked() // all or nothing: the next call tries again
	}
}

// serveLocked adds the service and subscribes to requests for the snapshot: what is not there
// yet, and what was refused; the service anew when it has changed. The new one comes before the
// former ends, so that somebody answers at nearly every moment: a request that is just being
// delivered to the former may find nobody, and a bridge that has heard the owner
// asks again before it believes that.
func (q *Query) serveLocked(anew bool, refused []string) error {
	links, owner := schema.QuerySubjectUnder(q.prefix, q.token), schema.OwnerSubjectUnder(q.prefix, q.token)
	if anew || q.service == nil || slices.Contains(refused, links) || slices.Contains(refused, owner) {
		if q.service != nil {
			former := q.service
			defer func() { _ = former.Stop() }() // fails when the connection is gone, and the service with it
		}
		var err error
		if q.service, err = micro.AddService(q.nc, q.cfg); err != nil {
			return err
		}
		if err := q.add("links", links, q.answer, `the links of this host; {"next":…} asks for the next page`); err != nil {
			return err
		}
		if err := q.add("owner", owner, q.answerOwner, "who publishes as this host"); err != nil {
			return err
		}
	}
	// Not an endpoint: a user that may not subscribe to it, as before there was such a thing,
	// has the service made once.
	snapshot := schema.SnapshotSubjectUnder(q.prefix, q.token)
	if q.snapshots != nil && !slices.Contains(refused, snapshot) {
		return nil
	}
	if q.snapshots != nil {
		_ = q.snapshots.Unsubscribe() // fails when the connection is gone, and this with it
	}
	var err error
	q.snapshots, err = q.nc.Subscribe(snapshot, q.askSnapshot)
	return err
}

// add adds an endpoint to the service. It is in no queue group: a bridge that is being replaced must not
// answer in the place of the one that replaces it.
func (q *Query) add(name, subject string, answer func(micro.Request), description string) error {
	return q.service.AddEndpoint(name, micro.HandlerFunc(answer), micro.WithEndpointSubject(subject),
		micro.WithEndpointQueueGroupDisabled(), micro.WithEndpointMetadata(map[string]string{"description": description}))
}

// answerOwner answers who the owner is: this bridge.
func (q *Query) answerOwner(req micro.Request) {
	q.mu.Lock()
	owner := q.owner
	q.mu.Unlock()
	if err := req.RespondJSON(owner); err != nil {
		q.log.Warn("cannot answer a query", "cause", err)
	}
}

// Serves reports whether this bridge answers as the owner.
func (q *Query) Serves() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.service != nil
}

// Stop ends the service: this bridge is not the owner any more.
func (q *Query) Stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopLocked()
}

// stopLocked ends the service.
func (q *Query) stopLocked() {
	if q.service != nil {
		_ = q.service.Stop() // fails when the connection is gone, and the service with it
	}
	q.service = nil
	if q.snapshots != nil {
		_ = q.snapshots.Unsubscribe() // as above
	}
	q.snapshots = nil
	q.turnAwayLocked()
}

// turnAwayLocked answers who has asked for a snapshot of an epoch that ends.
func (q *Query) turnAwayLocked() {
	for _, m := range q.asking {
		respondError(m, codeNotReady, "it was not told, since the epoch has ended; ask again")
	}
	q.asking, q.telling = nil, 0
}

// answer answers one request. Its errors are the requester's to see.
func (q *Query) answer(req micro.Request) {
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

// AskTimeout is how long [AskOwner] waits for the answer.
const AskTimeout = time.Second

// AskOwner is [AskOwner] for this host.
func (q *Query) AskOwner(ctx context.Context) (*schema.Owner, error) {
	return AskOwner(ctx, q.nc, q.prefix, q.token)
}

// AskOwner asks who answers for a host. Its error is [nats.ErrNoResponders] when nobody
// does.
func AskOwner(ctx context.Context, nc *nats.Conn, prefix, token string) (*schema.Owner, error) {
	ctx, cancel := context.WithTimeout(ctx, AskTimeout)
	defer cancel()
	lastErr := nc.LastError()
	reply, err := nc.RequestWithContext(ctx, schema.OwnerSubjectUnder(prefix, token), nil)
	if err != nil {
		if refused := natsio.PermissionError(nc, lastErr); refused != nil {
			return nil, refused
		}
		return nil, err
	}
	other := new(schema.Owner)
	if err := json.Unmarshal(reply.Data, other); err != nil {
		return nil, fmt.Errorf("who owns the name of this host: %w", err)
	}
	return other, nil
}
