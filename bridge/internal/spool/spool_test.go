package spool

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/linktest"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/bridge/internal/track"
	"ifacebridge/schema"
)

// testSpool opens the spool of host "h" in dir, for a run of this epoch, and
// closes it with the test.
func testSpool(t *testing.T, dir, epoch string, log *slog.Logger) *Spool {
	t.Helper()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := Open(
		config.Config{SpoolDir: dir, Token: "h", Queue: linktest.Events(10000)},
		event.Identity{Host: "h", BootID: "boot", Epoch: epoch},
		log,
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// filled returns a queue of a snapshot of link 1 and changes of it, which is closed.
func filled(changes uint32) *queue.Queue {
	q, table := queue.New(linktest.Events(10000), 0), track.NewTable(config.Filter{}, event.Namespace{})
	table.Apply(linktest.New(linktest.Link(1, "a")), 0, func(*event.Change) {})
	q.PushSnapshot(func(emit func(*event.Change)) { table.Snapshot(0, time.Now(), 0, emit) })
	for i := range changes {
		table.Apply(linktest.New(linktest.Link(1, "a", linktest.MTU(i))), 0, q.Push)
	}
	q.Close()
	return q
}

// fillSpool spools a snapshot of link 1 and changes of it.
func fillSpool(s *Spool, changes uint32) {
	s.Fill(context.Background(), filled(changes))
}

// taken is what the spool has for an epoch, as seq and MTU, and confirms it.
func takeSpooled(t *testing.T, s *Spool, epoch string, after uint64) (events []schema.Event) {
	t.Helper()
	enc := event.NewEncoder(config.Config{Prefix: "iface", Token: "h"}, event.Identity{}, func() int64 { return 0 })
	enc.Begin(epoch, after)
	for {
		enc.Reset()
		if _, err := s.Next(enc, time.Now()); err != nil {
			t.Fatal(err)
		}
		if len(enc.Batch) == 0 {
			return events
		}
		for _, o := range enc.Batch {
			var e schema.Event
			if err := e.UnmarshalJSON(o.Data); err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
		s.Confirm(event.Mark{Epoch: epoch, Seq: enc.Seq})
	}
}

// What a run left is there for the next, in order, in its own epoch; what was
// confirmed is not.
func TestSpoolSurvives(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir, "one", nil)
	fillSpool(s, 2500)
	enc := event.NewEncoder(config.Config{Prefix: "iface", Token: "h"}, event.Identity{}, func() int64 { return 0 })
	enc.Begin("one", 0)
	if _, err := s.Next(enc, time.Now()); err != nil || len(enc.Batch) != event.MaxBatch {
		t.Fatalf("got %d events, %v", len(enc.Batch), err)
	}
	s.Confirm(event.Mark{Epoch: "one", Seq: enc.Seq})
	s.db.Close() // a crash: nothing else is said to the disk
	s.db = nil

	s = testSpool(t, dir, "two", nil)
	left, err := s.Leftover()
	if err != nil || left.Epoch != "one" {
		t.Fatalf("left is %+v, %v", left, err)
	}
	// The note of what was confirmed was not written, but the stream knows.
	last := schema.Event{}
	if err := last.UnmarshalJSON(enc.Batch[event.MaxBatch-1].Data); err != nil {
		t.Fatal(err)
	}
	if found, err := s.DropThrough(&last, event.Mark{Run: "one", Epoch: "one", Seq: last.Seq}); err != nil || !found {
		t.Fatalf("the last event that is stored was found in the spool: %v, %v", found, err)
	}
	events := takeSpooled(t, s, "one", last.Seq)
	if len(events) != 2501-event.MaxBatch || events[0].Seq != event.MaxBatch+1 ||
		events[0].Link.MTU.Or(0) != event.MaxBatch-1 {
		t.Errorf("got %d events, the first is %d with MTU %d", len(events), events[0].Seq, events[0].Link.MTU.Or(0))
	}
	if left, _ := s.Leftover(); left.Epoch != "" {
		t.Errorf("%+v is left", left)
	}
	fillSpool(s, 3)
	if events := takeSpooled(t, s, "two", 0); len(events) != 4 || events[3].Seq != 4 {
		t.Errorf("got %d events of this run", len(events))
	}
}

// A leftover epoch's opening is known when all of it is there.
func TestSpoolOpening(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir, "one", nil)
	fillSpool(s, 1)
	s.Close()
	s.db = nil
	s = testSpool(t, dir, "two", nil)
	o, whole, err := s.LeftoverOpening()
	if err != nil || !whole || o.BootID != "boot" || o.Links[schema.LinkKey{Index: 1}].Link.Name != "a" {
		t.Errorf("got %+v, whole %v, %v", o, whole, err)
	}
	s.drop(1, event.Mark{Run: "one", Epoch: "one", Seq: 1})
	if _, whole, _ := s.LeftoverOpening(); whole {
		t.Error("a snapshot that was begun is taken for a whole one")
	}
}

// Foreign and damaged files are moved aside and said, and the spool works.
func TestSpoolDamaged(t *testing.T) {
	path := func(dir string) string { return filepath.Join(dir, "h.spool") }
	good := t.TempDir()
	s := testSpool(t, good, "one", nil)
	fillSpool(s, 3000)
	s.Close()
	s.db = nil
	data, err := os.ReadFile(path(good))
	if err != nil {
		t.Fatal(err)
	}
	inEvent := strings.LastIndex(string(data), `"ifname":"a"`)
	tests := map[string]func(file string) error{
		"something else":    func(file string) error { return os.WriteFile(file, []byte("#!/bin/sh\nexit 1\n"), 0o600) },
		"zeros":             func(file string) error { return os.WriteFile(file, make([]byte, len(data)), 0o600) },
		"cut off":           func(file string) error { return os.WriteFile(file, data[:len(data)/3], 0o600) },
		"cut off in a page": func(file string) error { return os.WriteFile(file, data[:len(data)/2+1000], 0o600) },
		"a bit of an event": func(file string) error { return os.WriteFile(file, flip(data, inEvent+10), 0o600) },
		"pages torn": func(file string) error {
			return os.WriteFile(file, flip(data, every(4096, 8192, len(data))...), 0o600)
		},
		"a page that is far outside": func(file string) error {
			return os.WriteFile(file, flip(data, inBranches(data)...), 0o600)
		},
		"another bbolt file": func(file string) error {
			db, err := bbolt.Open(file, 0o600, nil)
			if err != nil {
				return err
			}
			defer db.Close()
			return db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err })
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := damage(path(dir)); err != nil {
				t.Fatal(err)
			}
			var said strings.Builder
			s := testSpool(t, dir, "two", slog.New(slog.NewTextHandler(&said, nil)))
			if !strings.Contains(said.String(), "the spool is damaged or no spool") ||
				!strings.Contains(said.String(), "moved_to="+path(dir)+".damaged-") {
				t.Errorf("said:\n%s", said.String())
			}
			if moved, _ := filepath.Glob(path(dir) + ".damaged-*"); len(moved) != 1 {
				t.Errorf("moved aside: %v", moved)
			}
			fillSpool(s, 2)
			if events := takeSpooled(t, s, "two", 0); len(events) != 3 {
				t.Errorf("got %d events", len(events))
			}
		})
	}
}

func flip(data []byte, at ...int) []byte {
	data = append([]byte(nil), data...)
	for _, i := range at {
		data[i] ^= 0x10
	}
	return data
}

// A good file that the system does not let us have is no damaged one: it stays where it is, and
// is used as soon as that is over. What an earlier run left in it comes too late then, and that
// is logged.
func TestSpoolOfAFailingSystem(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "h.spool")
	s := testSpool(t, dir, "one", nil)
	fillSpool(s, 9)
	s.Close()
	s.db = nil
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// In a file of memory, which may be larger than what can be mapped.
	fd, err := unix.MemfdCreate("spool", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "spool")
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(1 << 47); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), os.Symlink(fmt.Sprint("/proc/self/fd/", fd), path)); err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	s = testSpool(t, dir, "two", slog.New(slog.NewTextHandler(&logged, nil)))
	if err := file.Truncate(int64(len(data))); err != nil {
		t.Fatal(err)
	}
	fillSpool(s, 2)
	for _, want := range []string{
		`cause="cannot allocate memory"`, "spooling again", "the spool could not be opened at the start, and they " +
			`come too late now; the snapshot shows what is there" events=10 `,
	} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("no %s in\n%s", want, logged.String())
		}
	}
	if moved, _ := filepath.Glob(path + ".*"); len(moved) != 0 {
		t.Errorf("moved aside: %v", moved)
	}
	if events := takeSpooled(t, s, "two", 0); len(events) != 3 {
		t.Errorf("got %d events", len(events))
	}
}

// inBranches returns where the number of another page stands in each page of a bbolt file that
// has some, its high bits: with one of them flipped, that page is far outside of the file.
func inBranches(data []byte) (at []int) {
	const size, header, isBranch = 4096, 16, 1
	for page := 2 * size; page < len(data); page += size {
		number, flags := binary.LittleEndian.Uint64(data[page:]), binary.LittleEndian.Uint16(data[page+8:])
		if number == uint64(page/size) && flags == isBranch {
			at = append(at, page+header+8+3)
		}
	}
	return at
}

func every(step, from, to int) (list []int) {
	for i := from; i < to; i += step {
		list = append(list, i)
	}
	return list
}

// A directory that cannot be used, and one that another bridge uses.
func TestSpoolRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config.Config{SpoolDir: file, Token: "h", Queue: linktest.Events(10)}
	_, err := Open(cfg, event.Identity{}, slog.New(slog.DiscardHandler))
	want := "IFACE_SPOOL_DIR: cannot be used: mkdir " + file + ": not a directory; " +
		"accepted: a directory that can be written"
	if err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
	cfg.SpoolDir = t.TempDir()
	testSpool(t, cfg.SpoolDir, "one", nil)
	_, err = Open(cfg, event.Identity{}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "another bridge uses it; give each its own IFACE_SPOOL_DIR") {
		t.Errorf("got %v", err)
	}
}

// The spool holds as many events as it may; the others wait in the queue, until
// some are confirmed.
func TestSpoolIsBounded(t *testing.T) {
	s := testSpool(t, t.TempDir(), "one", nil)
	s.limit = linktest.Events(30)
	done := make(chan struct{})
	go func() { s.Fill(context.Background(), filled(99)); close(done) }()
	most, got := 0, 0
	for got < 100 {
		<-s.Ready()
		most = max(most, s.Waiting())
		got += len(takeSpooled(t, s, "one", uint64(got)))
	}
	<-done
	if most > 30 || got != 100 {
		t.Errorf("held %d of at most 30, and gave %d of 100", most, got)
	}
}

// Room that comes after the queue was not looked into for want of it: what is in there is
// not forgotten, although nothing more will come. Here the disk takes again what it had
// refused; a confirmation makes room in the same way.
func TestSpoolTakesTheRestOfTheQueue(t *testing.T) {
	s := testSpool(t, t.TempDir(), "one", nil)
	refused := testSpool(t, t.TempDir(), "one", nil)
	refused.takeFrom(filled(0), make([]event.Delta, queue.MaxTake), refused.free())
	s.unsaved = refused.unsaved
	fillSpool(s, 9)
	if events, all := s.Saved(); events != 11 || !all {
		t.Errorf("%d of 11 events are on disk; all that there are: %v", events, all)
	}
}

// What is not on disk yet is not sent, unless the disk does not take it.
func TestSpoolSendsWhatIsOnDisk(t *testing.T) {
	s := testSpool(t, t.TempDir(), "one", nil)
	s.takeFrom(filled(4), make([]event.Delta, queue.MaxTake), s.free())
	if events := takeSpooled(t, s, "one", 0); len(events) != 0 {
		t.Errorf("%d events are sent before they are on disk", len(events))
	}
	s.note(errors.New("no space left on device"))
	if events := takeSpooled(t, s, "one", 0); len(events) != 5 {
		t.Errorf("got %d of 5 events that the disk does not take", len(events))
	}
}

// What the spool holds is bounded in bytes, too.
func TestSpoolIsBoundedInBytes(t *testing.T) {
	s := testSpool(t, t.TempDir(), "one", nil)
	s.limit = linktest.Bytes(100 << 10)
	done := make(chan struct{})
	go func() { s.Fill(context.Background(), filled(2999)); close(done) }()
	most, got := 0, 0
	for got < 3000 {
		<-s.Ready()
		s.mu.Lock()
		most = max(most, s.bytes)
		s.mu.Unlock()
		got += len(takeSpooled(t, s, "one", uint64(got)))
	}
	<-done
	if most > 100<<10+event.MaxBatch*1000 || got != 3000 {
		t.Errorf("held %d bytes of at most %d and a batch, and gave %d of 3000", most, 100<<10, got)
	}
	if s.bytes != 0 {
		t.Errorf("counts %d bytes in an empty file", s.bytes)
	}
}

// A full spool of which all is confirmed is not full for ever because the disk did not take
// the note of that: nobody confirms anything more.
func TestSpoolHasRoomAfterAFailure(t *testing.T) {
	s := testSpool(t, t.TempDir(), "one", nil)
	s.limit = linktest.Bytes(2000)
	done := make(chan struct{})
	go func() { s.Fill(context.Background(), filled(2999)); close(done) }()
	<-s.Ready() // with a batch, which is more than the limit
	failing, err := bbolt.Open(filepath.Join(t.TempDir(), "failing"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	failing.Close()
	s.mu.Lock()
	working, got := s.db, int(s.high-s.low)
	s.db = failing
	s.mu.Unlock()
	s.drop(got, event.Mark{Run: "one", Epoch: "one", Seq: uint64(got)})
	s.mu.Lock()
	s.db = working
	s.mu.Unlock()
	for got < 3000 {
		<-s.Ready()
		got += len(takeSpooled(t, s, "one", uint64(got)))
	}
	<-done
}

// An epoch opens with a snapshot of each namespace: with some of them missing it is
// not whole, and what the bucket has of those did not go.
func TestSpoolOpeningOfNamespaces(t *testing.T) {
	own := track.NewTable(config.Filter{}, event.Namespace{})
	blue := track.NewTable(config.Filter{}, event.Namespace{Name: "blue", Inode: 42})
	for _, table := range []*track.Table{own, blue} {
		table.Apply(linktest.New(linktest.Link(1, "lo")), 0, func(*event.Change) {})
		table.Apply(linktest.New(linktest.Link(2, "eth0")), 0, func(*event.Change) {})
	}
	fill := func(dir string, tables ...*track.Table) {
		s := testSpool(t, dir, "one", nil)
		q := queue.New(linktest.Events(100), 0)
		q.PushSnapshot(func(emit func(*event.Change)) {
			for i, table := range tables {
				table.Snapshot(uint32(1-i), time.Now(), 0, emit)
			}
		})
		q.Close()
		s.Fill(context.Background(), q)
		s.Close()
		s.db = nil
	}
	dir := t.TempDir()
	fill(dir, own, blue)
	o, whole, err := testSpool(t, dir, "two", nil).LeftoverOpening()
	if err != nil || !whole || len(o.Links) != 4 ||
		o.Links[schema.LinkKey{Netns: "blue", Index: 2}].NetnsInode != 42 {
		t.Errorf("got %+v, whole %v, %v", o, whole, err)
	}
	dir = t.TempDir()
	fill(dir, own)
	if o, whole, err := testSpool(t, dir, "two", nil).LeftoverOpening(); err != nil || whole {
		t.Errorf("the first of two is taken for all: %+v, %v", o, err)
	}
}

// The publisher looks for what earlier runs left while Fill opens anew the file that the disk
// had refused, which reads the mark again. It is for the race detector.
func TestSpoolLeftoverWhileOpenedAnew(t *testing.T) {
	s := testSpool(t, t.TempDir(), "one", nil)
	s.Close()
	s.db = nil // as if the disk had refused it at the start
	filling := make(chan struct{})
	go func() {
		defer close(filling)
		fillSpool(s, 5)
	}()
	for saved := false; !saved; _, saved = s.Saved() {
		if _, err := s.Leftover(); err != nil {
			t.Error(err)
		}
		if _, err := s.DropThrough(&schema.Event{}, event.Mark{}); err != nil {
			t.Error(err)
		}
	}
	<-filling
}

// What is abandoned is not there at the next start; what an earlier run left is.
func TestSpoolIsAbandoned(t *testing.T) {
	dir := t.TempDir()
	for _, epoch := range []string{"first", "second"} {
		s := testSpool(t, dir, epoch, nil)
		fillSpool(s, 3)
		if epoch == "second" {
			s.Abandon()
		}
		s.Close()
	}
	s := testSpool(t, dir, "third", nil)
	left, err := s.Leftover()
	if err != nil || left.Run != "first" {
		t.Fatalf("left is %+v, %v", left, err)
	}
	if n := len(takeSpooled(t, s, "first", 0)); n != 4 {
		t.Errorf("%d events of the first run", n)
	}
	if left, err := s.Leftover(); err != nil || left.Run != "" {
		t.Errorf("then %+v, %v", left, err)
	}
	fillSpool(s, 3)
	s.Leftover()
	if n := len(takeSpooled(t, s, "third", 0)); n != 4 {
		t.Errorf("%d events of this run", n)
	}
}
