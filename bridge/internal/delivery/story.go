package delivery

import (
	"errors"
	"fmt"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// A toldStory is what a delivery has had stored of an epoch: what has to be in the stream
// when it looks there again. Its zero value is that of an epoch of which nothing is.
type toldStory struct {
	epoch     string
	seq       uint64    // of the last event that was confirmed, 0: none
	data      []byte    // that event
	streamSeq uint64    // its place in the stream; while there is none, that of what it begins behind
	created   time.Time // when the stream was made
	begun     bool      // what it begins behind is known
}

// A Located is this host's last message in the stream, when it was looked for.
type Located struct {
	StreamSeq uint64        // 0: there is none
	Event     *schema.Event // nil: there is none, or the message is no event of a bridge
	Time      time.Time     // when the server took it
	Created   time.Time     // when the stream was made
}

// A BrokenStoryError says that what was confirmed of an epoch is not in the stream any
// more, or that the story is not ours alone: the epoch cannot go on, and a new one has
// to begin, which tells the whole state again.
type BrokenStoryError struct {
	Reason event.EpochReason
	What   string // a sentence for the log
}

func (e *BrokenStoryError) Error() string { return e.What }

// A ReplacedError says that another bridge has taken this host's name: it has stored
// events behind ours.
type ReplacedError struct {
	Host          string    // the name
	Epoch, BootID string    // of the bridge that writes now
	Since         time.Time // when it wrote last
}

func (e *ReplacedError) Error() string {
	return fmt.Sprintf("another bridge writes as host %q: epoch %s on boot %s, since %s",
		e.Host, e.Epoch, e.BootID, e.Since.UTC().Format(time.RFC3339))
}

// IsJudgment reports whether an error is about the story, a [BrokenStoryError] or a
// [ReplacedError], and not about NATS: no further attempt helps.
func IsJudgment(err error) bool {
	var broken *BrokenStoryError
	var replaced *ReplacedError
	return errors.As(err, &broken) || errors.As(err, &replaced)
}

// judge decides by what was found stored how the story goes on: behind the first n events
// in flight, which are stored already; or not (BrokenStoryError), or that another bridge
// tells its own under this name (ReplacedError).
func (s *toldStory) judge(found *Located, inFlight []event.Outgoing) (stored int, err error) {
	broken := func(reason event.EpochReason, format string, args ...any) (int, error) {
		return 0, &BrokenStoryError{reason, fmt.Sprintf(format, args...)}
	}
	told := s.seq > 0
	e := found.Event
	switch {
	case told && !s.created.IsZero() && !found.Created.Equal(s.created):
		return broken(event.BrokerLost, "the stream was made anew at %s", found.Created.UTC().Format(time.RFC3339))
	case e != nil && e.Epoch == s.epoch:
		return s.judgeOwn(e, inFlight)
	case !told && (!s.begun || e == nil || found.StreamSeq <= s.streamSeq || !found.Created.Equal(s.created)):
		return 0, nil // what is there is of the past
	case found.StreamSeq == 0:
		return broken(event.BrokerLost,
			"the stream holds nothing of this host any more: it was purged, or all of it has expired")
	case e == nil:
		return broken(event.Damaged, "the last message of this host in the stream is no event of a bridge")
	case found.StreamSeq <= s.streamSeq:
		return broken(event.BrokerLost, "the last event of this host in the stream, of epoch %s, is older than what "+
			"was confirmed: the stream was restored, or events were deleted", e.Epoch)
	}
	return 0, &ReplacedError{Host: e.Host, Epoch: e.Epoch, BootID: e.BootID, Since: found.Time}
}

// note takes note of where it was found to be. Until something is told, that is what it begins
// behind: what another bridge stores there later may stand behind events in flight.
func (s *toldStory) note(found *Located) {
	s.created = found.Created
	if s.seq == 0 {
		s.streamSeq, s.begun = found.StreamSeq, true
	}
}

// judgeOwn is judge of an event of this epoch.
func (s *toldStory) judgeOwn(e *schema.Event, inFlight []event.Outgoing) (stored int, err error) {
	clone := &BrokenStoryError{event.Cloned, fmt.Sprintf("event %d of this epoch is in the stream, and this bridge did "+
		"not publish it: the machine was cloned, or put back to a snapshot", e.Seq)}
	switch {
	case e.Seq < s.seq:
		return 0, &BrokenStoryError{event.BrokerLost, fmt.Sprintf("the last event in the stream is %d of this epoch, and "+
			"%d was confirmed: the stream was restored, or events were deleted", e.Seq, s.seq)}
	case e.Seq == s.seq:
		if len(s.data) > 0 && !isEvent(e, s.data) { // of an earlier run it is not known
			return 0, clone
		}
		return 0, nil
	}
	for i := range inFlight {
		if inFlight[i].Seq == e.Seq && isEvent(e, inFlight[i].Data) {
			return i + 1, nil
		}
	}
	return 0, clone
}

// isEvent reports whether data is that of an event.
func isEvent(e *schema.Event, data []byte) bool {
	other := event.Decode(data)
	return other != nil && event.Same(e, other)
}

// confirm takes note of events that were stored, the last of them at this place.
func (s *toldStory) confirm(events []event.Outgoing, streamSeq uint64) {
	last := &events[len(events)-1]
	s.seq, s.data, s.streamSeq = last.Seq, append(s.data[:0], last.Data...), streamSeq
}
