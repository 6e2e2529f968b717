package track

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/loop"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// A watcher keeps the table of a namespace true to the kernel and pushes what
// changes to the queue. It never waits for anything but the kernel.
type watcher struct {
	src    Source
	table  *Table
	queue  *queue.Queue
	resync time.Duration // 0: never
	log    *slog.Logger

	overruns *atomic.Uint64 // of all namespaces, since the bridge started
	counted  uint64         // of this one's, in overruns
	before   func(*watcher, *netlinksrc.Message)
	reopen   func() error // opens src anew; nil: nobody can
	broken   bool         // src could not be received from

	metrics   *kernelMetrics
	progress  loop.Progress
	links     atomic.Int64  // in the table
	malformed atomic.Uint64 // messages and attributes, as last looked at

	// mentioned are the links of which notifications came since a dump was asked
	// for; nil when none is under way.
	mentioned map[int32]bool
	ports     map[int32]*netlinksrc.Message // what bridges said of their ports meanwhile
}

// dumpTries bounds how often an interrupted dump is asked for again.
const dumpTries = 4

// run publishes every change until ctx ends; then it returns nil. It comes after
// start and the snapshot. When the kernel cannot be read, it goes on as soon as it can: a
// failure to read says nothing of the links. It returns an error only where there is no
// way to open the source again.
func (w *watcher) run(ctx context.Context) error {
	w.progress.Work()
	defer w.progress.Rest()
	next := time.Now().Add(w.resync)
	for {
		err := w.receive(ctx, next)
		if errors.Is(err, context.DeadlineExceeded) {
			err = w.synchronize(ctx, w.queue.Push)
			next = time.Now().Add(w.resync)
		}
		if errors.Is(err, netlinksrc.ErrOverrun) {
			err = w.recoverOverrun(ctx, err)
		}
		if err != nil && ctx.Err() == nil {
			err = w.restore(ctx, err)
		}
		switch {
		case ctx.Err() != nil:
			w.finish()
			return nil
		case err != nil:
			return err
		}
	}
}

// restore makes the table true again after the kernel could not be read: with a dump that
// is compared with the table, and, when it was the notifications that could not be read,
// with a source that is opened anew. It tries until that works, with growing pauses.
func (w *watcher) restore(ctx context.Context, failure error) error {
	if w.reopen == nil {
		return failure
	}
	began, published := time.Now(), 0
	err := loop.Persist(ctx, func() error {
		if err := failure; err != nil {
			failure = nil
			return err
		}
		w.progress.Work()
		if err := w.openAnew(); err != nil {
			return err
		}
		err := w.synchronize(ctx, func(c *event.Change) { published++; w.queue.Push(c) })
		if errors.Is(err, netlinksrc.ErrOverrun) {
			err = w.recoverOverrun(ctx, err) // which may fail as well
		}
		return err
	}, func(error) bool { return true }, func(err error, again bool) {
		w.metrics.failures.Inc()
		if !again {
			w.log.Warn("cannot read the kernel's links; retrying, what is missed meanwhile is found by comparing",
				"cause", err)
		}
		w.progress.Rest()
	})
	w.progress.Work()
	if err == nil {
		w.log.Info("reading the kernel's links again",
			"after", time.Since(began).Round(time.Millisecond), "events", published)
	}
	return err
}

// openAnew opens the source anew when its notifications could not be read. What can still
// be read of them is taken first. Between the two sockets some may be lost, which
// counts as an overrun.
func (w *watcher) openAnew() error {
	if !w.broken {
		return nil
	}
	_ = w.drain() // it was broken before
	if err := w.reopen(); err != nil {
		return err
	}
	w.broken = false
	w.overruns.Add(1)
	return nil
}

// finish takes the notifications that came before the end. What an overrun lost
// among them, the next run's snapshot tells.
func (w *watcher) finish() {
	if err := w.drain(); unreadable(err) {
		w.log.Warn("cannot read the last notifications; the next start tells what is there", "cause", err)
	}
}

// drain takes the notifications that are there.
func (w *watcher) drain() error {
	w.src.Lock()
	defer w.src.Unlock()
	return w.drainLocked(w.queue.Push)
}

// drainLocked is drain for callers that hold the table's lock.
func (w *watcher) drainLocked(emit func(*event.Change)) error {
	err := w.src.Drain(func(m *netlinksrc.Message) { w.handle(m, emit) })
	w.countOverruns()
	w.broken = w.broken || unreadable(err)
	return err
}

// unreadable reports whether notifications could not be read.
func unreadable(err error) bool {
	return err != nil && !errors.Is(err, netlinksrc.ErrOverrun) &&
		!errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// receive takes what notifications there are. It returns
// context.DeadlineExceeded when it is time for the next comparison.
func (w *watcher) receive(ctx context.Context, next time.Time) error {
	if w.resync > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, next)
		defer cancel()
	}
	w.progress.Rest()
	err := w.src.Receive(ctx, func(m *netlinksrc.Message) { w.handle(m, w.queue.Push) })
	w.progress.Work()
	w.broken = unreadable(err)
	w.look()
	return err
}

// look takes note of what the source has counted, and says what the decoder had
// to leave out since it was last said.
func (w *watcher) look() {
	w.src.Lock()
	defer w.src.Unlock()
	w.countOverruns()
	w.links.Store(int64(len(w.table.links)))
	messages, attributes := w.src.Malformed()
	if messages+attributes > w.malformed.Load() {
		w.malformed.Store(messages + attributes)
		w.log.Debug("left out what is malformed in the kernel's messages", "messages", messages, "attributes", attributes)
	}
}

// countOverruns returns how many overruns there were since the bridge started.
func (w *watcher) countOverruns() uint64 {
	if n := w.src.Overruns(); n > w.counted {
		w.overruns.Add(n - w.counted)
		w.counted = n
	}
	return w.overruns.Load()
}

// handle takes a notification. The caller has the table's lock.
func (w *watcher) handle(m *netlinksrc.Message, emit func(*event.Change)) {
	w.metrics.messages[m.Kind].Inc()
	if w.before != nil {
		w.before(w, m)
	}
	if m.Kind != netlinksrc.New && m.Kind != netlinksrc.Del {
		return
	}
	if w.mentioned != nil {
		w.mention(m)
	}
	if w.table.Apply(m, w.countOverruns(), emit) {
		w.metrics.quiet.Inc()
	}
}

// mention takes note of what a notification says while a dump is under way.
func (w *watcher) mention(m *netlinksrc.Message) {
	switch {
	case m.Port:
		port := *m
		w.ports[m.Link.Index] = &port
	case !m.Partial:
		w.mentioned[m.Link.Index] = true
	}
}

// start fills the table, silently.
func (w *watcher) start(ctx context.Context) error {
	silently := func(*event.Change) {}
	err := w.synchronize(ctx, silently)
	for errors.Is(err, netlinksrc.ErrOverrun) {
		err = w.synchronize(ctx, silently)
	}
	if err == nil {
		w.look()
	}
	return err
}

// snapshot emits the table as a snapshot, with more of other namespaces behind it.
func (w *watcher) snapshot(more uint32, emit func(*event.Change)) {
	w.table.Snapshot(more, time.Now(), w.countOverruns(), emit)
}

// end emits a del for every link.
func (w *watcher) end() { w.table.end(time.Now(), w.countOverruns(), w.queue.Push) }

// rename publishes that the namespace has another name now.
func (w *watcher) rename(name string) {
	w.table.Rename(name, time.Now(), w.countOverruns(), w.queue.Push)
}

// recoverOverrun makes the table true again after an overrun, and says so.
func (w *watcher) recoverOverrun(ctx context.Context, overrun error) error {
	began := time.Now()
	w.log.Warn("notifications of the kernel were lost; comparing with a dump",
		"cause", overrun, "overruns", w.overruns.Load())
	published, err := 0, overrun
	for errors.Is(err, netlinksrc.ErrOverrun) {
		w.progress.Work()
		err = w.synchronize(ctx, func(c *event.Change) { published++; w.queue.Push(c) })
	}
	if err != nil {
		return err
	}
	w.log.Info("state is the kernel's again", "after", time.Since(began).Round(time.Millisecond),
		"events", published, "overruns", w.overruns.Load())
	return nil
}

// synchronize compares the table with a dump and emits the differences. It is
// the only way in which the table is filled: at the start, after an overrun, and
// every now and then.
//
// All notifications from before the dump have been applied when it is asked for.
// Those that came while it ran are applied as they are, in their order; the dump
// may be older or newer than they, and it speaks only for the links that none of
// them mentioned. So each notification counts once, and a dump never takes back
// what a newer notification said. After ErrOverrun some of those were lost, and
// it has to be done again. They are applied when the dump fails, too: nothing waits in
// the socket for the next one.
func (w *watcher) synchronize(ctx context.Context, emit func(*event.Change)) error {
	w.src.Lock()
	w.mentioned, w.ports = map[int32]bool{}, map[int32]*netlinksrc.Message{}
	w.src.Unlock()
	links, at, err := w.dump(ctx)
	w.src.Lock()
	defer w.src.Unlock()
	defer func() { w.mentioned, w.ports = nil, nil }()
	overrun := w.drainLocked(emit)
	if err != nil {
		return err
	} else if unreadable(overrun) {
		return overrun
	}
	overruns := w.countOverruns()
	for _, e := range w.table.sorted() { // what went first, so that a name is free before it is taken
		if _, there := links[e.link.Index]; !there && !w.mentioned[e.link.Index] {
			w.table.vanished(e, at, overruns, emit)
		}
	}
	for _, index := range slices.Sorted(maps.Keys(links)) {
		if links[index] == nil || w.mentioned[index] {
			continue
		}
		if port := w.ports[index]; port != nil { // as new as the dump, or newer
			port.Merge(links[index], links[index])
		}
		w.table.settle(links[index], links)
		w.table.compare(links[index], at, overruns, emit)
	}
	w.table.Restate(at, overruns, emit)
	if w.table.others != nil && overrun == nil {
		w.table.others.settle(w.table)
	}
	return overrun
}

// dump returns all links, nil for each that is as the table has it: nearly all of them,
// on most days, and a copy of those would be as large as the table. When the links change
// while the kernel walks them a dump may miss some (NLM_F_DUMP_INTR): it is asked for
// again, and what any of the dumps showed is there. A link that went meanwhile was announced.
func (w *watcher) dump(ctx context.Context) (links map[int32]*schema.Link, at time.Time, err error) {
	links = make(map[int32]*schema.Link, w.links.Load())
	for range dumpTries {
		w.metrics.dumps.Inc()
		interrupted, err := w.src.Dump(ctx, func(m *netlinksrc.Message) {
			at = m.Time
			if m.Kind == netlinksrc.New && !m.Partial {
				links[m.Link.Index] = w.table.unlike(&m.Link)
			}
		})
		if err != nil {
			return nil, at, err
		}
		if !interrupted {
			return links, at, nil
		}
		w.metrics.redumps.Inc()
	}
	w.log.Warn("the kernel's dump was interrupted each time; using it as it is, the next notifications complete it",
		"tries", dumpTries)
	return links, at, nil
}
