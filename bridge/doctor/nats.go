package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/schema"
)

const (
	askTimeout   = natsio.ConfirmTimeout
	othersListen = time.Second // how long to listen for the answers of other bridges
)

// connect connects once, without retrying. It returns nil when that fails.
func (e *examination) connect(ctx context.Context) *nats.Conn {
	nc, err := natsio.ConnectOnce(ctx, &e.cfg, "ifacebridge doctor")
	if err != nil {
		fault := natsio.Classify(err)
		e.failFor(fault.Reason, "NATS", config.RedactURLs(e.cfg.Servers)+": "+fault.Cause,
			cmp.Or(fault.Advice, "is a server listening there, and does a firewall let this host reach it?"))
		return nil
	}
	if err := natsio.CheckServer(nc.ConnectedServerVersion()); err != nil && e.cfg.Delivery == config.JetStream {
		e.fault("NATS server", err)
	}
	if err := natsio.CheckPayload(&e.cfg, nc.MaxPayload()); err != nil {
		e.fault("NATS server", err)
	}
	e.good("NATS", "%s, version %s, payloads up to %d bytes",
		nc.ConnectedUrlRedacted(), nc.ConnectedServerVersion(), nc.MaxPayload())
	return nc
}

func (e *examination) checkTLS() {
	state, err := e.nc.TLSConnectionState()
	switch {
	case err != nil && !e.nc.AuthRequired():
		e.warn("TLS", "none, and the server asks nobody who they are", "for more than a trial, see deploy/nats/nats.conf")
		return
	case err != nil:
		e.warn("TLS", "none: events and passwords cross the network readable", "use tls:// or wss:// in NATS_URL")
		return
	}
	e.checkEnd(natsio.TLS, "TLS", "the server's certificate", state.PeerCertificates[0].NotAfter)
}

// subjects are those that a server lets a user use: all when it names none that are
// allowed.
type subjects struct{ Allow, Deny []string }

// lacks returns which of the needed subjects a user may not use.
func (s *subjects) lacks(needed []string) (missing []string) {
	for _, subject := range needed {
		allowed := len(s.Allow) == 0 || natsio.Covers(s.Allow, subject)
		if !allowed || natsio.Covers(s.Deny, subject) {
			missing = append(missing, subject)
		}
	}
	return missing
}

// checkPermissions compares what the server lets this user do with what a bridge
// needs: the server is asked, so that nothing need be tried.
func (e *examination) checkPermissions(ctx context.Context) {
	info, err := e.userInfo(ctx)
	if errors.Is(err, nats.ErrPermissionViolation) {
		e.failFor(natsio.Permission, "permissions", "the server does not let this user ask for them: "+err.Error(),
			e.permissionAdvice())
		return
	} else if err != nil {
		e.warn("permissions", "the server does not tell them: "+err.Error(), "compare with: "+e.cfg.PermissionsCommand())
		return
	}
	user, has := info.Data.User, info.Data.Permissions
	if has == nil {
		e.good("permissions", "user %q may do everything; what a bridge needs: %s", user, e.cfg.PermissionsCommand())
		return
	}
	var missing []string
	needs := e.cfg.HostPermissions()
	for _, subject := range has.Publish.lacks(e.published(needs.Publish)) {
		missing = append(missing, "publish to "+subject)
	}
	for _, subject := range has.Subscribe.lacks(needs.Subscribe) {
		missing = append(missing, "subscribe to "+subject)
	}
	if len(missing) > 0 {
		e.failFor(natsio.Permission, "permissions", fmt.Sprintf("user %q may not %s", user, strings.Join(missing, ", ")),
			e.permissionAdvice())
		return
	}
	e.good("permissions", "user %q may do what a bridge needs", user)
}

func (e *examination) permissionAdvice() string {
	return "give it what this prints: " + e.cfg.PermissionsCommand()
}

// published returns the subjects with that of all events replaced by those that there
// are, since a user may be allowed these alone.
func (e *examination) published(needed []string) []string {
	var list []string
	for _, subject := range needed {
		if subject != e.cfg.HostSubjects() {
			list = append(list, subject)
			continue
		}
		for _, kind := range []schema.Kind{schema.New, schema.Del} {
			list = append(list, schema.Subject(e.cfg.Prefix, e.cfg.Token, kind))
		}
	}
	return list
}

// ask makes a request without a body, and decodes the answer.
func (e *examination) ask(ctx context.Context, subject string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	before := e.nc.LastError()
	reply, err := e.nc.RequestWithContext(ctx, subject, nil)
	if err != nil {
		return natsio.ExplainPermission(e.nc, before, err)
	}
	return json.Unmarshal(reply.Data, answer)
}

// userInfo is what a server tells of the user of a connection.
type userInfo struct {
	Server struct{ ID string }
	Data   struct {
		User        string
		Permissions *struct{ Publish, Subscribe subjects }
	}
}

// userInfo asks the server that this connection is to. Beside a leaf node the hub answers,
// too: about the user that the leaf is there.
func (e *examination) userInfo(ctx context.Context) (info userInfo, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	before := e.nc.LastError()
	inbox := e.nc.NewInbox()
	sub, err := e.nc.SubscribeSync(inbox)
	if err != nil {
		return info, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := e.nc.PublishRequest("$SYS.REQ.USER.INFO", inbox, nil); err != nil {
		return info, err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return info, natsio.ExplainPermission(e.nc, before, err)
		}
		info = userInfo{}
		if err := json.Unmarshal(m.Data, &info); err != nil {
			return info, err
		}
		if info.Server.ID == e.nc.ConnectedServerId() {
			return info, nil
		}
	}
}

// checkJetStream looks at the account, the stream and the buckets.
func (e *examination) checkJetStream(ctx context.Context) {
	js, err := natsio.JetStream(&e.cfg, e.nc)
	if err != nil {
		e.fault("JetStream", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*natsio.ConfirmTimeout)
	defer cancel()
	before := e.nc.LastError() // what was refused to the checks before
	account, err := js.AccountInfo(ctx)
	if err != nil {
		e.fault("JetStream", natsio.ExplainPermission(e.nc, before, err))
		return
	}
	var info *jetstream.StreamInfo
	stream, err := js.Stream(ctx, e.cfg.Stream)
	if err == nil { // again, with what it holds of this host
		info, err = stream.Info(ctx, jetstream.WithSubjectFilter(e.cfg.HostSubjects()))
	}
	missing := errors.Is(err, jetstream.ErrStreamNotFound)
	if err != nil && !missing {
		e.fault("stream", natsio.ExplainPermission(e.nc, before, err))
		return
	}
	e.checkAccount(account, missing)
	if missing {
		e.checkMissingStream(ctx, js)
	} else {
		text := fmt.Sprintf("%s takes %v, holds %d events", info.Config.Name, info.Config.Subjects, info.State.Msgs)
		e.judge("stream", text, natsio.InspectStream(&e.cfg, info))
		e.checkStored(ctx)
		e.checkClock(ctx)
	}
	e.checkBucket(ctx, js, "bucket", natsio.BucketConfig(&e.cfg), natsio.InspectBucket)
	if e.cfg.Presence > 0 {
		e.checkBucket(ctx, js, "hosts bucket", natsio.HostsBucketConfig(&e.cfg), natsio.InspectHostsBucket)
	}
}

// checkAccount looks at what the account may do, and has.
func (e *examination) checkAccount(info *jetstream.AccountInfo, missing bool) {
	limit := func(n int64) string {
		if n <= 0 {
			return "no limit"
		}
		return fmt.Sprint(n)
	}
	text := fmt.Sprintf("API level %d, %d streams (%s), %d bytes stored (%s)", info.API.Level, info.Streams,
		limit(int64(info.Limits.MaxStreams)), info.Store, limit(info.Limits.MaxStore))
	if info.Domain != "" {
		text += ", domain " + info.Domain
	}
	e.judge("JetStream", text, natsio.InspectAccount(&e.cfg, info, missing))
}

// judge reports findings; when they are none, or let a bridge work, also that text.
func (e *examination) judge(check, text string, findings []natsio.Finding) {
	if len(findings) == 0 || findings[0].Weight == natsio.Differs {
		e.good(check, "%s", text)
	}
	for _, f := range findings {
		if f.Weight == natsio.Differs {
			e.warn(check, f.Text, f.Advice)
		} else {
			e.fail(check, f.Text, f.Advice)
		}
	}
}

// checkMissingStream finds out whether the bridge can create its stream.
func (e *examination) checkMissingStream(ctx context.Context, js jetstream.JetStream) {
	cfg := natsio.StreamConfig(&e.cfg, e.nc.ConnectedServerVersion())
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if other, err := js.StreamNameBySubject(ctx, cfg.Subjects[0]); err == nil { // a bridge's user may not ask
		e.fail("stream", fmt.Sprintf("%s is not there, and cannot be created: stream %s has its subjects", cfg.Name, other),
			fmt.Sprintf("set IFACE_STREAM=%s, or take the subjects from that stream", other))
		return
	}
	e.warn("stream", cfg.Name+" is not there; the bridge creates it, if it may",
		"or have someone who may run: "+natsio.AddCommand(&e.cfg, cfg))
}

// checkStored reports when the stream had this host's last event.
func (e *examination) checkStored(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	switch last, err := natsio.LastStored(ctx, e.nc, &e.cfg); {
	case err != nil: // what is refused was reported
	case last == nil:
		e.good("last event", "none of this host is stored yet")
	default:
		e.good("last event", "of this host was stored %v ago", time.Since(last.Time).Round(time.Second))
	}
}

// checkBucket looks at a bucket that the bridge would make like that. Without it, or when it
// cannot be used, events are published all the same.
func (e *examination) checkBucket(
	ctx context.Context, js jetstream.JetStream, check string, made jetstream.KeyValueConfig,
	inspect func(*config.Config, *jetstream.StreamInfo) []natsio.Finding,
) {
	before := e.nc.LastError()
	stream, err := js.Stream(ctx, config.BucketStream(made.Bucket))
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		e.warn(check, made.Bucket+" is not there; the bridge creates it, if it may",
			"or have someone who may run: "+natsio.AddBucketCommand(&e.cfg, made))
		return
	case err != nil:
		e.fault(check, natsio.ExplainPermission(e.nc, before, err))
		return
	}
	info := stream.CachedInfo()
	e.judge(check, fmt.Sprintf("%s is there, holds %d keys", made.Bucket, info.State.Msgs), inspect(&e.cfg, info))
}

// checkClock compares the host's clock with the server's, which is in every answer of
// its API.
func (e *examination) checkClock(ctx context.Context) {
	var answer struct {
		Time time.Time `json:"ts"`
	}
	began := time.Now()
	if err := e.ask(ctx, e.cfg.API()+".STREAM.INFO."+e.cfg.Stream, &answer); err != nil || answer.Time.IsZero() {
		return // older servers do not tell; what else is wrong was reported
	}
	if off := answer.Time.Sub(began); off < -time.Second || off > time.Since(began)+time.Second {
		e.warn("clock", fmt.Sprintf("this host and the NATS server differ by %v", off.Round(time.Millisecond)),
			"the order of events does not depend on it, but their times do: is NTP running?")
		return
	}
	e.good("clock", "as the NATS server's, to a second")
}

// checkOthers looks for who else writes as this host.
func (e *examination) checkOthers(ctx context.Context) {
	here, elsewhere, otherwise, err := e.others(ctx)
	switch {
	case err != nil:
		e.warn("other bridges", "they cannot be asked: "+err.Error(), e.permissionAdvice())
	case len(elsewhere) > 0:
		e.fail("other bridges",
			fmt.Sprintf("another machine writes as host %q: epoch %s", e.cfg.Host, strings.Join(elsewhere, ", ")),
			"give each host a name of its own (IFACE_HOST)")
	case len(here) > 1:
		e.fail("other bridges", fmt.Sprintf("%d bridges on this machine write as host %q", len(here), e.cfg.Host),
			"run one bridge for a host")
	case len(here) == 1:
		e.good("other bridges", "one runs on this machine, epoch %s", here[0])
	case e.cfg.FollowHost && len(otherwise) > 0:
		e.warn("other bridges", fmt.Sprintf("the kernel calls this host %q, and a bridge on this machine publishes as %s",
			e.cfg.Host, strings.Join(otherwise, ", ")),
			"one that is not told its name follows the kernel's within a second; "+
				"if it has an IFACE_HOST, give doctor the same, or take it away")
	default:
		e.good("other bridges", "none writes as this host now")
	}
}

// others returns the epochs of the bridges that answer for this host, of those on this
// machine and of those on others, and the names under which others on this machine publish.
func (e *examination) others(ctx context.Context) (here, elsewhere, otherwise []string, err error) {
	before := e.nc.LastError()
	inbox := e.nc.NewInbox()
	sub, err := e.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := e.nc.PublishRequest(micro.APIPrefix+".INFO."+schema.ServiceName, inbox, nil); err != nil {
		return nil, nil, nil, err
	}
	content, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	bootID := strings.TrimSpace(string(content))
	ctx, cancel := context.WithTimeout(ctx, othersListen)
	defer cancel()
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil { // nobody else has answered, or nobody was asked
			return here, elsewhere, otherwise, natsio.PermissionError(e.nc, before)
		}
		var info micro.Info
		if json.Unmarshal(m.Data, &info) != nil || info.Metadata["prefix"] != e.cfg.Prefix {
			continue
		}
		ours, sameBoot := info.Metadata["token"] == e.cfg.Token, info.Metadata["boot_id"] == bootID
		switch {
		case ours && sameBoot:
			here = append(here, info.Metadata["epoch"])
		case ours:
			elsewhere = append(elsewhere, info.Metadata["epoch"])
		case sameBoot:
			otherwise = append(otherwise, strconv.Quote(info.Metadata["host"]))
		}
	}
}
