package spool

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/schema"
)

// The file has one bucket of events, under keys that count up, and one that holds
// the mark under the key "confirmed".
var (
	eventsBucket = []byte("events/" + schema.Name)
	metaBucket   = []byte("meta")
	markKey      = []byte("confirmed")
)

// open opens the file, or makes a new one. What is damaged is moved aside.
func (s *Spool) open() error {
	err := s.load()
	var systems syscall.Errno // which is no fault of the file
	if err == nil || errors.Is(err, bolterrors.ErrTimeout) || errors.As(err, &systems) {
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
func (s *Spool) load() error {
	return guard(func() error {
		db, err := bbolt.Open(s.path, 0o600, &bbolt.Options{Timeout: time.Second})
		if err != nil {
			return err
		}
		defer func() { // also of a panic
			if s.db == nil {
				_ = db.Close()
			}
		}()
		if err := s.check(db); err != nil {
			return err
		}
		s.db = db
		return nil
	})
}

// check reads the whole file, and makes the buckets of a new one.
func (s *Spool) check(db *bbolt.DB) error {
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	s.low, s.high, s.bytes, s.done = 0, 0, 0, event.Mark{}
	isNew := false
	err = db.View(func(tx *bbolt.Tx) error {
		if info.Size() < tx.Size() {
			return fmt.Errorf("file is cut off: %d of %d bytes", info.Size(), tx.Size())
		}
		buckets := 0
		err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			buckets++
			return s.checkBucket(name, b)
		})
		if err != nil {
			return err
		}
		if isNew = buckets == 0; !isNew && (tx.Bucket(eventsBucket) == nil || tx.Bucket(metaBucket) == nil) {
			return errors.New("a bucket is missing")
		}
		// This reads with a goroutine of its own, which guard does not reach, but no page that was
		// not read above. And it goes on after an error, so that it has to have ended before db is
		// closed.
		for found := range tx.Check() {
			err = cmp.Or(err, found)
		}
		return err
	})
	if err != nil || !isNew {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(eventsBucket)
		if err == nil {
			_, err = tx.CreateBucket(metaBucket)
		}
		return err
	})
}

// checkBucket reads all of a bucket.
func (s *Spool) checkBucket(name []byte, b *bbolt.Bucket) error {
	switch {
	case bytes.Equal(name, eventsBucket):
		return s.count(b)
	case bytes.Equal(name, metaBucket):
		if data := b.Get(markKey); data != nil {
			if err := json.Unmarshal(data, &s.done); err != nil {
				return err
			}
		}
		return b.ForEach(func(_, _ []byte) error { return nil })
	}
	return fmt.Errorf("a database of something else (it has a bucket %q)", name)
}

// count reads all events, and sets low and high.
func (s *Spool) count(events *bbolt.Bucket) error {
	return events.ForEach(func(key, value []byte) error {
		k := binary.BigEndian.Uint64(key)
		if s.high == 0 {
			s.low = k
		} else if k != s.high {
			return fmt.Errorf("event %d stands behind event %d", k, s.high-1)
		}
		s.high = k + 1
		s.bytes += len(value)
		_, err := decode(value)
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

// update makes the file hold the events of [low, high) and more, and the mark.
func (s *Spool) update(more [][]byte) error {
	size := 0
	err := guard(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			size = s.bytes
			events := tx.Bucket(eventsBucket)
			events.FillPercent = 1 // keys only count up
			cursor := events.Cursor()
			behind := func() (key, value []byte) { return cursor.Seek(eventKey(s.high)) }
			for _, next := range []func() (key, value []byte){cursor.First, behind} {
				for key, value := next(); key != nil && !s.holds(key); key, value = next() {
					size -= len(value)
					if err := cursor.Delete(); err != nil {
						return err
					}
				}
			}
			for i := range more {
				size += len(more[i])
				if err := events.Put(eventKey(s.high+uint64(i)), more[i]); err != nil {
					return err
				}
			}
			data, err := json.Marshal(s.done)
			if err != nil {
				return err
			}
			return tx.Bucket(metaBucket).Put(markKey, data)
		})
	})
	if err == nil {
		s.bytes = size
	}
	return err
}

// holds reports whether a key is one of [low, high).
func (s *Spool) holds(key []byte) bool {
	k := binary.BigEndian.Uint64(key)
	return s.low <= k && k < s.high
}

// eventKey is the key of an event in its bucket.
func eventKey(k uint64) []byte { return binary.BigEndian.AppendUint64(nil, k) }

// sumSize is the size of the checksum in front of an event's JSON.
const sumSize = 4

// withSum fills in the checksum.
func withSum(value []byte) []byte {
	binary.BigEndian.PutUint32(value, crc32.ChecksumIEEE(value[sumSize:]))
	return value
}

// decode returns an event of the file; an error when it was damaged.
func decode(value []byte) (e schema.Event, err error) {
	if len(value) < sumSize || binary.BigEndian.Uint32(value) != crc32.ChecksumIEEE(value[sumSize:]) {
		return e, errors.New("an event's checksum is wrong")
	}
	err = json.Unmarshal(value[sumSize:], &e)
	return e, err
}

// read calls each with the events from the front, until it returns false: those on disk, and,
// while the disk does not take them, those in memory. Before that is known they are not to be
// sent: after a crash, a stored event that is in no spool is taken for that of a clone. An error
// is a file that was damaged while in use: the next start moves it aside, and makes the published
// state right.
func (s *Spool) read(each func(*schema.Event) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	going := true
	if s.db != nil && s.low < s.high {
		err := guard(func() error {
			return s.db.View(func(tx *bbolt.Tx) error {
				cursor := tx.Bucket(eventsBucket).Cursor()
				for key, value := cursor.Seek(eventKey(s.low)); key != nil && going; key, value = cursor.Next() {
					e, err := decode(value)
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
	for i := 0; i < len(s.unsaved) && going && s.saveErr != ""; i++ {
		e, err := decode(s.unsaved[i])
		if err != nil {
			return fmt.Errorf("spool %s: %w", s.path, err)
		}
		going = each(&e)
	}
	return nil
}
