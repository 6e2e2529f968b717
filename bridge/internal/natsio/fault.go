package natsio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// A Reason names why NATS did not do what it was asked to. It is also the label by
// which failures are counted.
type Reason string

// The reasons, each with what it stands for.
const (
	Disconnected Reason = "disconnected" // there is no connection, or it was lost on the way
	Credentials  Reason = "credentials"  // the server does not accept this user
	TLS          Reason = "tls"          // the two do not agree on encryption, or on certificates
	Permission   Reason = "permission"   // this user may not use the subject
	NoStream     Reason = "no_stream"    // the stream has no leader, or is gone
	NoJetStream  Reason = "no_jetstream" // JetStream is off, or not ready
	Timeout      Reason = "timeout"      // no answer in time
	TooLarge     Reason = "too_large"    // the message is larger than the server takes
	Unavailable  Reason = "unavailable"  // the cluster has no leader
	Refused      Reason = "refused"      // the server refused for a reason of its own, such as a full stream
	Other        Reason = "other"        // anything else
)

// IsNoAnswer reports whether nobody has answered: there is no way to a server, or what was
// asked for got no answer.
func (r Reason) IsNoAnswer() bool { return r == Disconnected || r == Timeout }

// IsForbidden reports whether a person has to permit something: the server does not let this
// user in, or refuses a subject.
func (r Reason) IsForbidden() bool { return r == Credentials || r == Permission }

// A Fault is what an error of NATS means to those who handle, count, log or show it.
type Fault struct {
	Reason Reason

	// Transient faults may end without anybody's doing, as when a cluster elects a
	// leader. Of the others any server of the cluster would report the same.
	Transient bool

	Cause  string // the error's text, in one line, behind what it means where that is not plain
	Advice string // what a person can do about it; "" when there is nothing, or nothing is known
}

// String returns cause and advice in one line.
func (f *Fault) String() string {
	if f.Advice == "" {
		return f.Cause
	}
	return f.Cause + "; " + f.Advice
}

// attrs are the cause, and the advice if there is one, as a log line has them.
func (f *Fault) attrs() []any {
	attrs := []any{"cause", f.Cause}
	if f.Advice != "" {
		attrs = append(attrs, "advice", f.Advice)
	}
	return attrs
}

// Errors of this package.
var (
	ErrNotConnected = errors.New("not connected to NATS")
	ErrDisconnected = errors.New("the connection to NATS was lost")
	ErrReconnected  = errors.New("the connection was lost while publishing")
)

// Error codes of the server that the client libraries do not name, with its names.
const (
	codeAccountResources jetstream.ErrorCode = 10002 // JSAccountResourcesExceededErr
	codeNoPeers          jetstream.ErrorCode = 10005 // JSClusterNoPeersErrF
	codeUnavailable      jetstream.ErrorCode = 10008 // JSClusterNotAvailErr
	codeInsufficient     jetstream.ErrorCode = 10023 // JSInsufficientResourcesErr
	codeMaximumStreams   jetstream.ErrorCode = 10027 // JSMaximumStreamsLimitErr
	codeMemoryResources  jetstream.ErrorCode = 10028 // JSMemoryResourcesExceededErr
	codeStorageResources jetstream.ErrorCode = 10047 // JSStorageResourcesExceededErr
	codeTooLarge         jetstream.ErrorCode = 10054 // JSStreamMessageExceedsMaximumErr
	codeNotThisStream    jetstream.ErrorCode = 10060 // JSStreamNotMatchErr
	codeOverlap          jetstream.ErrorCode = 10065 // JSStreamSubjectOverlapErr
	codeReplicas         jetstream.ErrorCode = 10074 // JSStreamReplicasNotSupportedErr
	codeStoreFailed      jetstream.ErrorCode = 10077 // JSStreamStoreFailedF
	codeSealed           jetstream.ErrorCode = 10109 // JSStreamSealedErr
	codeMaxBytesRequired jetstream.ErrorCode = 10113 // JSStreamMaxBytesRequired
	codeOffline          jetstream.ErrorCode = 10118 // JSStreamOfflineErr
	codeNoLimits         jetstream.ErrorCode = 10120 // JSNoLimitsErr
	codeMaxStreamBytes   jetstream.ErrorCode = 10122 // JSStreamMaxStreamBytesExceeded
	codeTooManyRequests  jetstream.ErrorCode = 10167 // JSStreamTooManyRequests
	codeAPILevel         jetstream.ErrorCode = 10185 // JSRequiredApiLevelErr
	codeOfflineReason    jetstream.ErrorCode = 10194 // JSStreamOfflineReasonErrF
	codeBatchTooLarge    jetstream.ErrorCode = 10199 // JSAtomicPublishTooLargeBatchErrF
	codeBatchDuplicate   jetstream.ErrorCode = 10201 // JSAtomicPublishContainsDuplicateMessageErr
	codeTooManyBatches   jetstream.ErrorCode = 10210 // JSAtomicPublishTooManyInflight
)

// A kind is a set of errors that mean the same.
type kind struct {
	reason    Reason
	transient bool
	meaning   string // what comes before the error's text; "": it speaks for itself
	advice    string

	errs  []error               // the errors that are of this kind,
	codes []jetstream.ErrorCode // the server's codes that are,
	texts []string              // what texts hold of those errors that have no type,
	is    func(error) bool      // or what else tells them
}

// refused is the kind of errors that the server answers with some codes.
func refused(advice string, codes ...jetstream.ErrorCode) kind {
	return kind{reason: Refused, advice: advice, codes: codes}
}

// kinds is the one place that knows what errors mean. The first that fits applies.
var kinds = []kind{
	{
		reason: Disconnected, transient: true,
		errs: []error{ErrNotConnected, ErrDisconnected, ErrReconnected, nats.ErrConnectionClosed, nats.ErrDisconnected,
			nats.ErrReconnectBufExceeded, nats.ErrNoServers},
	}, {
		reason: Credentials,
		advice: "check NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, or NATS_TOKEN",
		errs:   []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired},
	}, {
		reason: TLS,
		advice: "use tls:// in NATS_URL exactly when the server has TLS",
		errs:   []error{nats.ErrSecureConnRequired, nats.ErrSecureConnWanted},
	}, {
		reason: TLS,
		advice: "tls://, wss:// and NATS_CA are for servers with TLS, IFACE_TLS_FIRST=on for those with handshake_first",
		texts:  []string{"first record does not look like a TLS handshake"},
	}, {
		reason: Permission,
		advice: "grant what this prints: ifacebridge permissions",
		errs:   []error{nats.ErrPermissionViolation},
	}, {
		reason: NoStream, transient: true,
		meaning: "the stream has no leader, or is gone",
		errs:    []error{jetstream.ErrNoStreamResponse, jetstream.ErrStreamNotFound},
	}, {
		reason: NoJetStream, transient: true,
		meaning: "JetStream is off or not ready",
		advice: "enable JetStream on the server, or set IFACE_DELIVERY=core, " +
			"or name the domain that has it in IFACE_JS_DOMAIN",
		errs: []error{jetstream.ErrJetStreamNotEnabled, jetstream.ErrJetStreamNotEnabledForAccount,
			nats.ErrNoResponders},
	}, {
		reason: Timeout, transient: true,
		meaning: "no answer in time",
		errs:    []error{context.DeadlineExceeded, nats.ErrTimeout},
	}, {
		reason: TooLarge,
		errs:   []error{nats.ErrMaxPayload},
		codes:  []jetstream.ErrorCode{codeTooLarge},
	}, {
		reason: Unavailable, transient: true,
		codes: []jetstream.ErrorCode{codeUnavailable, codeOffline, codeOfflineReason, codeTooManyRequests},
	},
	refused("make room: let the oldest go (discard old), or raise the limit that the server names", codeStoreFailed),
	refused("the account or the server has used up its storage: raise its limit, or delete what nobody needs",
		codeAccountResources, codeInsufficient, codeMemoryResources, codeStorageResources),
	refused("the account demands a limit for each stream: set IFACE_MAX_BYTES, for example to 256MiB",
		codeMaxBytesRequired),
	refused("set IFACE_MAX_BYTES to no more than the account allows for a stream (max_stream_bytes)",
		codeMaxStreamBytes),
	refused("the account has as many streams as it may: raise its limit, or name one that is there in IFACE_STREAM",
		codeMaximumStreams),
	refused("set IFACE_REPLICAS to no more than the servers of the cluster and the account's tiers allow",
		codeReplicas, codeNoPeers, codeNoLimits),
	refused("another stream has these subjects: name that one in IFACE_STREAM, or other subjects in IFACE_SUBJECT_PREFIX",
		codeOverlap),
	refused("another stream than IFACE_STREAM takes these subjects: name that one", codeNotThisStream),
	refused("name another stream in IFACE_STREAM, or another bucket in IFACE_BUCKET", codeSealed),
	refused("upgrade nats-server on all servers of the cluster", codeAPILevel),
	{
		// It did not take the beginning, having too many batches open (10210, which only an
		// answer to that would tell), or it has become the leader since.
		reason:  Refused,
		meaning: "the server has as many batches open as it may, or is a new leader",
		advice:  "if it lasts, raise limits.batch.max_inflight_per_stream on the server",
		codes:   []jetstream.ErrorCode{jetstreamext.JSErrCodeBatchPublishIncomplete, codeTooManyBatches},
	}, {
		reason: TLS,
		advice: "check NATS_CA, NATS_CERT and NATS_KEY, and the dates of the certificates",
		texts:  []string{"x509:", "tls:", "tls error:"},
	}, {
		// It may wait for us to begin with TLS, while we wait for its greeting.
		reason: Disconnected, transient: true,
		advice: "the server accepts connections and does not speak; if it has handshake_first, set IFACE_TLS_FIRST=on",
		is:     isSilence,
	}, {
		reason: Disconnected, transient: true,
		is: isUnreachable,
	},
}

// isSilence reports whether a connection was made, and nothing read from it, in time or
// until it was closed.
func isSilence(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.As(err, &op) && op.Op == "read" && op.Timeout()
}

// isUnreachable reports whether no connection was made, to a server or to the proxy on the
// way: nobody listens, or there is no way there, or no such name.
func isUnreachable(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && (op.Op == "dial" || isUnreachable(op.Err)) // that of a proxy has another in it
}

// fits reports whether an error, with the server's answer in it if any, is of a kind.
func (k *kind) fits(err error, answer *jetstream.APIError) bool {
	for _, is := range k.errs {
		if errors.Is(err, is) {
			return true
		}
	}
	for _, code := range k.codes {
		if answer != nil && answer.ErrorCode == code {
			return true
		}
	}
	for _, text := range k.texts {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return k.is != nil && k.is(err)
}

// Classify returns what an error of NATS means. The error must not be nil.
func Classify(err error) Fault {
	f := Fault{Reason: Other, Cause: strings.ReplaceAll(err.Error(), "\n", "; ")}
	var answer *jetstream.APIError
	if errors.As(err, &answer) {
		f.Reason = Refused
	}
	for i := range kinds {
		if k := &kinds[i]; k.fits(err, answer) {
			f.Reason, f.Transient, f.Advice = k.reason, k.transient, k.advice
			if k.meaning != "" {
				f.Cause = k.meaning + ": " + f.Cause
			}
			break
		}
	}
	var advised *advisedError
	if errors.As(err, &advised) {
		f.Advice = advised.advice
	}
	return f
}

// isCode reports whether the server answered with one of these codes.
func isCode(err error, codes ...jetstream.ErrorCode) bool {
	var answer *jetstream.APIError
	return errors.As(err, &answer) && slices.Contains(codes, answer.ErrorCode)
}

// IsStale reports whether the server answered that something else stands where the message
// belongs, or that it is there already: what is stored will tell.
func IsStale(err error) bool {
	return isCode(err, jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant,
		codeBatchDuplicate)
}

// IsBatchTooLarge reports whether the server takes fewer messages as a batch.
func IsBatchTooLarge(err error) bool { return isCode(err, codeBatchTooLarge) }

// IsBatchRefused reports whether the server does not take batches, or not such as ours, of
// which it takes the messages one by one: whatever of a batch it objects to, but for its
// size, its place, and how many are open.
func IsBatchRefused(err error) bool {
	var answer *jetstream.APIError
	if !errors.As(err, &answer) || IsStale(err) || IsBatchTooLarge(err) ||
		isCode(err, jetstreamext.JSErrCodeBatchPublishIncomplete, codeTooManyBatches) {
		return false
	}
	code := answer.ErrorCode
	return code == codeAPILevel || code >= 10174 && code <= 10179 || code >= 10198 && code <= 10211
}

// IsFull reports whether the stream has no room for what was sent, and refuses it.
func IsFull(err error) bool { return isCode(err, codeStoreFailed) }

// IsOverlap reports whether the server did not make a stream since another one has its
// subjects.
func IsOverlap(err error) bool { return isCode(err, codeOverlap) }

// IsTooLarge reports whether a message is larger than the server or the stream takes.
func IsTooLarge(err error) bool {
	return errors.Is(err, nats.ErrMaxPayload) || isCode(err, codeTooLarge)
}

// Reasons returns all of them.
func Reasons() []Reason {
	return []Reason{Disconnected, Credentials, TLS, Permission, NoStream, NoJetStream, Timeout, TooLarge, Unavailable,
		Refused, Other}
}

// advisedError is an error with an advice that only its origin could give.
type advisedError struct {
	error
	advice string
}

func (e *advisedError) Unwrap() error { return e.error }

// WithAdvice returns err with an advice that [Classify] prefers to its own. The
// error's text stays what it is.
func WithAdvice(err error, format string, args ...any) error {
	return &advisedError{err, fmt.Sprintf(format, args...)}
}

// PermissionError returns the permission that the server has refused since before was
// the connection's last error, if any. The server answers a publish that is not
// permitted with an error of its own, ahead of what it answers later. The advice is the
// command that prints what this connection's user needs.
func PermissionError(nc *nats.Conn, before error) error {
	if err := nc.LastError(); err != before && errors.Is(err, nats.ErrPermissionViolation) {
		if d, ok := nc.Opts.CustomDialer.(*dialer); ok {
			return &advisedError{err, d.grant}
		}
		return err
	}
	return nil
}

// IsRefusedUnder reports whether a permission that the server has refused is for a subject
// that begins so. The server tells the subject in the text alone.
func IsRefusedUnder(refused error, prefix string) bool {
	return strings.Contains(refused.Error(), `"`+prefix)
}

// ExplainPermission returns err with the permission in front that the server has
// refused since before, if any: what was refused looks like a server that does not
// answer. It returns nil when err is nil.
func ExplainPermission(nc *nats.Conn, before, err error) error {
	if err == nil {
		return nil
	}
	refused := PermissionError(nc, before)
	if refused == nil {
		return err
	}
	explained := err
	if !strings.Contains(err.Error(), refused.Error()) {
		explained = fmt.Errorf("%w: %w", refused, err)
	}
	if advised := new(advisedError); errors.As(err, &advised) || errors.As(refused, &advised) { // err's own knows more
		return &advisedError{explained, advised.advice}
	}
	return explained
}
