package natsio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// One error has one meaning for all who ask: this is all of it.
func TestClassify(t *testing.T) {
	full := &jetstream.APIError{Code: 503, ErrorCode: 10077, Description: "maximum messages exceeded"}
	unavailable := &jetstream.APIError{Code: 503, ErrorCode: 10008,
		Description: "JetStream system temporarily unavailable"}
	incomplete := &jetstream.APIError{Code: 400, ErrorCode: 10176,
		Description: "batch publish is incomplete and was abandoned"}
	const checkCredentials = "check NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, or NATS_TOKEN"
	tests := []struct {
		err  error
		want Fault
	}{
		{ErrNotConnected, Fault{Disconnected, true, "not connected to NATS", ""}},
		{fmt.Errorf("put: %w", nats.ErrConnectionClosed), Fault{Disconnected, true, "put: nats: connection closed", ""}},
		{nats.ErrAuthorization, Fault{Credentials, false, "nats: authorization violation", checkCredentials}},
		{nats.ErrAuthExpired, Fault{Credentials, false, "nats: authentication expired", checkCredentials}},
		{nats.ErrSecureConnRequired,
			Fault{TLS, false, "nats: secure connection required", "use tls:// in NATS_URL exactly when the server has TLS"}},
		{errors.New("tls: failed to verify certificate: x509: unknown authority"),
			Fault{TLS, false, "tls: failed to verify certificate: x509: unknown authority",
				"check NATS_CA, NATS_CERT and NATS_KEY, and the dates of the certificates"}},
		{fmt.Errorf("%w: no", nats.ErrPermissionViolation),
			Fault{Permission, false, "nats: permissions violation: no", "grant what this prints: ifacebridge permissions"}},
		// What was refused is the reason, not that the answer did not come.
		{fmt.Errorf("%w: %w", nats.ErrPermissionViolation, context.DeadlineExceeded),
			Fault{Permission, false, "nats: permissions violation: context deadline exceeded",
				"grant what this prints: ifacebridge permissions"}},
		{jetstream.ErrNoStreamResponse,
			Fault{NoStream, true, "the stream has no leader, or is gone: nats: no response from stream", ""}},
		// Of a stream that was there, no responders is no answer from its leader.
		{fmt.Errorf("%w: %w", jetstream.ErrNoStreamResponse, nats.ErrNoResponders),
			Fault{NoStream, true, "the stream has no leader, or is gone: " +
				"nats: no response from stream: nats: no responders available for request", ""}},
		{nats.ErrNoResponders,
			Fault{NoJetStream, true, "JetStream is off or not ready: nats: no responders available for request",
				"enable JetStream on the server, or set IFACE_DELIVERY=core, or name the domain that has it in IFACE_JS_DOMAIN"}},
		{context.DeadlineExceeded, Fault{Timeout, true, "no answer in time: context deadline exceeded", ""}},
		{nats.ErrMaxPayload, Fault{TooLarge, false, "nats: maximum payload exceeded", ""}},
		{unavailable, Fault{Unavailable, true,
			"nats: API error: code=503 err_code=10008 description=JetStream system temporarily unavailable", ""}},
		{fmt.Errorf("store: %w", full), Fault{Refused, false,
			"store: nats: API error: code=503 err_code=10077 description=maximum messages exceeded",
			"make room: let the oldest go (discard old), or raise the limit that the server names"}},
		{incomplete, Fault{Refused, false, "the server has as many batches open as it may, or is a new leader: " +
			"nats: API error: code=400 err_code=10176 description=batch publish is incomplete and was abandoned",
			"if it lasts, raise limits.batch.max_inflight_per_stream on the server"}},
		{io.EOF, Fault{Disconnected, true, "EOF",
			"the server accepts connections and does not speak; if it has handshake_first, set IFACE_TLS_FIRST=on"}},
		{errors.New("tls: first record does not look like a TLS handshake"),
			Fault{TLS, false, "tls: first record does not look like a TLS handshake",
				"tls://, wss:// and NATS_CA are for servers with TLS, IFACE_TLS_FIRST=on for those with handshake_first"}},
		{errors.Join(errors.New("one"), errors.New("two")), Fault{Other, false, "one; two", ""}},
		{&net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED},
			Fault{Disconnected, true, "dial tcp: connection refused", ""}},
		{fmt.Errorf("proxy: %w", &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "h"}}),
			Fault{Disconnected, true, "proxy: dial tcp: lookup h: no such host", ""}},
		{&net.OpError{Op: "socks connect", Net: "tcp",
			Err: &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}},
			Fault{Disconnected, true, "socks connect tcp: dial tcp: connection refused", ""}},
		{&net.OpError{Op: "socks connect", Net: "tcp", Err: errors.New("no")},
			Fault{Other, false, "socks connect tcp: no", ""}},
		{nats.ErrNoServers, Fault{Disconnected, true, "nats: no servers available for connection", ""}},
		{WithAdvice(fmt.Errorf("create it: %w", full), "run: %s", "nats stream add X"), Fault{Refused, false,
			"create it: nats: API error: code=503 err_code=10077 description=maximum messages exceeded",
			"run: nats stream add X"}},
	}
	seen := map[Reason]bool{}
	for _, tt := range tests {
		if got := Classify(tt.err); got != tt.want {
			t.Errorf("\n got %+v\nwant %+v", got, tt.want)
		}
		seen[tt.want.Reason] = true
	}
	for _, reason := range Reasons() {
		if !seen[reason] {
			t.Errorf("no error has the reason %q", reason)
		}
	}
}

func TestFaultInOneLine(t *testing.T) {
	f := Classify(WithAdvice(errors.New("full"), "make room"))
	if got, want := f.String(), "full; make room"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCovers(t *testing.T) {
	for _, tt := range []struct {
		filter, subject string
		want            bool
	}{
		{"iface.*.*", "iface.web01.new", true},
		{"iface.>", "iface.web01.new", true},
		{"iface.web01.new", "iface.web01.new", true},
		{"iface.*", "iface.web01.new", false},
		{"iface.*.*.*", "iface.web01.new", false},
		{"iface.web01.new.>", "iface.web01.new", false},
		{"$SRV.*", "$SRV.*", true},
		{"$SRV.PING", "$SRV.*", false},
	} {
		if got := Covers([]string{"other", tt.filter}, tt.subject); got != tt.want {
			t.Errorf("%s covers %s: got %v", tt.filter, tt.subject, got)
		}
	}
}

// Which subject was refused only the text tells.
func TestIsRefusedUnder(t *testing.T) {
	refused := fmt.Errorf(`%w: Permissions Violation for Publish to "$JS.API.STREAM.INFO.IFACE"`,
		nats.ErrPermissionViolation)
	if !IsRefusedUnder(refused, "$JS.API.STREAM.") {
		t.Errorf("%v: is not under $JS.API.STREAM.", refused)
	}
	for _, other := range []string{"$JS.hub.API.STREAM.", "API.STREAM.", "$JS.API.CONSUMER."} {
		if IsRefusedUnder(refused, other) {
			t.Errorf("%v: is under %s", refused, other)
		}
	}
}
