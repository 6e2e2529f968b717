// Package doctor checks what a bridge needs, and advises where something is lacking.
package doctor

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/natsio"
)

// A Verdict is how a check has ended.
type Verdict string

const (
	Good Verdict = "ok"
	Warn Verdict = "warn" // it works, but not as well as it could
	Fail Verdict = "FAIL" // it does not work
)

// A Finding is the outcome of one check: what was looked at, what was seen, and what
// to do about it.
type Finding struct {
	Check   string
	Verdict Verdict
	Text    string
	Advice  string        // "" when there is nothing to do
	Reason  natsio.Reason // of a failure: why NATS did not do it; "": it is not NATS, or of its own account
}

// Diagnose checks what a bridge with this configuration needs, and calls report
// with each finding, in order: the kernel first, then NATS from the connection to
// what is stored, and in the end what a bridge that runs here has to say. It changes
// nothing, and leaves no trace in the stream. It takes as long as NATS takes to answer,
// some seconds at most for each check. When ctx ends it ends early, and reports nothing any
// more.
func Diagnose(ctx context.Context, cfg config.Config, report func(Finding)) {
	e := &examination{cfg: cfg}
	e.report = func(f Finding) {
		if ctx.Err() != nil { // which may be all that was found
			return
		}
		e.failed = e.failed || f.Verdict == Fail
		report(f)
	}
	e.checkKernel(ctx)
	e.checkNamespaces()
	if cfg.Host == "" {
		e.warn("host", "it has no name of its own yet: a bridge waits until it has one, and publishes nothing",
			"hostnamectl set-hostname NAME, or set IFACE_HOST")
	} else {
		e.good("host", "%q publishes on %s.{new,del}", cfg.Host, cfg.Prefix+"."+cfg.Token)
	}
	e.checkCredentials()
	e.checkNATS(ctx)
	e.checkBridge(ctx)
}

// checkNATS looks at all that is NATS's, as far as it can be reached.
func (e *examination) checkNATS(ctx context.Context) {
	if e.nc = e.connect(ctx); e.nc == nil {
		return
	}
	defer e.nc.Close()
	e.checkTLS()
	e.checkServers(ctx)
	if e.cfg.Host == "" {
		return // what follows is asked for a name
	}
	e.checkPermissions(ctx)
	if e.cfg.Delivery == config.JetStream {
		e.checkJetStream(ctx)
	}
	e.checkOthers(ctx)
}

// An examination is one run of all checks.
type examination struct {
	cfg    config.Config
	report func(Finding)
	failed bool // something was reported that does not work
	nc     *nats.Conn
}

func (e *examination) good(check, format string, args ...any) {
	e.report(Finding{Check: check, Verdict: Good, Text: fmt.Sprintf(format, args...)})
}

func (e *examination) warn(check, text, advice string) {
	e.report(Finding{Check: check, Verdict: Warn, Text: text, Advice: advice})
}

func (e *examination) fail(check, text, advice string) {
	e.failFor("", check, text, advice)
}

// failFor is fail for a reason that NATS had.
func (e *examination) failFor(reason natsio.Reason, check, text, advice string) {
	e.report(Finding{Check: check, Verdict: Fail, Text: text, Advice: advice, Reason: reason})
}

// fault reports an error of NATS, with what it means and what to do about it.
func (e *examination) fault(check string, err error) {
	fault := natsio.Classify(err)
	e.failFor(fault.Reason, check, fault.Cause, fault.Advice)
}
