package bridge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// Verdict is what a check has found.
type Verdict string

const (
	Good Verdict = "ok"
	Warn Verdict = "warn" // it works, but not as well as it could
	Fail Verdict = "FAIL" // it does not work
)

// A Finding is the outcome of one check of [Diagnose]: what was looked at, what was
// seen, and what to do about it.
type Finding struct {
	Check   string
	Verdict Verdict
	Text    string
	Advice  string // "" when there is nothing to do
}

// Diagnose checks what a bridge with this configuration needs, and calls report
// with each finding, in order: the kernel first, then NATS from the connection to
// what is stored. It changes nothing, and leaves no trace in the stream.
func Diagnose(ctx context.Context, cfg config.Config, report func(Finding)) {
	d := &doctor{cfg: cfg, report: report}
	d.kernel(ctx)
	d.namespaces()
	d.host()
	nc, err := d.connect()
	if err != nil {
		return
	}
	defer nc.Close()
	d.nc = nc
	d.permissions(ctx)
	if cfg.Delivery == config.JetStream {
		d.jetStream(ctx)
	}
	d.others(ctx)
}

type doctor struct {
	cfg    config.Config
	report func(Finding)
	nc     *nats.Conn
}

func (d *doctor) good(check, format string, args ...any) {
	d.report(Finding{check, Good, fmt.Sprintf(format, args...), ""})
}

func (d *doctor) warn(check, text, advice string) { d.report(Finding{check, Warn, text, advice}) }

func (d *doctor) fail(check string, err error, advice string) {
	d.report(Finding{check, Fail, err.Error(), advice})
}

// fault reports an error of NATS, with what it means and what to do about it.
func (d *doctor) fault(check string, err error) {
	fault := natsio.Classify(err)
	d.report(Finding{check, Fail, fault.Cause, fault.Advice})
}

// kernel opens netlink as the bridge does, and reads the links.
func (d *doctor) kernel(ctx context.Context) {
	src, err := netlinksrc.Open(netlinksrc.Config{ReadBuffer: d.cfg.ReadBuffer})
	if err != nil {
		d.fail("netlink", err, "the sandbox must allow sockets of the family AF_NETLINK")
		return
	}
	defer src.Close()
	links, published := 0, 0
	_, err = src.Dump(ctx, func(m *netlinksrc.Message) {
		links++
		if d.cfg.Filter.Publishes(&m.Link, "") {
			published++
		}
	})
	if err != nil {
		d.fail("netlink", err, "")
		return
	}
	d.good("netlink", "%d links, %d of them published", links, published)
	if granted := src.ReadBuffer(); granted < d.cfg.ReadBuffer {
		d.warn("receive buffer", fmt.Sprintf("%d bytes of the %d asked for, about %d notifications", granted, d.cfg.ReadBuffer, granted/2304),
			fmt.Sprintf("sysctl -w net.core.rmem_max=%d, or run with CAP_NET_ADMIN; a burst that does not fit is an overrun, which is said and mended", d.cfg.ReadBuffer))
	} else {
		d.good("receive buffer", "%d bytes, as asked for", granted)
	}
}

// namespaces opens every selected namespace as the bridge does.
func (d *doctor) namespaces() {
	if d.cfg.Netns.OnlySelf() {
		return
	}
	finder, err := netlinksrc.NewFinder(d.cfg.Netns)
	if err != nil {
		d.fail("namespaces", err, "")
		return
	}
	defer finder.Close()
	found, missed := finder.Find()
	opened := 0
	for _, ns := range found {
		if ns.Own() {
			opened++
			continue
		}
		src, err := netlinksrc.OpenPath(ns.Path, ns.Inode, netlinksrc.Config{})
		if err != nil {
			missed = append(missed, netlinksrc.Missed{What: ns.Name, Err: err})
			continue
		}
		_ = src.Close()
		opened++
	}
	d.good("namespaces", "%d of %d can be watched", opened, len(found))
	for _, m := range missed {
		d.warn("namespaces", fmt.Sprintf("%s: %v", m.What, m.Err), adviseNetns(m.Err))
	}
}

func (d *doctor) host() {
	d.good("host", "%q publishes on %s.{new,del}", d.cfg.Host, d.cfg.Prefix+"."+d.cfg.Token)
}

// connect connects once, without trying on.
func (d *doctor) connect() (*nats.Conn, error) {
	opts := append(natsio.Options(&d.cfg, "ifacebridge doctor"), nats.NoReconnect(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // each check reports its own
	nc, err := nats.Connect(strings.Join(d.cfg.Servers, ","), opts...)
	if err != nil {
		if errors.Is(err, nats.ErrNoServers) { // the library keeps the reason for itself
			err = dial(d.cfg.Servers)
		}
		fault := natsio.Classify(err)
		d.fail("NATS", fmt.Errorf("%s: %s", config.RedactURLs(d.cfg.Servers), fault.Cause),
			cmp.Or(fault.Advice, "is a server listening there, and does a firewall let this host reach it?"))
		return nil, err
	}
	d.good("NATS", "%s, version %s, payloads up to %d bytes", nc.ConnectedUrlRedacted(), nc.ConnectedServerVersion(), nc.MaxPayload())
	state, err := nc.TLSConnectionState()
	switch {
	case err != nil && !nc.AuthRequired():
		d.warn("TLS", "none, and the server asks nobody who they are", "for more than a trial, see deploy/nats/nats.conf")
	case err != nil:
		d.warn("TLS", "none: events and passwords cross the network readable", "use tls:// in NATS_URL")
	default:
		until := state.PeerCertificates[0].NotAfter
		if time.Until(until) < 14*24*time.Hour {
			d.warn("TLS", "the server's certificate ends on "+until.Format(time.RFC3339), "renew it")
		} else {
			d.good("TLS", "the server's certificate is good until %s", until.Format(time.DateOnly))
		}
	}
	return nc, nil
}

// dial returns why the servers cannot be reached.
func dial(servers []string) error {
	var errs []error
	for _, server := range servers {
		u, err := url.Parse(server)
		if err != nil {
			continue // was checked
		}
		port := cmp.Or(u.Port(), "4222")
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(u.Hostname(), port), 3*time.Second)
		if err == nil {
			_ = conn.Close()
			err = fmt.Errorf("%s:%s takes connections, and does not speak NATS", u.Hostname(), port)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// permissions compares what the server lets this user do with what a bridge needs:
// the server is asked, so that nothing need be tried.
func (d *doctor) permissions(ctx context.Context) {
	var info struct {
		Data struct {
			User        string
			Permissions *struct {
				Publish, Subscribe struct{ Allow, Deny []string }
			}
		}
	}
	if err := d.ask(ctx, "$SYS.REQ.USER.INFO", nil, &info); err != nil {
		d.warn("permissions", "the server does not tell them: "+err.Error(), "compare with: ifacebridge permissions")
		return
	}
	if info.Data.Permissions == nil {
		d.good("permissions", "user %q may do everything; what a bridge needs: ifacebridge permissions", info.Data.User)
		return
	}
	var missing []string
	needs := d.cfg.HostPermissions()
	needs.Publish = append(needs.Publish[1:], schema.Subject(d.cfg.Prefix, d.cfg.Token, schema.New), schema.Subject(d.cfg.Prefix, d.cfg.Token, schema.Del))
	for _, list := range []struct {
		verb        string
		needs       []string
		allow, deny []string
	}{
		{"publish to", needs.Publish, info.Data.Permissions.Publish.Allow, info.Data.Permissions.Publish.Deny},
		{"subscribe to", needs.Subscribe, info.Data.Permissions.Subscribe.Allow, info.Data.Permissions.Subscribe.Deny},
	} {
		for _, subject := range list.needs {
			if len(list.allow) > 0 && !natsio.Covers(list.allow, subject) || natsio.Covers(list.deny, subject) {
				missing = append(missing, list.verb+" "+subject)
			}
		}
	}
	if len(missing) > 0 {
		d.fail("permissions", fmt.Errorf("user %q may not %s", info.Data.User, strings.Join(missing, ", ")), "give it what this prints: ifacebridge permissions "+d.cfg.Host)
		return
	}
	d.good("permissions", "user %q may do what a bridge needs", info.Data.User)
}

// ask makes a request, and decodes the answer.
func (d *doctor) ask(ctx context.Context, subject string, data []byte, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	before := d.nc.LastError()
	reply, err := d.nc.RequestWithContext(ctx, subject, data)
	if err != nil {
		return natsio.ExplainPermission(d.nc, before, err)
	}
	return json.Unmarshal(reply.Data, answer)
}

// jetStream looks at the stream and the bucket.
func (d *doctor) jetStream(ctx context.Context) {
	js, err := newJetStreamDelivery(d.cfg, d.nc, slog.New(slog.DiscardHandler))
	if err != nil {
		d.fail("JetStream", err, "")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*natsio.ConfirmTimeout)
	defer cancel()
	before := d.nc.LastError() // what was refused to the checks before
	stream, err := js.js.Stream(ctx, d.cfg.Stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		d.warn("stream", d.cfg.Stream+" is not there; the bridge makes it, if it may", "or have someone who may run: "+natsio.AddCommand(js.streamConfig()))
		return
	case err != nil:
		d.fault("JetStream", js.explain(err, before))
		return
	}
	cfg, state := stream.CachedInfo().Config, stream.CachedInfo().State
	for _, kind := range []schema.Kind{schema.New, schema.Del} {
		if subject := schema.Subject(d.cfg.Prefix, d.cfg.Token, kind); !natsio.Covers(cfg.Subjects, subject) {
			d.fail("stream", fmt.Errorf("%s takes %v, not %s", cfg.Name, cfg.Subjects, subject), "add that subject to it, or name another stream in IFACE_STREAM")
			return
		}
	}
	d.good("stream", "%s takes %v, holds %d events", cfg.Name, cfg.Subjects, state.Msgs)
	if cfg.Retention != jetstream.LimitsPolicy {
		d.warn("stream", fmt.Sprintf("%s keeps events by %v: the first reader takes them from the others", cfg.Name, cfg.Retention), "a stream of events wants the retention \"limits\"")
	}
	if !cfg.AllowAtomicPublish {
		d.warn("stream", cfg.Name+" takes no atomic batches: each event waits for the one before", "nats stream edit "+cfg.Name+" --allow-batch (servers from 2.12)")
	}
	d.clock(ctx)
	if _, err := js.js.KeyValue(ctx, d.cfg.Bucket); errors.Is(err, jetstream.ErrBucketNotFound) {
		d.warn("bucket", d.cfg.Bucket+" is not there; the bridge makes it, if it may", "")
	} else if err != nil {
		d.fault("bucket", err)
	} else {
		d.good("bucket", "%s is there", d.cfg.Bucket)
	}
}

// clock compares the host's clock with the server's, which is in every answer of
// its API.
func (d *doctor) clock(ctx context.Context) {
	var answer struct {
		Time time.Time `json:"ts"`
	}
	began := time.Now()
	if err := d.ask(ctx, "$JS.API.STREAM.INFO."+d.cfg.Stream, nil, &answer); err != nil || answer.Time.IsZero() {
		return // older servers do not say; what else is wrong was said
	}
	if off := answer.Time.Sub(began); off < -time.Second || off > time.Since(began)+time.Second {
		d.warn("clock", fmt.Sprintf("this host and the NATS server differ by %v", off.Round(time.Millisecond)), "the order of events does not depend on it, but their times do: is NTP running?")
		return
	}
	d.good("clock", "as the NATS server's, to a second")
}

// others looks for who else writes as this host.
func (d *doctor) others(ctx context.Context) {
	inbox := d.nc.NewInbox()
	sub, err := d.nc.SubscribeSync(inbox)
	if err == nil {
		err = d.nc.PublishRequest(micro.APIPrefix+".INFO."+schema.ServiceName, inbox, nil)
	}
	if err != nil {
		d.warn("other bridges", err.Error(), "")
		return
	}
	defer func() { _ = sub.Unsubscribe() }()
	bootID, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var here, elsewhere []string
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			break
		}
		var info micro.Info
		if json.Unmarshal(m.Data, &info) != nil || info.Metadata["token"] != d.cfg.Token {
			continue
		}
		if info.Metadata["boot_id"] == strings.TrimSpace(string(bootID)) {
			here = append(here, info.Metadata["epoch"])
		} else {
			elsewhere = append(elsewhere, info.Metadata["epoch"])
		}
	}
	switch {
	case len(elsewhere) > 0:
		d.fail("other bridges", fmt.Errorf("another machine writes as host %q: epoch %s", d.cfg.Host, strings.Join(elsewhere, ", ")), "give each host a name of its own (IFACE_HOST)")
	case len(here) > 1:
		d.fail("other bridges", fmt.Errorf("%d bridges on this machine write as host %q", len(here), d.cfg.Host), "run one bridge for a host")
	case len(here) == 1:
		d.good("other bridges", "one runs on this machine, epoch %s", here[0])
	default:
		d.good("other bridges", "none writes as this host now")
	}
}
