package event

import "ifacebridge/schema"

// An Identity is what every event of a run has in common.
type Identity struct {
	Host, BootID string
	Epoch        string // with which the run began
	OwnNetns     uint64 // the inode of the bridge's own network namespace; 0: not known
	Labels       schema.Labels
}
