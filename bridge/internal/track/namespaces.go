// Package track follows the kernel's links and pushes what changes to the queue. It waits
// for nothing but the kernel.
//
//   - [Namespaces] follows the network namespaces that are selected while they exist, with
//     a watcher for each (namespaces.go, watcher.go).
//   - A watcher reads a namespace's notifications from a [Source], and compares with a dump
//     when some were lost, and every now and then.
//   - A [Table] decides what a notification changes, and what is in a snapshot
//     (snapshot.go). No clock, no socket: a pure function of the messages.
//   - Links that move from one namespace to another are followed by moves.go.
package track

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/loop"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/netlinksrc"
)

// Namespaces follows the network namespaces that are selected, from when they appear
// until they die, with a watcher for each. Those that are there at the start make the
// opening of the epoch; one that appears later gets a snapshot of its own, and one that
// dies a del for each link.
//
// The sockets of a watcher keep its namespace alive. So a namespace is dead when
// nothing else keeps it: no name and no process (netlinksrc.Finder). Its sockets are
// closed then, and the kernel removes it.
type Namespaces struct {
	cfg     config.Config
	queue   *queue.Queue
	log     *slog.Logger
	metrics *kernelMetrics

	finder       *netlinksrc.Finder
	given        Source             // what is read in place of the kernel; nil: the kernel is
	reader       *netlinksrc.Reader // of the kernel's sources; nil when one was given
	hint         chan struct{}      // holds a token when namespaces may have come or gone
	overrunCount atomic.Uint64      // since the bridge started
	failures     chan error         // why the given source can be read no longer; unbuffered
	unfiltered   sync.Once
	granted      atomic.Int64 // receive buffer in bytes of the own namespace's socket, else of the first

	// lock is that of the sources, and the one lock of all tables, so that a link can
	// move between two. It guards what follows as well.
	lock    sync.Locker
	watched map[uint64]*namespace // by inode
	ended   bool                  // nothing is watched any more
	moved   *moves
	began   uint64            // how many were, ever
	failing map[string]string // what cannot be watched, and why, as last logged
}

// A namespace is one that is watched: its watcher, and what keeps that running.
type namespace struct {
	watcher
	src  *netlinksrc.Source // nil when the source was given
	ns   netlinksrc.Namespace
	ids  map[int32]*namespace // the others by the id that they have in this one, as far as known
	stop context.CancelFunc   // ends the goroutine of the watcher
	done chan struct{}        // closed when that has ended
}

const (
	// findEvery is how often to look for what nothing announces: processes in new
	// namespaces, and the permission to enter one.
	findEvery = 10 * time.Second

	// findShare bounds the time spent on looking, however much happens: after a
	// search comes a rest that is so many times as long, and minRest at least.
	findShare = 20
	minRest   = 50 * time.Millisecond
)

// New returns what reads the kernel, or the given source in its place, if there is one,
// and pushes to q. It fails when the namespaces cannot be looked for. Close is to be called
// in the end.
func New(
	cfg config.Config, given Source, q *queue.Queue, log *slog.Logger, to metrics.Registry,
) (*Namespaces, error) {
	finder, err := netlinksrc.NewFinder(cfg.Netns)
	if err != nil {
		return nil, err
	}
	n := &Namespaces{
		cfg: cfg, queue: q, log: log, metrics: newKernelMetrics(to), finder: finder, given: given, lock: given,
		hint: make(chan struct{}, 1), failures: make(chan error),
		watched: map[uint64]*namespace{}, failing: map[string]string{},
	}
	n.moved = newMoves(n.watched, n.hint, log)
	if given == nil {
		n.reader = netlinksrc.NewReader()
		n.lock = n.reader
	}
	n.register(to)
	return n, nil
}

// Close closes what Run has left open. Nothing may be under way.
func (n *Namespaces) Close() { n.finder.Close() }

// Run pushes the snapshots that the epoch begins with, and then every change until ctx
// ends; then it returns nil, and everything is pushed that the kernel had notified of. It
// returns an error when the bridge's own namespace cannot be read at the start, or the given
// source no longer. It is called once.
func (n *Namespaces) Run(ctx context.Context) error {
	defer n.end()
	if err := n.open(ctx); err != nil {
		return ignoreEnd(ctx, err)
	}
	every, stop := n.listen(ctx)
	defer stop()
	for {
		select {
		case <-n.hint:
		case <-every:
		case err := <-n.failures:
			return err
		case <-ctx.Done():
			return nil
		}
		looked := n.look(ctx)
		select {
		case <-time.After(max(minRest, findShare*looked)):
		case <-ctx.Done():
			return nil
		}
	}
}

// listen has n.hint filled when the finder notices that namespaces may have come or
// gone, and returns when to look besides, until stop is called. Where the bridge's own
// namespace is the only one, neither happens.
func (n *Namespaces) listen(ctx context.Context) (every <-chan time.Time, stop func()) {
	if n.cfg.Netns.OnlySelf() {
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var finding sync.WaitGroup
	finding.Go(func() {
		for n.finder.Wait(ctx) == nil {
			loop.Signal(n.hint)
		}
	})
	ticker := time.NewTicker(findEvery)
	return ticker.C, func() {
		ticker.Stop()
		cancel()
		finding.Wait()
	}
}

// open begins to watch what is there, and pushes its snapshots.
func (n *Namespaces) open(ctx context.Context) error {
	found, missed := n.finder.Find()
	var begun []*namespace
	failed := map[string]error{}
	for _, ns := range found {
		var w *namespace
		err := loop.Persist(ctx, func() (err error) { w, err = n.begin(ctx, ns); return err },
			func(err error) bool { return ns.Own() && netlinksrc.Passes(err) },
			func(err error, again bool) {
				n.metrics.failures.Inc()
				if !again {
					n.log.Warn("cannot read the kernel's links yet; retrying", "cause", err)
				}
			})
		if err == nil {
			begun = append(begun, w)
		} else if failed[ns.Name] = err; ns.Own() || ctx.Err() != nil {
			for _, w := range begun {
				w.closeSource()
			}
			return err
		}
	}
	n.adopt(begun, true)
	n.report(failed, missed)
	return nil
}

// begin opens a namespace and reads its links.
func (n *Namespaces) begin(ctx context.Context, ns netlinksrc.Namespace) (*namespace, error) {
	w := &namespace{ns: ns, ids: map[int32]*namespace{}, done: make(chan struct{})}
	from := n.given
	if from == nil {
		src, err := n.openSource(ns)
		if err != nil {
			return nil, err
		}
		w.src, from = src, src
	}
	n.began++
	name, log := event.Namespace{}, n.log
	if !ns.Own() {
		name, log = event.Namespace{Name: ns.Name, Inode: ns.Inode}, log.With("netns", ns.Name)
	}
	t := NewTable(n.cfg.Filter, name)
	t.watch = n.began
	w.watcher = watcher{
		src: from, table: t, queue: n.queue, resync: n.cfg.Resync, log: log,
		overruns: &n.overrunCount, metrics: n.metrics,
	}
	if n.given == nil {
		w.reopen = func() error { return n.reopen(w) }
	}
	if err := w.start(ctx); err != nil {
		w.closeSource()
		return nil, err
	}
	if !n.cfg.Netns.OnlySelf() {
		w.before = n.moved.readAhead
		t.others = n.moved
	}
	return w, nil
}

func (n *Namespaces) openSource(ns netlinksrc.Namespace) (src *netlinksrc.Source, err error) {
	cfg := netlinksrc.Config{ReadBuffer: n.cfg.ReadBuffer, Reader: n.reader, Namespaces: ns.Own() && n.cfg.Netns.All}
	if ns.Own() {
		src, err = netlinksrc.Open(cfg)
	} else {
		src, err = netlinksrc.OpenPath(ns.Path, ns.Inode, cfg)
	}
	if err != nil {
		return nil, err
	}
	if err := src.Unfiltered(); err != nil {
		n.unfiltered.Do(func() {
			n.log.Info("no socket filter can be had; going on without, at a higher cost where there are bridges", "cause", err)
		})
	}
	if ns.Own() || n.granted.Load() == 0 {
		logReadBuffer(n.log, n.cfg.ReadBuffer, src.ReadBuffer())
		n.granted.Store(int64(src.ReadBuffer()))
	}
	return src, nil
}

// reopen gives a watcher new sockets in its namespace. The old ones keep it alive until
// then, so that it is the same.
func (n *Namespaces) reopen(w *namespace) error {
	n.lock.Lock()
	ns := w.ns
	n.lock.Unlock()
	src, err := n.openSource(ns)
	if err != nil {
		return err
	}
	n.lock.Lock()
	defer n.lock.Unlock()
	_ = w.src.Close()
	w.src, w.watcher.src, w.counted = src, src, 0
	return nil
}

// closeSource closes the sockets in the namespace. Its goroutine must have ended.
func (w *namespace) closeSource() {
	if w.src != nil {
		_ = w.src.Close()
	}
}

// adopt has namespaces that were begun watched, and logs that. The opening is those of the
// epoch's beginning.
func (n *Namespaces) adopt(begun []*namespace, opening bool) {
	links, published, contained := n.watch(begun, opening)
	if contained {
		n.log.Warn("only a container's own links are visible", "advice", config.ContainerAdvice)
	}
	attrs := []any{"links", links, "published", published}
	switch {
	case !opening:
		ns := begun[0].ns
		n.log.Info("watching a network namespace", append([]any{"netns", ns.Name, "inode", ns.Inode}, attrs...)...)
	case n.cfg.Netns.OnlySelf():
		n.log.Info("read the links of this host", attrs...)
	default:
		n.log.Info("read the links of this host", append(attrs, "namespaces", len(begun))...)
	}
}

// watch publishes the snapshots of namespaces, and starts their watchers. The snapshots of an
// opening stand together. It returns how many links there are, how many of them are published,
// and whether they are a container's.
func (n *Namespaces) watch(begun []*namespace, opening bool) (links int, published uint32, contained bool) {
	n.lock.Lock()
	defer n.lock.Unlock()
	n.queue.PushSnapshot(func(emit func(*event.Change)) { emitSnapshots(begun, opening, emit) })
	for _, w := range begun {
		published += w.table.countPublished()
		links += len(w.table.links)
		contained = contained || w.ns.Own() && config.InContainer(w.table.all())
		n.watched[w.ns.Inode] = w
		n.follow(w)
	}
	return links, published, contained
}

// emitSnapshots emits the snapshots of namespaces of which links are published.
func emitSnapshots(of []*namespace, opening bool, emit func(*event.Change)) {
	of = slices.DeleteFunc(slices.Clone(of), func(w *namespace) bool { return w.table.countPublished() == 0 })
	for i, w := range of {
		more := 0
		if opening {
			more = len(of) - 1 - i
		}
		w.snapshot(uint32(more), emit)
	}
}

// BeginAnew drops what was pushed and waits, and pushes the snapshots of what is there now,
// with which an epoch begins. It comes after the first were pushed, from any goroutine, and
// returns [queue.ErrNoSnapshot] when Run is about to end: then nothing is known.
func (n *Namespaces) BeginAnew() error {
	n.lock.Lock()
	defer n.lock.Unlock()
	if n.ended {
		return queue.ErrNoSnapshot
	}
	n.queue.BeginAnew(func(emit func(*event.Change)) { emitSnapshots(n.sorted(), true, emit) })
	return nil
}

// follow starts the watcher of a namespace, which runs until w.stop is called. It does
// not end with run's context: run stops all of them in the end.
func (n *Namespaces) follow(w *namespace) {
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	go func() {
		defer close(w.done)
		if err := w.run(ctx); err != nil {
			select {
			case n.failures <- err:
			case <-ctx.Done():
			}
		}
	}()
}

// look compares what is watched with what is there. It returns how long it took to
// find that out.
func (n *Namespaces) look(ctx context.Context) (looked time.Duration) {
	began := time.Now()
	found, missed := n.finder.Find()
	looked = time.Since(began)
	there := map[uint64]netlinksrc.Namespace{}
	for _, ns := range found {
		there[ns.Inode] = ns
	}
	for _, w := range n.list() {
		if _, ok := there[w.ns.Inode]; !ok {
			n.log.Info("a network namespace is gone", "netns", w.ns.Name, "inode", w.ns.Inode)
			n.remove(w)
		}
	}
	n.renameAll(there)
	failed := map[string]error{}
	for _, ns := range found {
		if n.watched[ns.Inode] != nil || ctx.Err() != nil {
			continue
		}
		if w, err := n.begin(ctx, ns); err != nil {
			failed[ns.Name] = err
		} else {
			n.adopt([]*namespace{w}, false)
		}
	}
	n.report(failed, missed)
	return looked
}

// renameAll publishes the names that have changed. Where names were swapped, one
// namespace goes through a name that no other has.
func (n *Namespaces) renameAll(there map[uint64]netlinksrc.Namespace) {
	taken := map[string]bool{}
	var left []*namespace
	for _, w := range n.list() {
		taken[w.ns.Name] = true
		if there[w.ns.Inode].Name != w.ns.Name {
			left = append(left, w)
		}
		n.lock.Lock()
		w.ns.Path = there[w.ns.Inode].Path
		n.lock.Unlock()
	}
	for len(left) > 0 {
		i := slices.IndexFunc(left, func(w *namespace) bool { return !taken[there[w.ns.Inode].Name] })
		to := ""
		if i < 0 {
			i, to = 0, fmt.Sprint("inode:", left[0].ns.Inode)
		}
		w := left[i]
		to = cmp.Or(to, there[w.ns.Inode].Name)
		n.log.Info("a network namespace was renamed", "netns", to, "before", w.ns.Name, "inode", w.ns.Inode)
		n.lock.Lock()
		delete(taken, w.ns.Name)
		w.ns.Name, taken[to] = to, true
		w.watcher.rename(to)
		n.lock.Unlock()
		if to == there[w.ns.Inode].Name {
			left = slices.Delete(left, i, i+1)
		}
	}
}

// Count returns how many namespaces are watched.
func (n *Namespaces) Count() int {
	n.lock.Lock()
	defer n.lock.Unlock()
	return len(n.watched)
}

// list returns what is watched, in the order in which it was begun.
func (n *Namespaces) list() []*namespace {
	n.lock.Lock()
	defer n.lock.Unlock()
	return n.sorted()
}

// sorted is list for callers that hold the lock.
func (n *Namespaces) sorted() []*namespace {
	return slices.SortedFunc(maps.Values(n.watched), func(a, b *namespace) int {
		return cmp.Compare(a.table.watch, b.table.watch)
	})
}

// remove publishes that the links of a namespace are gone, and closes its sockets.
func (n *Namespaces) remove(w *namespace) {
	w.stop()
	<-w.done
	n.lock.Lock()
	defer n.lock.Unlock()
	w.end()
	delete(n.watched, w.ns.Inode)
	n.moved.forget(w)
	w.closeSource()
}

// end stops all watchers, and closes their sockets. What becomes of the links after
// that is in the next run's snapshot.
func (n *Namespaces) end() {
	for _, w := range n.list() {
		w.stop()
	}
	n.lock.Lock()
	n.ended = true
	n.lock.Unlock()
	for _, w := range n.list() {
		<-w.done
		n.lock.Lock()
		delete(n.watched, w.ns.Inode)
		w.closeSource()
		n.lock.Unlock()
	}
}

// report logs what cannot be watched, once for each reason, and when it can be again.
func (n *Namespaces) report(failed map[string]error, missed []netlinksrc.Missed) {
	for _, m := range missed {
		failed[m.What] = m.Err
	}
	n.lock.Lock()
	over := slices.DeleteFunc(slices.Collect(maps.Keys(n.failing)), func(what string) bool {
		return failed[what] != nil
	})
	n.lock.Unlock()
	for _, what := range over {
		n.log.Info("a network namespace that could not be watched is watched now, or gone", "netns", what)
		n.lock.Lock()
		delete(n.failing, what)
		n.lock.Unlock()
	}
	for _, what := range slices.Sorted(maps.Keys(failed)) {
		n.logFailing(what, failed[what])
	}
}

// logFailing logs why a namespace cannot be watched, unless that was logged before.
func (n *Namespaces) logFailing(what string, err error) {
	n.lock.Lock()
	before := n.failing[what]
	n.failing[what] = err.Error()
	n.lock.Unlock()
	if before == err.Error() {
		return
	}
	n.log.Warn("cannot watch a network namespace; retrying, the others are not affected",
		"netns", what, "cause", err, "advice", config.NetnsAdvice(err))
}
