package event

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// NewEpoch returns the name of an epoch, which no other has. Random numbers alone would not do:
// machines that go on from the same saved memory draw the same. What tells them apart is the
// connection that they have made since (natsio.ConnectionName), or, where who is the host, not
// much: its name and the time.
func NewEpoch(who string) string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	sum := sha256.Sum256(fmt.Appendf(random[:], "%d %s", time.Now().UnixNano(), who))
	return hex.EncodeToString(sum[:16])
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
