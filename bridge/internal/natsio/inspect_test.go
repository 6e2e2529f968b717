package natsio

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/bridge/config"
)

func parse(t *testing.T, environ ...string) *config.Config {
	t.Helper()
	cfg, err := config.Parse(append([]string{"IFACE_HOST=web01"}, environ...))
	if err != nil {
		t.Fatal(err)
	}
	return &cfg
}

// inspected is what is found when a stream, or a bucket's, is changed: the setting that is
// named, "" for none.
type inspected struct {
	setting string
	weight  Weight
	advice  string
	change  func(c *jetstream.StreamConfig, s *jetstream.StreamState)
}

// A stream as we make it has nothing to be said about; each setting that matters has its
// weight, and the command that mends it.
func TestInspectStream(t *testing.T) {
	for _, tt := range []inspected{
		{setting: ""},
		{"mirror", Unusable, "name another stream in IFACE_STREAM",
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) {
				c.Mirror, c.Subjects = &jetstream.StreamSource{Name: "X"}, nil
			}},
		{"sealed", Unusable, "name another", func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.Sealed = true }},
		{"no_ack", Unusable, "nats stream edit IFACE --ack -f",
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.NoAck = true }},
		{"retention", Unusable, "nats stream edit IFACE --retention=limits -f",
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.Retention = jetstream.InterestPolicy }},
		{"subjects", Unusable, "nats stream edit IFACE --subjects='iface.*.new' --subjects='iface.*.del' -f",
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.Subjects = []string{"iface.*.new"} }},
		{"max_msg_size", Unusable, "--max-msg-size=-1",
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.MaxMsgSize = 1000 }},
		{"max_msg_size", Differs, "--max-msg-size=-1",
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.MaxMsgSize = 2000 }},
		{"", 0, "", func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.MaxMsgSize = 1 << 20 }},
		{"max_bytes", Full, "--discard=old", func(c *jetstream.StreamConfig, s *jetstream.StreamState) {
			c.MaxBytes, c.Discard, s.Bytes = 1e6, jetstream.DiscardNew, 1e6-100
		}},
		{"discard", Differs, "--discard=old", func(c *jetstream.StreamConfig, s *jetstream.StreamState) {
			c.MaxBytes, c.Discard, s.Bytes = 1e6, jetstream.DiscardNew, 100
		}},
		{"", 0, "", func(c *jetstream.StreamConfig, s *jetstream.StreamState) { c.MaxBytes, s.Bytes = 1e6, 1e6 }},
		{"max_msgs_per_subject", Full, "--no-discard-per-subject", func(c *jetstream.StreamConfig, s *jetstream.StreamState) {
			c.MaxMsgsPerSubject, c.Discard, c.DiscardNewPerSubject = 7, jetstream.DiscardNew, true
			s.Subjects = map[string]uint64{"iface.web01.new": 7}
		}},
		{"allow_atomic", Differs, "nats stream edit IFACE --allow-batch -f",
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.AllowAtomicPublish = false }},
		{"max_age", Differs, "--max-age=24h",
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.MaxAge = time.Hour }},
		{"", 0, "", func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.DenyPurge, c.DenyDelete = true, true }},
	} {
		cfg := parse(t, "IFACE_MAX_AGE=24h")
		info := &jetstream.StreamInfo{Config: StreamConfig(cfg, "2.15.2")}
		if tt.change != nil {
			tt.change(&info.Config, &info.State)
		}
		findings := InspectStream(cfg, info)
		if tt.setting == "" {
			if len(findings) > 0 {
				t.Errorf("got %+v, want nothing", findings)
			}
			continue
		}
		if len(findings) == 0 {
			t.Errorf("%s: nothing is found", tt.setting)
			continue
		}
		f := findings[0]
		if f.Setting != tt.setting || f.Weight != tt.weight || !strings.Contains(f.Advice, tt.advice) ||
			!strings.Contains(f.Text, f.Setting) && f.Setting != "subjects" && f.Setting != "discard" {
			t.Errorf("got %+v, want %s of weight %d, advice %q", f, tt.setting, tt.weight, tt.advice)
		}
		if unusable := Refusal(findings) != nil; unusable != (tt.weight == Unusable) {
			t.Errorf("%s: refused is %v", tt.setting, unusable)
		}
	}
}

// The same of the bucket.
func TestInspectBucket(t *testing.T) {
	for _, tt := range []struct {
		setting string
		weight  Weight
		change  func(c *jetstream.StreamConfig, s *jetstream.StreamState)
	}{
		{"", 0, func(*jetstream.StreamConfig, *jetstream.StreamState) {}},
		{"allow_direct", Unusable, func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.AllowDirect = false }},
		{"subjects", Unusable, func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.Subjects = []string{"x"} }},
		{"max_age", Differs, func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.MaxAge = time.Minute }},
		{"max_msg_size", Unusable, func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.MaxMsgSize = 100 }},
		{"max_msg_size", Differs, func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.MaxMsgSize = 1200 }},
		{"max_bytes", Full, func(c *jetstream.StreamConfig, s *jetstream.StreamState) { c.MaxBytes, s.Bytes = 9000, 8000 }},
		{"max_msgs_per_subject", Differs,
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.MaxMsgsPerSubject = -1 }},
	} {
		cfg := parse(t)
		info := &jetstream.StreamInfo{Config: jetstream.StreamConfig{
			Name: "KV_iface_links", Subjects: []string{"$KV.iface_links.>"}, MaxMsgsPerSubject: 1, AllowDirect: true,
			AllowRollup: true, DenyDelete: true, Discard: jetstream.DiscardNew,
		}}
		tt.change(&info.Config, &info.State)
		findings := InspectBucket(cfg, info)
		if tt.setting == "" && len(findings) == 0 {
			continue
		}
		if len(findings) != 1 || findings[0].Setting != tt.setting || findings[0].Weight != tt.weight {
			t.Errorf("got %+v, want %s of weight %d", findings, tt.setting, tt.weight)
		}
	}
}

// And of the bucket of hosts, with commands that are about that.
func TestInspectHostsBucket(t *testing.T) {
	for _, tt := range []inspected{
		{"", 0, "", func(*jetstream.StreamConfig, *jetstream.StreamState) {}},
		{"metadata", Unusable, "IFACE_HOSTS_BUCKET",
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) {
				c.Metadata = map[string]string{prefixKey: "eu"}
			}},
		{"mirror", Unusable, "IFACE_HOSTS_BUCKET",
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) {
				c.Mirror, c.Subjects = &jetstream.StreamSource{Name: "X"}, nil
			}},
		{"max_bytes", Full, "nats kv edit iface_hosts --max-bucket-size=-1",
			func(c *jetstream.StreamConfig, s *jetstream.StreamState) { c.MaxBytes, s.Bytes = 9000, 8000 }},
		{"subject_delete_marker_ttl", Differs, "nats stream edit KV_iface_hosts --allow-msg-ttl",
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.SubjectDeleteMarkerTTL = 0 }},
		{"subject_delete_marker_ttl", Differs, "nats stream edit KV_iface_hosts --allow-msg-ttl",
			func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.AllowMsgTTL = false }},
	} {
		info := &jetstream.StreamInfo{Config: jetstream.StreamConfig{
			Name: "KV_iface_hosts", Subjects: []string{"$KV.iface_hosts.>"}, Discard: jetstream.DiscardNew,
			AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Hour, Metadata: map[string]string{prefixKey: "iface"},
		}}
		tt.change(&info.Config, &info.State)
		findings := InspectHostsBucket(parse(t), info)
		if tt.setting == "" && len(findings) == 0 {
			continue
		}
		if len(findings) != 1 || findings[0].Setting != tt.setting || findings[0].Weight != tt.weight ||
			!strings.Contains(findings[0].Advice, tt.advice) {
			t.Errorf("got %+v, want %s of weight %d, advice %q", findings, tt.setting, tt.weight, tt.advice)
		}
	}
}

// What an account may not do is known before it is tried.
func TestInspectAccount(t *testing.T) {
	info := func(change func(*jetstream.AccountInfo)) *jetstream.AccountInfo {
		i := &jetstream.AccountInfo{API: jetstream.APIStats{Level: 1}}
		change(i)
		return i
	}
	tiered := func(i *jetstream.AccountInfo) { i.Tiers = map[string]jetstream.Tier{"R3": {}} }
	for _, tt := range []struct {
		setting string
		missing bool
		env     string
		change  func(*jetstream.AccountInfo)
	}{
		{"", true, "IFACE_REPLICAS=1", func(*jetstream.AccountInfo) {}},
		{"api_level", false, "IFACE_REPLICAS=1", func(i *jetstream.AccountInfo) { i.API.Level = 0 }},
		{"max_bytes_required", true, "IFACE_REPLICAS=1", func(i *jetstream.AccountInfo) { i.Limits.MaxBytesRequired = true }},
		{"", false, "IFACE_REPLICAS=1", func(i *jetstream.AccountInfo) { i.Limits.MaxBytesRequired = true }},
		{"", true, "IFACE_MAX_BYTES=1MiB", func(i *jetstream.AccountInfo) { i.Limits.MaxBytesRequired = true }},
		{"storage_max_stream_bytes", true, "IFACE_MAX_BYTES=1MiB",
			func(i *jetstream.AccountInfo) { i.Limits.StoreMaxStreamBytes = 1000 }},
		{"max_streams", true, "IFACE_REPLICAS=1", func(i *jetstream.AccountInfo) { i.Streams, i.Limits.MaxStreams = 2, 2 }},
		{"max_storage", true, "IFACE_MAX_BYTES=1MiB", func(i *jetstream.AccountInfo) { i.Limits.MaxStore = 1000 }},
		{"tiers", true, "IFACE_REPLICAS=1", tiered},
		{"", true, "IFACE_REPLICAS=3", tiered},
	} {
		findings := InspectAccount(parse(t, tt.env), info(tt.change), tt.missing)
		if tt.setting == "" && len(findings) == 0 {
			continue
		}
		if len(findings) != 1 || findings[0].Setting != tt.setting || findings[0].Weight != Unusable ||
			findings[0].Advice == "" {
			t.Errorf("got %+v, want %s", findings, tt.setting)
		}
	}
}
