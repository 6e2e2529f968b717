package natsio

import (
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
		MaxBytes:    MaxBytes(cfg),
		AllowDirect: true,
		// Servers before 2.12 do not have it, and some refuse what they do not know.
		AllowAtomicPublish: AtLeast(serverVersion, 2, 12),
	}
}

// MarkerTTL is how long the marker of a deleted key is kept, for watchers that were away;
// without an end, a host that makes containers would leave one for each of them for ever.
const MarkerTTL = time.Hour

// BucketConfig is the bucket that the bridge creates when there is none.
func BucketConfig(cfg *config.Config) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: cfg.Bucket, Description: "current network links, the last event of each, schema " + schema.Name,
		History: 1, Storage: jetstream.FileStorage, Replicas: cfg.Replicas, MaxBytes: MaxBytes(cfg),
		LimitMarkerTTL: MarkerTTL, Metadata: OfPrefix(cfg),
	}
}

// silentMarkerTTL is how long the marker is kept of a host that has fallen silent, for
// readers that come later: those who retire hosts may look once a day.
const silentMarkerTTL = 7 * 24 * time.Hour

// HostsBucketConfig is the bucket of hosts that the bridge creates when there is none.
func HostsBucketConfig(cfg *config.Config) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: cfg.HostsBucket, Description: "the hosts that are there, schema " + schema.Name,
		History: 1, Storage: jetstream.FileStorage, Replicas: cfg.Replicas, MaxBytes: MaxBytes(cfg),
		LimitMarkerTTL: silentMarkerTTL, Metadata: OfPrefix(cfg),
	}
}

// prefixKey is under what a bucket's metadata has the prefix of the subjects.
const prefixKey = "ifacebridge.prefix"

// OfPrefix is the metadata of a bucket that the bridge creates: its keys are names of hosts,
// and under another prefix other hosts have them.
func OfPrefix(cfg *config.Config) map[string]string { return map[string]string{prefixKey: cfg.Prefix} }

// MaxBytes is the limit of a stream and of a bucket that the bridge creates, as the server
// has it: -1 is none.
func MaxBytes(cfg *config.Config) int64 {
	if cfg.MaxBytes == 0 {
		return -1
	}
	return cfg.MaxBytes
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
	return WithAdvice(fmt.Errorf("%s, and this one is %s", needed, version), upgrade)
}

// What is said of servers that are too old.
const (
	needed  = "JetStream delivery needs nats-server 2.11.7 or later"
	upgrade = "upgrade the server, or set IFACE_DELIVERY=core"
)

// CannotCreate returns err, for which a stream or bucket was not created, with the command that
// does as the advice, unless what the server answered is known to need something else.
func CannotCreate(err error, command string) error {
	if fault := Classify(err); fault.Reason == Refused && fault.Advice != "" {
		return err
	}
	return WithAdvice(err, "let this user create it, or have someone who may run: %s", command)
}

// ExplainCreation returns what is to be done about a stream that could not be created. Other
// is the stream that has its subjects, where one has and that is known.
func ExplainCreation(c *config.Config, cfg jetstream.StreamConfig, other string, err error) error {
	failed := fmt.Errorf("create stream %s: %w", cfg.Name, err)
	if !IsOverlap(err) {
		return CannotCreate(failed, AddCommand(c, cfg))
	}
	if other != "" {
		failed = fmt.Errorf("%w: stream %s has its subjects", failed, other)
	}
	return WithAdvice(failed, "another stream has the subjects (`nats stream ls --subject '%s'` shows it): "+
		"name it in IFACE_STREAM, or take the subjects from it", cfg.Subjects[0])
}

// AddCommand is the nats command that creates the stream.
func AddCommand(c *config.Config, cfg jetstream.StreamConfig) string {
	const format = "nats stream add %s --subjects='%s' --storage=file --replicas=%d --max-age=%s --allow-direct --defaults"
	cmd := fmt.Sprintf(format, cfg.Name, strings.Join(cfg.Subjects, ","), cfg.Replicas, cfg.MaxAge)
	if cfg.MaxBytes > 0 {
		cmd += fmt.Sprintf(" --max-bytes=%d", cfg.MaxBytes)
	}
	if cfg.AllowAtomicPublish {
		cmd += " --allow-batch"
	}
	return cmd + c.NATSFlags()
}

// AddBucketCommand is the nats command that creates the bucket.
func AddBucketCommand(c *config.Config, cfg jetstream.KeyValueConfig) string {
	cmd := fmt.Sprintf("nats kv add %s --storage=file --replicas=%d", cfg.Bucket, cfg.Replicas)
	if cfg.MaxBytes > 0 {
		cmd += fmt.Sprintf(" --max-bucket-size=%d", cfg.MaxBytes)
	}
	return cmd + fmt.Sprintf(" --marker-ttl=%v", cfg.LimitMarkerTTL) + c.NATSFlags()
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
