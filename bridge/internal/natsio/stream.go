package natsio

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/bridge/config"
	"ifacebridge/schema"
)

const (
	// ConfirmTimeout is how long an answer of the server is waited for before the
	// connection is taken to be dead or the server stuck.
	ConfirmTimeout = 5 * time.Second

	// LookupTimeout is that for questions that cost the server nothing: a stream that
	// has no leader, since it is being made or elects one, does not answer at all.
	LookupTimeout = 2 * time.Second
)

// JetStream returns what asks JetStream where the configuration has it: in the domain of the
// servers, or in another one.
func JetStream(cfg *config.Config, nc *nats.Conn, opts ...jetstream.JetStreamOpt) (jetstream.JetStream, error) {
	opts = append([]jetstream.JetStreamOpt{jetstream.WithDefaultTimeout(ConfirmTimeout)}, opts...)
	return jetstream.NewWithAPIPrefix(nc, cfg.API(), opts...)
}

// StreamConfig is the stream that the bridge creates when there is none, on a server
// of that version.
func StreamConfig(cfg *config.Config, serverVersion string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        cfg.Stream,
		Description: "network link events, schema " + schema.Name,
		Subjects:    []string{cfg.Prefix + ".*.*"},
		Storage:     jetstream.FileStorage,
		Replicas:    cfg.Replicas,
		MaxAge:      cfg.MaxAge,
		AllowDirect: true,
		// Servers before 2.12 do not have it, and some refuse what they do not know.
		AllowAtomicPublish: AtLeast(serverVersion, 2, 12),
	}
}

// CheckStream returns why a stream cannot be used as it is, with advice; nil when it can.
func CheckStream(cfg *config.Config, stream *jetstream.StreamConfig) error {
	for _, kind := range []schema.Kind{schema.New, schema.Del} {
		if subject := schema.Subject(cfg.Prefix, cfg.Token, kind); !Covers(stream.Subjects, subject) {
			return WithAdvice(fmt.Errorf("stream %s takes %v, not %s", stream.Name, stream.Subjects, subject),
				"add that subject to it, or name another stream in IFACE_STREAM")
		}
	}
	return nil
}

// CheckServer returns why JetStream delivery does not work with a server of this version;
// nil when it does. Before 2.11.7 a server finds a header by the first occurrence of its
// name, also within another's: the fence (Nats-Expected-Last-Subject-Sequence, beside
// …-Sequence-Subject) holds or not by the order of headers. One whose version is no
// version is taken at its word.
func CheckServer(version string) error {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); n != 3 {
		return nil
	}
	if major > 2 || major == 2 && (minor > 11 || minor == 11 && patch >= 7) {
		return nil
	}
	return WithAdvice(fmt.Errorf("JetStream delivery needs nats-server 2.11.7 or later, and this one is %s", version),
		"upgrade the server, or set IFACE_DELIVERY=core")
}

// ExplainCreation returns what is to be done about a stream that could not be created.
func ExplainCreation(cfg jetstream.StreamConfig, err error) error {
	failed := fmt.Errorf("create stream %s: %w", cfg.Name, err)
	var answer *jetstream.APIError
	if errors.As(err, &answer) && answer.ErrorCode == codeOverlap {
		return WithAdvice(failed, "another stream has the subjects (`nats stream ls --subject '%s'` shows it): "+
			"name it in IFACE_STREAM, or take the subjects from it", cfg.Subjects[0])
	}
	return WithAdvice(failed, "let this user create it, or have someone who may run: %s", AddCommand(cfg))
}

// AddCommand is the nats command that creates the stream.
func AddCommand(cfg jetstream.StreamConfig) string {
	const format = "nats stream add %s --subjects='%s' --storage=file --replicas=%d --max-age=%s --allow-direct --defaults"
	cmd := fmt.Sprintf(format, cfg.Name, strings.Join(cfg.Subjects, ","), cfg.Replicas, cfg.MaxAge)
	if cfg.AllowAtomicPublish {
		cmd += " --allow-batch"
	}
	return cmd
}

// Covers reports whether one of the filters matches a subject, which may itself have
// wildcards: then those have to be in the filter.
func Covers(filters []string, subject string) bool {
	for _, filter := range filters {
		if matches(strings.Split(filter, "."), strings.Split(subject, ".")) {
			return true
		}
	}
	return false
}

func matches(filter, subject []string) bool {
	for i, token := range filter {
		if token == ">" {
			return len(subject) > i
		}
		if i >= len(subject) || token != "*" && token != subject[i] {
			return false
		}
	}
	return len(filter) == len(subject)
}

// AtLeast reports whether a version such as "2.12.1" is major.minor or later.
func AtLeast(version string, major, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(version, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a > major || a == major && b >= minor
}
