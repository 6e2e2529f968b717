package schema

import "time"

// Links is a bridge's answer to a query ([QuerySubject]): the links of its host,
// as they were published, and the place in its events that this is true at. A
// large one comes in pages, which belong together: as long as Next is not empty,
// a request of {"next": …} returns the next page.
type Links struct {
	Schema string        `json:"schema"` // [Name]
	Host   string        `json:"host"`
	BootID string        `json:"boot_id"`
	Labels Labels        `json:"labels,omitempty"`
	Epoch  string        `json:"epoch"`
	Seq    uint64        `json:"seq"`
	Links  []LinkInNetns `json:"links"`
	Next   string        `json:"next,omitempty"`
}

// PublishedSnapshot is a bridge's answer to a request for its host's snapshot
// ([SnapshotSubject]), given when that is published: it is the events from First to Seq, all of
// which were published after the request had come.
// First is one more than Seq for a host of which no link is published.
type PublishedSnapshot struct {
	Schema string `json:"schema"` // [Name]
	Host   string `json:"host"`
	Epoch  string `json:"epoch"`
	First  uint64 `json:"first"`
	Seq    uint64 `json:"seq"`
}

// LinkInNetns is a link and the network namespace that it is in, "" for the
// bridge's own.
type LinkInNetns struct {
	Netns string `json:"netns,omitempty"`
	Link  Link   `json:"link"`
}

// Key is the link's key.
func (l *LinkInNetns) Key() LinkKey { return LinkKey{l.Netns, l.Link.Index} }

// Owner is a bridge's answer to who publishes as its host ([OwnerSubject]). Only the one
// that does answers.
type Owner struct {
	Schema     string    `json:"schema"` // [Name]
	Host       string    `json:"host"`
	BootID     string    `json:"boot_id"`
	Epoch      string    `json:"epoch"`
	Started    time.Time `json:"started"` // when the bridge was
	NetnsInode uint64    `json:"netns_inode,omitempty"`
}
