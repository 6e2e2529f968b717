package natsio

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/bridge/config"
	"ifacebridge/schema"
)

// A Weight is what a finding means for the bridge.
type Weight int

// The weights.
const (
	Differs  Weight = iota // it works, though otherwise than it was set, or could
	Full                   // it takes nothing more for now: the server refuses what comes
	Unusable               // what is promised cannot be kept with it: it is not used
)

// A Finding is one thing about a stream or a bucket that is not as a bridge needs it, or as
// it was set.
type Finding struct {
	Weight  Weight
	Setting string // the field of the stream's configuration that it is about, as JSON has it
	Text    string // a sentence, which names the stream and the setting
	Advice  string // what mends it, where that can be, a command of nats; "": nothing to do
}

// An inspection collects findings.
type inspection struct {
	cfg      *config.Config
	info     *jetstream.StreamInfo
	what     string   // how the stream is called in texts
	bucket   string   // of which it is the stream; "": of none
	holds    string   // what is in that
	subjects []string // what we publish on, as examples
	findings []Finding
}

func (i *inspection) add(weight Weight, setting, advice, format string, args ...any) {
	i.findings = append(i.findings, Finding{weight, setting, i.what + " " + fmt.Sprintf(format, args...), advice})
}

// bucketFlags are what `nats kv edit` calls flags of `nats stream edit`, which wants a
// terminal for the stream of a bucket.
var bucketFlags = map[string]string{
	"--max-msg-size": "--max-value-size", "--max-bytes": "--max-bucket-size", "--max-age": "--ttl",
	"--max-msgs-per-subject": "--history", "--replicas": "--replicas",
}

// edit is the command that changes a setting of the stream.
func (i *inspection) edit(flags string) string {
	name, value, _ := strings.Cut(flags, "=")
	if flag, ok := bucketFlags[name]; ok && i.bucket != "" {
		return fmt.Sprintf("nats kv edit %s %s=%s", i.bucket, flag, value) + i.cfg.NATSFlags()
	}
	return fmt.Sprintf("nats stream edit %s %s -f", i.info.Config.Name, flags) + i.cfg.NATSFlags()
}

// InspectStream returns what is not as a bridge of this configuration needs a stream, the
// gravest first. It is a function of what it is given: the bridge calls it before
// it publishes, /readyz shows its refusal, and doctor calls it, too. Of the state it looks
// at State.Subjects only when that is there.
func InspectStream(cfg *config.Config, info *jetstream.StreamInfo) []Finding {
	i := &inspection{cfg: cfg, info: info, what: "stream " + info.Config.Name}
	var missing []string
	for _, kind := range []schema.Kind{schema.New, schema.Del} {
		subject := schema.Subject(cfg.Prefix, cfg.Token, kind)
		i.subjects = append(i.subjects, subject)
		if !Covers(info.Config.Subjects, subject) {
			missing = append(missing, cfg.Prefix+".*."+kind.String())
		}
	}
	if len(missing) == len(i.subjects) {
		missing = []string{cfg.Prefix + ".*.*"}
	}
	i.refuse("stream", "IFACE_STREAM", missing)
	i.size(SmallestMessage(cfg))
	i.room()
	i.compareStream()
	return i.sorted()
}

// InspectBucket is [InspectStream] of the stream that a bucket is.
func InspectBucket(cfg *config.Config, info *jetstream.StreamInfo) []Finding {
	i := inspectBucket(cfg, info, "IFACE_BUCKET", cfg.Bucket, "links", cfg.Token+".1")
	i.size(SmallestValue(cfg))
	i.compareBucket()
	return i.sorted()
}

// InspectHostsBucket is [InspectStream] of the stream that the bucket of hosts is.
func InspectHostsBucket(cfg *config.Config, info *jetstream.StreamInfo) []Finding {
	i := inspectBucket(cfg, info, "IFACE_HOSTS_BUCKET", cfg.HostsBucket, "hosts", cfg.Token)
	if !MarksSilent(&info.Config) {
		i.add(Differs, "subject_delete_marker_ttl", MarksAdvice(cfg),
			"does not mark hosts that fall silent (subject_delete_marker_ttl): "+
				"readers have to go by the age of its values")
	}
	return i.sorted()
}

// inspectBucket looks at what all buckets have in common. Variable names the bucket, which
// holds keys such as this one.
func inspectBucket(
	cfg *config.Config, info *jetstream.StreamInfo, variable, bucket, holds, key string,
) *inspection {
	i := &inspection{cfg: cfg, info: info, what: "bucket " + bucket, bucket: bucket, holds: holds}
	i.subjects = []string{config.BucketSubject(bucket, key)}
	var missing []string
	if !Covers(info.Config.Subjects, i.subjects[0]) {
		missing = []string{config.BucketSubject(bucket, ">")}
	}
	i.refuse("bucket", variable, missing)
	if other := info.Config.Metadata[prefixKey]; other != "" && other != cfg.Prefix {
		i.add(Unusable, "metadata", "name another bucket in "+variable,
			"is that of the hosts under the prefix %s (metadata): those of the same name would meet in it", other)
	}
	i.roomOfBucket()
	return i
}

// MarksSilent reports whether a bucket of hosts can be told how long a value is good for, and
// marks a host of which that is over.
func MarksSilent(c *jetstream.StreamConfig) bool {
	return c.AllowMsgTTL && c.SubjectDeleteMarkerTTL > 0
}

// MarksAdvice is how a bucket of hosts comes to mark those that fall silent.
func MarksAdvice(cfg *config.Config) string {
	return "delete the bucket and have it made anew, on nats-server 2.11 or later, or have someone who may run: " +
		"nats stream edit " + config.BucketStream(cfg.HostsBucket) + " --allow-msg-ttl --subject-del-markers-ttl=" +
		silentMarkerTTL.String() + cfg.NATSFlags()
}

// sorted returns the findings, the gravest first.
func (i *inspection) sorted() []Finding {
	slices.SortStableFunc(i.findings, func(a, b Finding) int { return int(b.Weight - a.Weight) })
	return i.findings
}

// refuse finds settings with which a stream takes no messages from us, or not as ours.
// Kind and variable are what it is and what names it, missing the subjects that it lacks.
func (i *inspection) refuse(kind, variable string, missing []string) {
	c := &i.info.Config
	another := "name another " + kind + " in " + variable
	switch {
	case c.Mirror != nil:
		i.add(Unusable, "mirror", another, "is a mirror of %s: nothing can be published to it (mirror)", c.Mirror.Name)
	case c.Sealed:
		i.add(Unusable, "sealed", another, "is sealed: it takes nothing any more (sealed)")
	case len(missing) > 0:
		flags := ""
		for _, subject := range append(slices.Clone(c.Subjects), missing...) {
			flags += " --subjects='" + subject + "'"
		}
		at := slices.IndexFunc(i.subjects, func(subject string) bool { return !Covers(c.Subjects, subject) })
		i.add(Unusable, "subjects", "add that subject to it, or "+another+": "+i.edit(flags[1:]),
			"takes %v, not %s", c.Subjects, i.subjects[at])
	}
	if c.NoAck {
		i.add(Unusable, "no_ack", i.edit("--ack"), "confirms nothing, so that nobody knows what is stored (no_ack)")
	}
	if t := c.SubjectTransform; t != nil && i.transforms(t.Source) {
		i.add(Unusable, "subject_transform", i.edit("--no-transform"),
			"stores events under other subjects than they were published on (subject_transform from %q to %q), "+
				"where they are not found again", t.Source, t.Destination)
	}
	if c.AllowMsgCounter {
		i.add(Unusable, "allow_msg_counter", another, "is one of counters, and takes no events (allow_msg_counter)")
	}
	i.retention(another)
}

// transforms reports whether a transform from source changes one of our subjects.
func (i *inspection) transforms(source string) bool {
	return source == "" || slices.ContainsFunc(i.subjects, func(s string) bool { return Covers([]string{source}, s) })
}

// retention finds a stream that messages leave when they are read: what is stored cannot
// be looked up behind a reader, and the sequence that the fence expects is gone.
func (i *inspection) retention(another string) {
	advice := another + ", which this one may have as a source: its retention cannot be changed"
	switch i.info.Config.Retention {
	case jetstream.LimitsPolicy:
		return
	case jetstream.InterestPolicy:
		advice = i.edit("--retention=limits")
	}
	i.add(Unusable, "retention", advice, "keeps events only until they were read (retention %s), "+
		"so that nobody can know what was stored", strings.ToLower(i.info.Config.Retention.String()))
}

// roomForEvents is what an ordinary event has room in, in bytes.
const roomForEvents = 4 << 10

// size looks at the largest message that a stream takes.
func (i *inspection) size(smallest int) {
	limit := int(i.info.Config.MaxMsgSize)
	advice := i.edit("--max-msg-size=-1")
	switch {
	case limit <= 0 || limit >= roomForEvents:
	case limit < smallest:
		i.add(Unusable, "max_msg_size", advice, "takes messages of up to %d bytes (max_msg_size), and the smallest "+
			"event of this host may have %d", limit, smallest)
	default:
		i.add(Differs, "max_msg_size", advice, "takes messages of up to %d bytes (max_msg_size): of larger events "+
			"some fields are left out (truncated)", limit)
	}
}

// full finds a stream that has reached a limit and refuses what is new.
func (i *inspection) full(setting string, limit int64, advice string) {
	i.add(Full, setting, advice, "is full: it refuses what is new (%s %d, discard new)", setting, limit)
}

// room looks at a stream's limits.
func (i *inspection) room() {
	c, s := &i.info.Config, &i.info.State
	perSubject := c.MaxMsgsPerSubject > 0
	if c.Discard != jetstream.DiscardNew {
		if perSubject {
			i.add(Differs, "max_msgs_per_subject", i.edit("--max-msgs-per-subject=-1"),
				"keeps only the last %d events of each kind of a host (max_msgs_per_subject)", c.MaxMsgsPerSubject)
		}
		return
	}
	advice := i.edit("--discard=old")
	if perSubject = perSubject && c.DiscardNewPerSubject; perSubject {
		advice = i.edit("--discard=old --no-discard-per-subject")
	}
	switch {
	case c.MaxMsgs > 0 && s.Msgs >= uint64(c.MaxMsgs):
		i.full("max_msgs", c.MaxMsgs, advice)
	case c.MaxBytes > 0 && s.Bytes+roomForEvents > uint64(c.MaxBytes):
		i.full("max_bytes", c.MaxBytes, advice)
	case perSubject && slices.ContainsFunc(i.subjects, func(subject string) bool {
		return s.Subjects[subject] >= uint64(c.MaxMsgsPerSubject)
	}):
		i.full("max_msgs_per_subject", c.MaxMsgsPerSubject, advice)
	case c.MaxMsgs > 0 || c.MaxBytes > 0 || perSubject:
		i.add(Differs, "discard", advice, "will refuse events when it is full, rather than let the oldest go (discard new)")
	}
}

// roomOfBucket looks at a bucket's limits. What lets the oldest go would lose some.
func (i *inspection) roomOfBucket() {
	c, s := &i.info.Config, &i.info.State
	switch {
	case c.MaxBytes > 0 && s.Bytes+roomForEvents > uint64(c.MaxBytes):
		i.full("max_bytes", c.MaxBytes, i.edit("--max-bytes=-1"))
	case c.MaxMsgs > 0 && s.Msgs >= uint64(c.MaxMsgs):
		i.full("max_msgs", c.MaxMsgs, i.edit("--max-msgs=-1"))
	case c.Discard == jetstream.DiscardOld && (c.MaxBytes > 0 || c.MaxMsgs > 0):
		i.add(Differs, "discard", i.edit("--discard=new"), "will lose %s when it is full (discard old)", i.holds)
	}
}

// compareStream compares a stream with what was set for one that we would make.
func (i *inspection) compareStream() {
	c := &i.info.Config
	i.compareSettings()
	if i.cfg.Chosen("IFACE_MAX_AGE") && c.MaxAge != i.cfg.MaxAge {
		i.add(Differs, "max_age", i.edit("--max-age="+i.cfg.MaxAge.String()),
			"was there, and IFACE_MAX_AGE=%v does not apply to it: it keeps events for %v (max_age)", i.cfg.MaxAge, c.MaxAge)
	}
	if !c.AllowAtomicPublish {
		i.add(Differs, "allow_atomic", i.edit("--allow-batch"),
			"takes no atomic batches: each event waits for the one before (allow_atomic)")
	}
	if c.PersistMode == jetstream.AsyncPersistMode {
		i.add(Differs, "persist_mode", "name another stream in IFACE_STREAM",
			"confirms events before they are on disk (persist_mode async): a crash of the server loses some")
	}
	if c.Storage == jetstream.MemoryStorage {
		i.add(Differs, "storage", "name another stream in IFACE_STREAM",
			"is in the memory of the server (storage): its restart loses all of it")
	}
}

// compareBucket compares a bucket with what a bridge would make.
func (i *inspection) compareBucket() {
	c := &i.info.Config
	i.compareSettings()
	if !c.AllowDirect {
		i.add(Unusable, "allow_direct", i.edit("--allow-direct"), "its stream does not allow direct gets (allow_direct)")
	}
	if c.MaxAge > 0 {
		i.add(Differs, "max_age", i.edit("--max-age=0"), "forgets keys after %v (max_age, its TTL): "+
			"each link is put again before that", c.MaxAge)
	}
	if c.MaxMsgsPerSubject <= 0 {
		i.add(Differs, "max_msgs_per_subject", i.edit("--max-msgs-per-subject=1"),
			"keeps all values that a key ever had (max_msgs_per_subject)")
	}
}

// compareSettings compares with what was set for streams and buckets that we make.
func (i *inspection) compareSettings() {
	c := &i.info.Config
	if i.cfg.Chosen("IFACE_REPLICAS") && c.Replicas != i.cfg.Replicas {
		i.add(Differs, "num_replicas", i.edit(fmt.Sprintf("--replicas=%d", i.cfg.Replicas)),
			"was there, and IFACE_REPLICAS=%d does not apply to it: it has %d (num_replicas)", i.cfg.Replicas, c.Replicas)
	}
	if want := MaxBytes(i.cfg); i.cfg.Chosen("IFACE_MAX_BYTES") && c.MaxBytes != want {
		i.add(Differs, "max_bytes", i.edit(fmt.Sprintf("--max-bytes=%d", want)),
			"was there, and IFACE_MAX_BYTES=%d does not apply to it: it has %d (max_bytes)", i.cfg.MaxBytes, c.MaxBytes)
	}
}

// Refusal returns the first finding with which a stream or a bucket cannot be used, as an
// error with its advice; nil when there is none.
func Refusal(findings []Finding) error {
	for _, f := range findings {
		if f.Weight == Unusable {
			return WithAdvice(fmt.Errorf("%s", f.Text), "%s", f.Advice)
		}
	}
	return nil
}

// AdviseFull returns err with what the findings know to do about a stream that is full, if it
// says that the stream is.
func AdviseFull(err error, findings []Finding) error {
	for _, f := range findings {
		if (f.Weight == Full || f.Setting == "discard") && IsFull(err) {
			return WithAdvice(err, "%s", f.Advice)
		}
	}
	return err
}

// LogFindings logs findings with which a stream or a bucket can be used, those that were
// not logged yet.
func LogFindings(log *slog.Logger, findings []Finding, logged map[string]bool) {
	for _, f := range findings {
		if f.Weight != Differs || logged[f.Text] {
			continue
		}
		logged[f.Text] = true
		log.Warn("used as it is, which is not as it was set, or not as well as it could be",
			"cause", f.Text, "advice", f.Advice)
	}
}

// SmallestMessage is how many bytes a message of this host has to be allowed, headers
// included, for the event of an ordinary link of which all is left out that may be.
func SmallestMessage(cfg *config.Config) int {
	const rest = 1536 // names of fields, ids, the keys that were left out; TestSmallestMessage
	return rest + len(cfg.Host) + 2*len(cfg.Token) + len(cfg.Prefix) + len(cfg.Stream) + labelsSize(cfg)
}

// SmallestValue is that of the values of the bucket, which have no headers.
func SmallestValue(cfg *config.Config) int {
	const rest = 928
	return rest + len(cfg.Host) + labelsSize(cfg)
}

// labelsSize is how many bytes the labels take in an event.
func labelsSize(cfg *config.Config) int {
	if cfg.Labels == "" {
		return 0
	}
	return len(`"labels":,`) + len(cfg.Labels) // it is JSON
}

// InspectAccount returns what keeps JetStream delivery from working with an account and the
// server that leads JetStream for it. Missing is whether the stream has to be made.
func InspectAccount(cfg *config.Config, info *jetstream.AccountInfo, missing bool) (findings []Finding) {
	add := func(setting, advice, format string, args ...any) {
		findings = append(findings, Finding{Unusable, setting, fmt.Sprintf(format, args...), advice})
	}
	if info.API.Level < 1 {
		add("api_level", upgrade, "%s, and the one that leads JetStream here is older (API level %d)", needed, info.API.Level)
	}
	if !missing {
		return findings
	}
	tier := info.Tier
	if name := fmt.Sprint("R", cfg.Replicas); len(info.Tiers) > 0 {
		var ok bool
		if tier, ok = info.Tiers[name]; !ok {
			add("tiers", "set IFACE_REPLICAS to one of those, or give the account that tier",
				"the account has no tier %s for IFACE_REPLICAS=%d, but %s", name, cfg.Replicas,
				strings.Join(slices.Sorted(maps.Keys(info.Tiers)), ", "))
			return findings
		}
	}
	limits := &tier.Limits
	switch {
	case limits.MaxBytesRequired && cfg.MaxBytes == 0:
		add("max_bytes_required", "set IFACE_MAX_BYTES, for example to 256MiB",
			"the account demands a limit for each stream (max_bytes), and IFACE_MAX_BYTES sets none")
	case limits.StoreMaxStreamBytes > 0 && cfg.MaxBytes > limits.StoreMaxStreamBytes:
		add("storage_max_stream_bytes", fmt.Sprintf("set IFACE_MAX_BYTES to no more than %d", limits.StoreMaxStreamBytes),
			"the account allows a stream %d bytes, and IFACE_MAX_BYTES is %d", limits.StoreMaxStreamBytes, cfg.MaxBytes)
	case limits.MaxStreams > 0 && tier.Streams >= limits.MaxStreams:
		add("max_streams", "raise the account's limit, or name a stream that is there in IFACE_STREAM",
			"the account has %d streams, and may have no more (max_streams)", tier.Streams)
	case limits.MaxStore > 0 && int64(max(tier.Store, tier.ReservedStore))+cfg.MaxBytes > limits.MaxStore:
		add("max_storage", "raise the account's limit, or set a smaller IFACE_MAX_BYTES",
			"the account may store %d bytes (max_storage), of which %d are taken", limits.MaxStore,
			max(tier.Store, tier.ReservedStore))
	}
	return findings
}

// CheckPayload returns why no event can be published to a server that takes messages of up
// to so many bytes, 0: not known; nil when they can.
func CheckPayload(cfg *config.Config, limit int64) error {
	if smallest := SmallestMessage(cfg); limit > 0 && limit < int64(smallest) {
		return WithAdvice(fmt.Errorf("the server takes messages of up to %d bytes (max_payload), and the smallest event "+
			"of this host may have %d", limit, smallest), "raise max_payload on the server, to 64KB or more")
	}
	return nil
}
