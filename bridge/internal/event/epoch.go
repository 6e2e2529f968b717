package event

import (
	"crypto/rand"
	"encoding/hex"
	"time"
)

// NewEpoch returns the name of an epoch, which no other ever has.
func NewEpoch() string {
	var epoch [16]byte
	_, _ = rand.Read(epoch[:]) // never fails
	return hex.EncodeToString(epoch[:])
}

// A Mark is how far a run has come in telling its story, as the spool notes it on disk.
// Events on disk are under the epoch with which their run began; it may have had to begin
// another since.
type Mark struct {
	Run       string `json:"run,omitempty"` // the epoch with which the run began
	Epoch     string `json:"epoch"`
	Seq       uint64 `json:"seq"`                  // of the last event that was confirmed; 0: none
	StreamSeq uint64 `json:"stream_seq,omitempty"` // the last event's place in the stream; 0: not known

	// Created is when the stream was made: another one of the same name holds nothing of it.
	Created time.Time `json:"created,omitzero"`
}

// An EpochReason is why an epoch began, as the metric has it.
type EpochReason string

// Why an epoch begins.
const (
	Started    EpochReason = "start"        // of the bridge
	BrokerLost EpochReason = "broker_lost"  // the stream was restored, purged, or made anew
	Cloned     EpochReason = "cloned"       // the machine was cloned, or put back to a snapshot
	Damaged    EpochReason = "foreign_data" // the last message is no event
	TookOver   EpochReason = "took_over"    // from another bridge that has published meanwhile
	Renamed    EpochReason = "renamed"      // the host
)

// EpochReasons are all of them.
var EpochReasons = []EpochReason{Started, BrokerLost, Cloned, Damaged, TookOver, Renamed}
