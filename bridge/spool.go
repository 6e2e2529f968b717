package bridge

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
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

// A spool keeps the events that NATS has not confirmed on disk, so that they
// survive a crash of the bridge. The queue runs into it (fill), and the publisher
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
type spool struct {
	path    string
	id      event.Identity
	limit   int          // events on disk; more wait in the queue
	writer  event.Writer // of fill
	scratch []byte       // of fill
	log     *slog.Logger

	begun  chan struct{} // closed when first is set, or there is no snapshot
	first  event.Opening // of this run
	noOpen error

	more chan struct{} // holds a token when something was added
	room chan struct{} // holds a token when something was confirmed

	mu         sync.Mutex
	db         *bbolt.DB  // nil: cannot be written at the moment
	low, high  uint64     // keys of the events on disk: [low, high)
	unsaved    [][]byte   // events, encoded as on disk
	current    string     // the run of which next returns events
	taken      int        // events that next returned, not confirmed
	done       event.Mark // how far NATS has come
	isClosed   bool
	saveErr    string // as last logged
	saveErrors uint64
}

// The file has one bucket of events, under keys that count up, and one that holds
// the mark under the key "confirmed".
var (
	spoolEvents = []byte("events/" + schema.Name)
	spoolMeta   = []byte("meta")
	spoolMark   = []byte("confirmed")
)

// saveRetry is how long to wait before a disk that did not take events is tried
// again.
const saveRetry = time.Second

// openSpool opens the spool of a host in cfg.SpoolDir, which it makes when it is
// missing. A file that is no spool, or is damaged, is moved aside; a disk that is
// full is tried again later. It fails when the directory cannot be used
// ([config.Error]) or another bridge uses it.
func openSpool(cfg config.Config, id event.Identity, log *slog.Logger) (*spool, error) {
	s := &spool{
		path: filepath.Join(cfg.SpoolDir, cfg.Token+".spool"), id: id, current: id.Epoch, limit: cfg.Queue, writer: event.Writer{ID: id}, log: log,
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

func unusable(err error) error {
	return config.Error{
		fmt.Sprintf("IFACE_SPOOL_DIR: cannot be used: %v; accepted: a directory that can be written", err),
	}
}

// open opens the file, or makes a new one. What is damaged is moved aside.
func (s *spool) open() error {
	err := s.load()
	var pathErr *fs.PathError // the system's errors are not the file's
	if err == nil || errors.Is(err, bolterrors.ErrTimeout) || errors.As(err, &pathErr) {
		return err
	}
	aside := fmt.Sprintf("%s.damaged-%d", s.path, time.Now().UnixNano())
	if renameErr := os.Rename(s.path, aside); renameErr != nil {
		return errors.Join(err, renameErr)
	}
	s.log.Error("the spool is damaged or no spool; events in it that were not published are lost, "+
		"the snapshot shows what is there", "cause", err, "moved_to", aside)
	return s.load()
}

// load opens the file and checks all of it.
func (s *spool) load() error {
	return guard(func() error {
		db, err := bbolt.Open(s.path, 0o600, &bbolt.Options{Timeout: time.Second})
		if err != nil {
			return err
		}
		if err := s.check(db); err != nil {
			_ = db.Close()
			return err
		}
		s.db = db
		return nil
	})
}

// check reads the whole file, and makes the buckets of a new one.
func (s *spool) check(db *bbolt.DB) error {
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	s.low, s.high, s.done = 0, 0, event.Mark{}
	isNew := false
	err = db.View(func(tx *bbolt.Tx) error {
		if info.Size() < tx.Size() {
			return fmt.Errorf("file is cut off: %d of %d bytes", info.Size(), tx.Size())
		}
		for err := range tx.Check() {
			return err
		}
		name, _ := tx.Cursor().First()
		if isNew = name == nil; isNew {
			return nil
		}
		events, meta := tx.Bucket(spoolEvents), tx.Bucket(spoolMeta)
		if events == nil || meta == nil {
			return fmt.Errorf("a database of something else (it has a bucket %q)", name)
		}
		if data := meta.Get(spoolMark); data != nil {
			if err := json.Unmarshal(data, &s.done); err != nil {
				return err
			}
		}
		return s.count(events)
	})
	if err != nil || !isNew {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(spoolEvents)
		if err == nil {
			_, err = tx.CreateBucket(spoolMeta)
		}
		return err
	})
}

// count reads all events, and sets low and high.
func (s *spool) count(events *bbolt.Bucket) error {
	return events.ForEach(func(key, value []byte) error {
		k := binary.BigEndian.Uint64(key)
		if s.high == 0 {
			s.low = k
		} else if k != s.high {
			return fmt.Errorf("event %d stands behind event %d", k, s.high-1)
		}
		s.high = k + 1
		_, err := decodeSpooled(value)
		return err
	})
}

// guard runs f, and makes an error of what bbolt does with a damaged file: it
// panics, or the memory that it maps is not there.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	return f()
}

// fill moves changes from the queue to the disk until the queue is closed and
// empty, or ctx ends. When the disk does not take them, up to maxBatch wait in
// memory, where the publisher finds them too, and the others in the queue.
func (s *spool) fill(ctx context.Context, q *queue.Queue) {
	links, at, err := q.FirstSnapshot(ctx)
	s.first, s.noOpen = event.Opening{BootID: s.id.BootID, OwnNetns: s.id.OwnNetns, Links: links, At: at}, err
	close(s.begun)
	changes := make([]event.Delta, queue.MaxTake)
	for {
		closed := q.IsClosed() // before take: nothing comes after it
		n, wait := s.takeFrom(q, changes)
		if n > 0 {
			s.save()
			loop.Signal(s.more)
			continue
		}
		if s.save(); s.free() <= 0 {
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

// free returns how many more events the spool takes: none while some are not saved.
func (s *spool) free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unsaved) > 0 {
		return 0
	}
	return s.limit - int(s.high-s.low)
}

// takeFrom takes changes out of the queue into memory, as many as there is room for and
// are worth one write. It returns how many, and else how long to wait for the next.
func (s *spool) takeFrom(q *queue.Queue, changes []event.Delta) (n int, wait time.Duration) {
	for room := min(s.free(), event.MaxBatch); n < room; {
		m, wait := q.Take(changes[:min(queue.MaxTake, room-n)], time.Now())
		s.add(changes[:m])
		if n += m; m < queue.MaxTake {
			return n, wait
		}
	}
	return n, 0
}

func (s *spool) add(changes []event.Delta) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range changes {
		s.scratch, _ = s.writer.Append(append(s.scratch[:0], make([]byte, sumSize)...), &changes[i], s.id.Epoch, 0)
		s.unsaved = append(s.unsaved, withSum(bytes.Clone(s.scratch)))
	}
}

// save puts what is in memory on disk, and notes there how far NATS has come.
func (s *spool) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unsaved) == 0 {
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
func (s *spool) reopen() error {
	if s.db != nil {
		return nil
	}
	done := s.done
	err := s.open()
	s.low, s.done = s.high, done // what an earlier run left comes too late now
	return err
}

// note counts and logs that the disk does not take events, each cause once, and logs
// when it does again.
func (s *spool) note(err error) {
	text := ""
	if err != nil {
		text = err.Error()
		s.saveErrors++
	}
	switch {
	case text == s.saveErr:
	case err != nil:
		s.log.Error("cannot spool events; until it works again a crash of the bridge loses those that NATS has not confirmed",
			"cause", err, "spool", s.path)
	default:
		s.log.Info("spooling again", "spool", s.path)
	}
	s.saveErr = text
}

// update makes the file hold the events of [low, high) and more, and the mark.
func (s *spool) update(more [][]byte) error {
	return guard(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			events := tx.Bucket(spoolEvents)
			events.FillPercent = 1 // keys only count up
			cursor := events.Cursor()
			for key, _ := cursor.First(); key != nil && binary.BigEndian.Uint64(key) < s.low; key, _ = cursor.First() {
				if err := cursor.Delete(); err != nil {
					return err
				}
			}
			for i := range more {
				if err := events.Put(spoolKey(s.high+uint64(i)), more[i]); err != nil {
					return err
				}
			}
			data, err := json.Marshal(s.done)
			if err != nil {
				return err
			}
			return tx.Bucket(spoolMeta).Put(spoolMark, data)
		})
	})
}

func spoolKey(k uint64) []byte { return binary.BigEndian.AppendUint64(nil, k) }

// sumSize is the size of the checksum in front of an event's JSON.
const sumSize = 4

// withSum fills in the checksum.
func withSum(value []byte) []byte {
	binary.BigEndian.PutUint32(value, crc32.ChecksumIEEE(value[sumSize:]))
	return value
}

func decodeSpooled(value []byte) (e schema.Event, err error) {
	if len(value) < sumSize || binary.BigEndian.Uint32(value) != crc32.ChecksumIEEE(value[sumSize:]) {
		return e, errors.New("an event's checksum is wrong")
	}
	err = json.Unmarshal(value[sumSize:], &e)
	return e, err
}

// read calls each with the events from the front, until it returns false. An error
// is a file that was damaged while in use: the next start moves it aside, and makes
// the published state right.
func (s *spool) read(each func(*schema.Event) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	going := true
	if s.db != nil && s.low < s.high {
		err := guard(func() error {
			return s.db.View(func(tx *bbolt.Tx) error {
				cursor := tx.Bucket(spoolEvents).Cursor()
				for key, value := cursor.Seek(spoolKey(s.low)); key != nil && going; key, value = cursor.Next() {
					e, err := decodeSpooled(value)
					if err != nil {
						return err
					}
					going = each(&e)
				}
				return nil
			})
		})
		if err != nil {
			return fmt.Errorf("spool %s: %w", s.path, err)
		}
	}
	for i := 0; i < len(s.unsaved) && going; i++ {
		e, err := decodeSpooled(s.unsaved[i])
		if err != nil {
			return fmt.Errorf("spool %s: %w", s.path, err)
		}
		going = each(&e)
	}
	return nil
}

// leftover returns how far the oldest run came that left something here, or no run
// when there is none.
func (s *spool) leftover() (m event.Mark, err error) {
	err = s.read(func(e *schema.Event) bool {
		if e.Epoch != s.id.Epoch {
			m.Run, m.Epoch = e.Epoch, e.Epoch
		}
		return false
	})
	if done := s.done; m.Run != "" && cmp.Or(done.Run, done.Epoch) == m.Run {
		m.Epoch, m.Seq, m.StreamSeq = done.Epoch, done.Seq, done.StreamSeq
	}
	s.current = cmp.Or(m.Run, s.id.Epoch)
	return m, err
}

// resume notes, on disk, that events of a run follow from there.
func (s *spool) resume(from event.Mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.taken, s.done = from.Run, 0, from
	if s.db != nil {
		s.note(s.update(nil))
	}
}

// leftoverOpening returns the snapshot that the oldest epoch begins with here. It
// is not whole when a part of it was published, or it was not all on disk.
func (s *spool) leftoverOpening() (o event.Opening, whole bool, err error) {
	o.Links = event.OpeningLinks{}
	var last schema.Snapshot
	err = s.read(func(e *schema.Event) bool {
		now := e.Snapshot
		follows := now.Pos == last.Pos+1 && now.Of == last.Of
		begins := now.Pos == 1 && last.Pos == last.Of && (last.Of == 0 || now.More+1 == last.More)
		if !follows && !begins {
			return false
		}
		o.Links[e.Key()], o.BootID, o.OwnNetns, o.At = event.OpeningLink{NetnsInode: e.NetnsInode, Link: &e.Link}, e.BootID, e.OwnNetnsInode, e.Time
		last, whole = now, now.Pos == now.Of && now.More == 0
		return !whole
	})
	return o, whole, err
}

// dropThrough removes the events of an epoch up to the last one that is stored,
// if that is here.
func (s *spool) dropThrough(last *schema.Event) error {
	n, found := 0, false
	err := s.read(func(e *schema.Event) bool {
		n++
		found = e.Epoch == s.current && event.SameContent(e, last)
		return !found && e.Epoch == s.current
	})
	if found {
		s.drop(n, s.done)
	}
	return err
}

// discard removes all events of a run, which is the oldest here, and returns how many.
func (s *spool) discard(run string) (n int, err error) {
	err = s.read(func(e *schema.Event) bool {
		if e.Epoch == run {
			n++
		}
		return e.Epoch == run
	})
	s.drop(n, event.Mark{})
	return n, err
}

// Opening waits for the snapshot of this run.
func (s *spool) Opening(ctx context.Context) (event.Opening, error) {
	select {
	case <-s.begun:
		return s.first, s.noOpen
	case <-ctx.Done():
		return event.Opening{}, ctx.Err()
	}
}

// Next adds the oldest events to the encoder, all of one run.
func (s *spool) Next(to *event.Encoder, _ time.Time) (wait time.Duration, err error) {
	n := 0
	err = s.read(func(e *schema.Event) bool {
		if n == event.MaxBatch || e.Epoch != s.current {
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

func (s *spool) Confirm(told event.Mark) {
	told.Run = s.current
	s.drop(s.taken, told)
}

// GiveBack does nothing: what is not confirmed is here.
func (s *spool) GiveBack([]event.Outgoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = 0
}

// drop removes n events from the front: their run has come to m. A disk that does
// not take the note gets it with the next events.
func (s *spool) drop(n int, m event.Mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken, s.done = 0, m
	onDisk := min(n, int(s.high-s.low))
	s.low += uint64(onDisk)
	s.unsaved = append(s.unsaved[:0], s.unsaved[n-onDisk:]...)
	if s.db != nil && s.low == s.high { // with more to come, the note can wait for it
		s.note(s.update(nil))
	}
	loop.Signal(s.room)
}

func (s *spool) Closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isClosed
}

func (s *spool) Ready() <-chan struct{} { return s.more }

func (s *spool) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.high-s.low) + len(s.unsaved) - s.taken
}

// saved reports whether everything is on disk, and how many events that is.
func (s *spool) saved() (events int, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.high - s.low), s.isClosed && len(s.unsaved) == 0
}

// failures returns how often the disk did not take events.
func (s *spool) failures() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saveErrors
}

// register registers what the spool counts.
func (s *spool) register(to metrics.Registry) {
	to.GaugeFunc("spool_events", "Events on disk that NATS has not confirmed.",
		func() float64 { n, _ := s.saved(); return float64(n) })
	to.CounterFunc("spool_failures_total", "Times that the disk did not take events.",
		func() float64 { return float64(s.failures()) })
}

// close closes the file. Nothing may be under way.
func (s *spool) close() {
	if s.db != nil {
		_ = s.update(nil) // what was confirmed; the next run would find it out by itself
		_ = s.db.Close()
	}
}

var _ backlog = (*spool)(nil)
