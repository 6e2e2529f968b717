// Package spool keeps on disk the events that NATS has not confirmed. A [Spool] is filled
// from the queue, and is the publisher's backlog; file.go is how events stand on disk, and
// leftover.go what the publisher finds there that an earlier run has not published.
package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/loop"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/schema"
)

// A Spool keeps the events that NATS has not confirmed on disk, so that they
// survive a crash of the bridge. The queue runs into it (Fill), and the publisher
// finds there what it has to publish: first what earlier runs left, each in its
// own epoch, then this run's.
//
// An event gets its seq when it leaves for NATS, not when it is put here. After a
// crash the last event in the stream tells how far that epoch came: it is looked
// for by its content. So what is on disk can be behind the truth, as when a full
// disk does not take the note of what was confirmed, and nothing is stored twice.
//
// It is a bbolt file: what is committed is on disk, and a write that a crash tore
// is as if it had not been. Each event has a checksum besides. What cannot be
// read is moved aside, and that is logged.
//
// One goroutine fills it and another, the publisher, calls the rest, but for what metrics
// ask: Waiting and Saved are for any.
type Spool struct {
	path    string
	id      event.Identity
	limit   config.QueueLimit // on disk; more wait in the queue
	writer  event.Writer      // of Fill
	scratch []byte            // of Fill
	log     *slog.Logger

	begun  chan struct{} // closed when first is set, or there is no snapshot
	queue  *queue.Queue  // what Fill takes from; set before
	first  event.Opening // of this run
	noOpen error

	more chan struct{} // holds a token when something was added
	room chan struct{} // holds a token when something was confirmed

	mu         sync.Mutex
	db         *bbolt.DB  // nil: cannot be written at the moment
	low, high  uint64     // keys of the events on disk: [low, high)
	bytes      int        // that they take there, and those that were dropped since the last update
	unsaved    [][]byte   // events, encoded as on disk
	current    string     // the run of which Next returns events
	taken      int        // events that Next returned, not confirmed
	done       event.Mark // how far NATS has come
	isClosed   bool
	saveErr    string // as last logged
	saveErrors uint64
}

// saveRetry is how long to wait before a disk that did not take events is tried
// again.
const saveRetry = time.Second

// Open opens the spool of a host in cfg.SpoolDir, which it makes when it is
// missing. A file that is no spool, or is damaged, is moved aside; a disk that is
// full is tried again later. It fails when the directory cannot be used
// ([config.Error]) or another bridge uses it.
func Open(cfg config.Config, id event.Identity, log *slog.Logger) (*Spool, error) {
	s := &Spool{
		path: Path(cfg), id: id, current: id.Epoch,
		limit: onDisk(cfg.Queue), writer: event.Writer{ID: id}, log: log,
		begun: make(chan struct{}), more: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	if err := os.MkdirAll(cfg.SpoolDir, 0o700); err != nil {
		return nil, unusable(err)
	}
	err := s.open()
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("spool %s: another bridge uses it; "+
			"give each its own IFACE_SPOOL_DIR, or each host a name of its own (IFACE_HOST)", s.path)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		return nil, unusable(err)
	case err != nil:
		s.note(err)
	case s.low < s.high:
		log.Info("found events that an earlier run had not published", "events", s.high-s.low, "spool", s.path)
	}
	return s, nil
}

// Path is the file of a host's spool.
func Path(cfg config.Config) string { return filepath.Join(cfg.SpoolDir, cfg.Token+".spool") }

// onDisk is how much of what may wait may do so on disk.
func onDisk(l config.QueueLimit) config.QueueLimit {
	l.Bytes = min(l.Bytes, math.MaxInt/config.SpoolFactor) * config.SpoolFactor
	return l
}

// unusable is the error of a directory that cannot be used.
func unusable(err error) error {
	return config.Error{
		fmt.Sprintf("IFACE_SPOOL_DIR: cannot be used: %v; accepted: a directory that can be written", err),
	}
}

// Fill moves changes from the queue to the disk until the queue is closed and
// empty, or ctx ends. When the disk does not take them, up to a batch of them waits in
// memory, where the publisher finds them too, and the others in the queue.
func (s *Spool) Fill(ctx context.Context, q *queue.Queue) {
	s.queue = q
	s.first, s.noOpen = s.openingOf(ctx)
	close(s.begun)
	changes := make([]event.Delta, queue.MaxTake)
	for {
		closed, room := q.IsClosed(), s.free() // before take: nothing comes after it
		n, wait := s.takeFrom(q, changes, room)
		if n > 0 {
			s.save()
			loop.Signal(s.more)
			continue
		}
		if room <= 0 { // so the queue was not asked
			if s.save(); s.free() > 0 {
				continue
			}
			wait = saveRetry
		} else if closed {
			break
		}
		select {
		case <-q.Ready():
		case <-s.room:
		case <-loop.After(wait):
		case <-ctx.Done():
			return
		}
	}
	s.mu.Lock()
	s.isClosed = true
	s.mu.Unlock()
	loop.Signal(s.more)
}

// openingOf waits for what the queue begins with.
func (s *Spool) openingOf(ctx context.Context) (event.Opening, error) {
	links, at, err := s.queue.FirstSnapshot(ctx)
	return event.Opening{BootID: s.id.BootID, OwnNetns: s.id.OwnNetns, Labels: s.id.Labels, Links: links, At: at}, err
}

// BeginAnew drops what waits of this run, and has push begin the queue anew. It comes after
// Opening, and after what earlier runs left.
func (s *Spool) BeginAnew(push func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := push(); err != nil {
		return err
	}
	s.low, s.unsaved, s.taken = s.high, s.unsaved[:0], 0
	if s.db != nil {
		s.note(s.update(nil))
	}
	loop.Signal(s.room)
	var err error
	s.first, err = s.openingOf(context.Background()) // which is there
	return err
}

// free returns how many more events the spool takes: none while some are not saved.
func (s *Spool) free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unsaved) > 0 {
		return 0
	}
	return s.freeOnDisk()
}

// freeOnDisk returns how many more events the disk is to take.
func (s *Spool) freeOnDisk() int {
	if s.bytes >= s.limit.Bytes {
		return 0
	}
	return s.limit.Events - int(s.high-s.low)
}

// takeFrom takes changes out of the queue into memory, as many as there is room for and
// are worth one write. It returns how many, and else how long to wait for the next.
func (s *Spool) takeFrom(q *queue.Queue, changes []event.Delta, room int) (n int, wait time.Duration) {
	bytes := 0
	for room = min(room, event.MaxBatch); n < room && bytes < event.MaxBatchBytes; {
		m, size, wait := s.take(q, changes[:min(queue.MaxTake, room-n)])
		bytes += size
		if n += m; m < queue.MaxTake {
			return n, wait
		}
	}
	return n, 0
}

// take moves changes from the queue into memory, as events encoded as on disk. It returns how
// many, how many bytes those are, and how long to wait for the next. Nothing is on its way between
// the two when BeginAnew drops what is in both.
func (s *Spool) take(q *queue.Queue, changes []event.Delta) (n, bytes int, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, wait = q.Take(changes, time.Now())
	for i := range changes[:n] {
		s.scratch, _ = s.writer.Append(append(s.scratch[:0], make([]byte, sumSize)...), &changes[i], s.id.Epoch, 0)
		s.unsaved = append(s.unsaved, withSum(slices.Clone(s.scratch)))
		bytes += len(s.scratch)
	}
	return n, bytes, wait
}

// save puts what is in memory on disk, and notes there how far NATS has come. After a
// write that failed it is tried without anything, too: what that was to remove may be all
// that there is no room for.
func (s *Spool) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unsaved) == 0 && s.saveErr == "" {
		return
	}
	err := s.reopen()
	if err == nil {
		err = s.update(s.unsaved)
	}
	if err == nil {
		s.high += uint64(len(s.unsaved))
		s.unsaved = s.unsaved[:0]
	}
	s.note(err)
}

// reopen opens the file when that has failed before.
func (s *Spool) reopen() error {
	if s.db != nil {
		return nil
	}
	done := s.done
	if err := s.open(); err != nil {
		return err
	}
	if n := s.high - s.low; n > 0 {
		s.log.Error("dropped the events that an earlier run had not published: the spool could not be opened at the "+
			"start, and they come too late now; the snapshot shows what is there", "events", n, "spool", s.path)
	}
	s.low, s.done = s.high, done
	return nil
}

// note counts and logs that the disk does not take events, each cause once, and logs
// when it does again.
func (s *Spool) note(err error) {
	text := ""
	if err != nil {
		text = err.Error()
		s.saveErrors++
	}
	switch {
	case text == s.saveErr:
	case err != nil:
		s.log.Error("cannot spool events; until it works again a crash of the bridge loses those that NATS has not "+
			"confirmed", "cause", err, "spool", s.path)
	default:
		s.log.Info("spooling again", "spool", s.path)
	}
	s.saveErr = text
}

// Opening waits for the snapshot of this run and returns its links, or
// [queue.ErrNoSnapshot] when there will be none.
func (s *Spool) Opening(ctx context.Context) (event.Opening, error) {
	select {
	case <-s.begun:
		return s.first, s.noOpen
	case <-ctx.Done():
		return event.Opening{}, ctx.Err()
	}
}

// Next adds the oldest events to the encoder, all of one run. They stay until they are
// confirmed. It never asks to wait, but until Ready. Its error is a file that was damaged
// while in use: the next start moves it aside, and makes the published state right.
func (s *Spool) Next(to *event.Encoder, _ time.Time) (wait time.Duration, err error) {
	n := 0
	err = s.read(func(e *schema.Event) bool {
		if to.Room() == 0 || e.Epoch != s.current {
			return false
		}
		to.AddEvent(e)
		n++
		return true
	})
	s.mu.Lock()
	s.taken = n
	s.mu.Unlock()
	return 0, err
}

// Confirm removes what Next added: the run has come so far.
func (s *Spool) Confirm(told event.Mark) {
	told.Run = s.current
	s.drop(s.taken, told)
}

// Settle notes on disk what was confirmed.
func (s *Spool) Settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		s.note(s.update(nil))
	}
}

// GiveBack removes what Next added before these events: the run has come so far.
func (s *Spool) GiveBack(events []event.Outgoing, told event.Mark) {
	told.Run = s.current
	s.drop(s.taken-len(events), told)
}

// Abandon drops what waits of this run. What earlier runs left stands before that.
func (s *Spool) Abandon() {
	earlier := 0
	err := s.read(func(e *schema.Event) bool {
		if e.Epoch != s.id.Epoch {
			earlier++
		}
		return e.Epoch != s.id.Epoch
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.high, s.unsaved = min(s.high, s.low+uint64(earlier)), nil
	if err == nil && s.db != nil {
		err = s.update(nil)
	}
	s.note(err)
}

// drop removes n events from the front: their run has come to m. A disk that does
// not take the note gets it with the next events.
func (s *Spool) drop(n int, m event.Mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken, s.done = 0, m
	onDisk := min(n, int(s.high-s.low))
	s.low += uint64(onDisk)
	s.unsaved = append(s.unsaved[:0], s.unsaved[n-onDisk:]...)
	// With more to come, the note can wait for it.
	if s.db != nil && (s.low == s.high || s.freeOnDisk() <= 0) {
		s.note(s.update(nil))
	}
	loop.Signal(s.room)
}

// Closed reports whether nothing will be added any more.
func (s *Spool) Closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isClosed
}

// Ready returns a channel that holds a token when something was added, or nothing will be
// any more.
func (s *Spool) Ready() <-chan struct{} { return s.more }

// Waiting returns how many events are here that Next has not added.
func (s *Spool) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.high-s.low) + len(s.unsaved) - s.taken
}

// Saved reports whether everything is on disk, and how many events that is.
func (s *Spool) Saved() (events int, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.high - s.low), s.isClosed && len(s.unsaved) == 0
}

// failures returns how often the disk did not take events.
func (s *Spool) failures() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saveErrors
}

// Close closes the file. Nothing may be under way.
func (s *Spool) Close() {
	if s.db != nil {
		_ = s.update(nil) // what was confirmed; the next run would find it out by itself
		_ = s.db.Close()
	}
}

// Register registers what the spool counts.
func (s *Spool) Register(to metrics.Registry) {
	to.GaugeFunc("spool_events", "Events on disk that NATS has not confirmed.",
		func() float64 { n, _ := s.Saved(); return float64(n) })
	to.CounterFunc("spool_failures_total", "Times that the disk did not take events.",
		func() float64 { return float64(s.failures()) })
}
