package schema

import (
	"encoding/json"
	"fmt"
	"time"
)

// A Presence is what a bridge says of its host, and that it is there: the value under the
// host's token ([HostToken]) in the bucket of hosts. It is written again and again, and a
// host of which it has not been for TTL seconds is silent.
type Presence struct {
	Schema     string    `json:"schema"` // [Name]
	Host       string    `json:"host"`
	BootID     string    `json:"boot_id"`
	Labels     Labels    `json:"labels,omitempty"`
	Epoch      string    `json:"epoch"`
	Seq        uint64    `json:"seq"`     // of the last event that NATS has confirmed; 0: none yet
	Version    string    `json:"version"` // of the bridge
	Since      time.Time `json:"since"`   // when the bridge started
	Links      int       `json:"links"`   // that are published
	Namespaces int       `json:"namespaces"`
	Prefix     string    `json:"prefix"` // of the host's subjects
	TTL        int       `json:"ttl"`

	// BucketBehind is how many of the links the bucket of current state does not have as they
	// are, when that was known to last: who reads it asks the bridge.
	BucketBehind int `json:"bucket_behind,omitempty"`
}

// ParsePresence reads what stands under a host's token in the bucket of hosts. Keys that
// it does not know are ignored; another schema, such as that of a later version, is an
// error, and so is a value that is not the host's.
func ParsePresence(token string, value []byte) (*Presence, error) {
	p := new(Presence)
	if err := json.Unmarshal(value, p); err != nil {
		return nil, fmt.Errorf("presence: %w", err)
	}
	if p.Schema != Name {
		return nil, fmt.Errorf("presence: schema: not %s (got %q)", Name, p.Schema)
	}
	if t, err := HostToken(p.Host); err != nil || t != token {
		return nil, fmt.Errorf("presence: host: not that of %s (got %q)", token, p.Host)
	}
	return p, nil
}
