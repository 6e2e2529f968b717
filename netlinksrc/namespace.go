package netlinksrc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Directories with a file for each network namespace that has a name: `ip netns`
// puts them into the first, Docker into the second.
const (
	NameDir   = "/run/netns"
	dockerDir = "/var/run/docker/netns"
)

// A Selection says which network namespaces are meant.
type Selection struct {
	Self  bool     // the process's own
	All   bool     // every one that a process or a name keeps alive
	Files []string // globs over files that stand for one
}

// ParseSelection reads a comma-separated list of: self, all, names or globs under
// [NameDir], and absolute paths or globs.
func ParseSelection(list string) (Selection, error) {
	var s Selection
	for entry := range strings.SplitSeq(list, ",") {
		switch entry = strings.TrimSpace(entry); {
		case entry == "":
		case entry == "self":
			s.Self = true
		case entry == "all":
			s.Self, s.All = true, true
			s.Files = append(s.Files, NameDir+"/*", dockerDir+"/*")
		case path.IsAbs(entry):
			s.Files = append(s.Files, entry)
		case strings.Contains(entry, "/"):
			return s, fmt.Errorf("a path that does not begin with '/' (got %q)", entry)
		default:
			s.Files = append(s.Files, NameDir+"/"+entry)
		}
	}
	for _, glob := range s.Files {
		if _, err := path.Match(glob, ""); err != nil {
			return s, fmt.Errorf("%w (got %q)", err, glob)
		}
	}
	return s, nil
}

// OnlySelf reports whether there is nothing to look for.
func (s *Selection) OnlySelf() bool { return !s.All && len(s.Files) == 0 }

// A Namespace is a network namespace that a name or a process keeps alive.
type Namespace struct {
	// Name is the name of its file, else "pid:" and a process that is in it, else
	// "inode:" and its number; "" for the process's own. It stays as long as it can.
	Name  string
	Inode uint64
	Path  string // that stands for it now
	pid   int    // that Name is about, 0 when it is a file's
}

// Own reports whether it is the process's own.
func (n *Namespace) Own() bool { return n.Name == "" }

// gone reports whether the file by which the namespace was found last shows that it is not
// there any more. An error that says nothing of it, such as a lack of memory, does not: the
// links of a namespace that is there must not be taken for gone.
func (n *Namespace) gone() bool {
	inode, err := inodeOf(n.Path)
	if err == nil {
		return inode != n.Inode
	}
	return errors.Is(err, errNoNamespace) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// A Missed is something that may be a namespace and could not be looked at.
type Missed struct {
	What string // a path, or "/proc"
	Err  error
}

// A Finder finds namespaces, and waits for them to come and go. Names come and go
// by mounts, of which the kernel tells (poll(2) of /proc/self/mountinfo): inotify
// sees the file, but not that it has begun to stand for a namespace. The end of a
// process that a namespace is called after is told too (pidfd_open(2)).
type Finder struct {
	sel   Selection
	own   uint64
	found map[uint64]Namespace // by the last Find

	epoll   *os.File
	mounts  *os.File // in the epoll, to wake who waits
	changed *os.File // the same once more, in no epoll, to tell who was not waiting
	pidfds  map[int]int
}

// OwnNamespace returns the inode of the calling process's network namespace.
func OwnNamespace() (inode uint64, err error) { return inodeOf("/proc/self/ns/net") }

// NewFinder returns a Finder, which the caller closes.
func NewFinder(sel Selection) (*Finder, error) {
	own, err := inodeOf("/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("network namespaces: %w", err)
	}
	f := &Finder{sel: sel, own: own, found: map[uint64]Namespace{}, pidfds: map[int]int{}}
	if sel.OnlySelf() {
		return f, nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true) // so that the runtime can wait for it
	}
	if err != nil {
		return nil, fmt.Errorf("network namespaces: %w", os.NewSyscallError("epoll_create1", err))
	}
	f.epoll = os.NewFile(uintptr(fd), "epoll")
	if f.mounts, err = openMounts(); err == nil {
		err = f.watch(int(f.mounts.Fd()), unix.EPOLLPRI)
	}
	if err == nil {
		f.changed, err = openMounts()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("network namespaces: %w", err)
	}
	return f, nil
}

// openMounts opens what tells of each change of the mounts once, to the first who looks at
// this open file. Package os would have Go's poller look at it.
func openMounts() (*os.File, error) {
	const name = "/proc/self/mountinfo"
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// mountsChanged reports whether the mounts have changed since it was last called.
func (f *Finder) mountsChanged() bool {
	fds := []unix.PollFd{{Fd: int32(f.changed.Fd()), Events: unix.POLLPRI}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// Close ends the Finder. Nothing may be under way on it.
func (f *Finder) Close() {
	for _, fd := range f.pidfds {
		_ = unix.Close(fd)
	}
	for _, file := range []*os.File{f.mounts, f.changed, f.epoll} {
		if file != nil {
			_ = file.Close()
		}
	}
}

func (f *Finder) watch(fd int, events uint32) error {
	var err error
	raw, controlErr := f.epoll.SyscallConn()
	if controlErr != nil {
		return controlErr
	}
	controlErr = raw.Control(func(epoll uintptr) {
		err = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
	})
	return errors.Join(controlErr, os.NewSyscallError("epoll_ctl", err))
}

// Wait returns nil when namespaces may have come or gone, also when that was before the call,
// and the context's error when that ends. It may be called while Find runs.
func (f *Finder) Wait(ctx context.Context) error {
	raw, err := f.epoll.SyscallConn()
	if err != nil {
		return err
	}
	err = interruptible(ctx, f.epoll, func() error {
		return raw.Read(func(fd uintptr) bool {
			var events [16]unix.EpollEvent
			n, _ := unix.EpollWait(int(fd), events[:], 0)
			// What the epoll is told of the mounts Go's poller uses up, since it looks
			// through it, whether or not somebody waits.
			return f.mountsChanged() || n > 0
		})
	})
	if err == nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Find returns the selected namespaces that are there, the process's own first and
// then by name, and what could not be looked at. When it cannot look at all, as
// without a free file descriptor, those are there that were: nothing is known of them.
func (f *Finder) Find() (found []Namespace, missed []Missed) {
	s := f.search()
	// Files and processes are looked at one after the other. A namespace that got
	// another name meanwhile may have had it too late to be listed, and lost the one
	// that was: it is gone when it is missed twice.
	before := slices.Collect(maps.Keys(f.found))
	for try := 1; try < findTries && !s.has(before); try++ {
		before = slices.Collect(maps.Keys(s.byInode))
		s = f.search()
	}
	for _, n := range f.found {
		if s.byInode[n.Inode] == nil && !n.Own() && !n.gone() {
			s.at(n.Inode).files = []string{n.Path}
		}
	}
	if !s.blind || len(f.found) == 0 {
		f.found = s.name(f.found)
		f.followProcesses()
	}
	found = slices.SortedFunc(maps.Values(f.found), func(a, b Namespace) int { return cmp.Compare(a.Name, b.Name) })
	return found, s.missed
}

// findTries bounds how often Find looks at namespaces that come and go meanwhile.
const findTries = 4

func (f *Finder) search() *search {
	s := &search{Finder: f, byInode: map[uint64]*candidate{f.own: {}}}
	for _, glob := range f.sel.Files {
		s.files(glob)
	}
	s.processes()
	if !f.sel.Self && !s.byInode[f.own].named {
		delete(s.byInode, f.own)
	}
	return s
}

// followProcesses has Wait told of the ends of the processes that namespaces are
// called after.
func (f *Finder) followProcesses() {
	called := map[int]Namespace{}
	for _, n := range f.found {
		if n.pid != 0 {
			called[n.pid] = n
		}
	}
	for pid, fd := range f.pidfds {
		if _, ok := called[pid]; !ok {
			_ = unix.Close(fd) // and so it leaves the epoll
			delete(f.pidfds, pid)
		}
	}
	for pid := range called {
		if _, ok := f.pidfds[pid]; ok {
			continue
		}
		// Without (Linux before 5.3, or the process is gone) the next Find notices it.
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			if f.watch(fd, unix.EPOLLIN|unix.EPOLLONESHOT) != nil {
				_ = unix.Close(fd)
				continue
			}
			f.pidfds[pid] = fd
		}
	}
}

// search is one look at all files and processes.
type search struct {
	*Finder
	byInode map[uint64]*candidate
	missed  []Missed
	blind   bool // it could not look: what it has not found may be there
}

func (s *search) has(inodes []uint64) bool {
	return !slices.ContainsFunc(inodes, func(inode uint64) bool { return s.byInode[inode] == nil })
}

// candidate is what is known of a namespace: the files and processes that keep it.
type candidate struct {
	named bool // by a file that was asked for
	files []string
	pids  []int
}

func (s *search) at(inode uint64) *candidate {
	c := s.byInode[inode]
	if c == nil {
		c = new(candidate)
		s.byInode[inode] = c
	}
	return c
}

// files looks at the files that a glob matches. One that was named and is not
// there is said; what stands for no namespace in a directory of them is one that
// is just being made, or was left behind.
func (s *search) files(glob string) {
	matches, _ := filepath.Glob(glob) // checked
	if matches == nil && !strings.ContainsAny(glob, `*?[\`) {
		matches = []string{glob}
	}
	for _, file := range matches {
		inode, err := inodeOf(file)
		switch {
		case err == nil:
			c := s.at(inode)
			c.named = true
			c.files = append(c.files, file)
		case file == glob || errors.Is(err, fs.ErrPermission) || Passes(err):
			s.blind = s.blind || Passes(err)
			s.missed = append(s.missed, Missed{file, err})
		}
	}
}

// processes looks at the namespaces of all processes, if they are asked for. That a
// directory can be opened is tried in any case: to [filepath.Glob] one that cannot
// is empty.
func (s *search) processes() {
	proc, err := os.Open("/proc")
	var names []string
	if err == nil {
		defer proc.Close()
		if s.sel.All {
			names, err = proc.Readdirnames(0)
		}
	}
	if err != nil {
		s.blind = true
		s.missed = append(s.missed, Missed{"/proc", err})
	}
	if s.sel.All && err == nil && hidesProcesses() {
		s.missed = append(s.missed, Missed{"/proc", errHidden})
	}
	denied := false
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() { // we enter namespaces, and do not count
			continue
		}
		target, err := os.Readlink("/proc/" + name + "/ns/net")
		denied = denied || errors.Is(err, fs.ErrPermission)
		s.blind = s.blind || Passes(err)
		if err != nil { // it may have ended
			continue
		}
		digits := strings.TrimSuffix(strings.TrimPrefix(target, "net:["), "]")
		if inode, err := strconv.ParseUint(digits, 10, 64); err == nil {
			c := s.at(inode)
			c.pids = append(c.pids, pid)
		}
	}
	if denied {
		s.missed = append(s.missed, Missed{"/proc", fmt.Errorf("some processes' namespaces cannot be looked at: %w", fs.ErrPermission)})
	}
}

// name gives every namespace a name of its own: the one that it has as long as
// that holds, else the first that no other has.
func (s *search) name(last map[uint64]Namespace) map[uint64]Namespace {
	named := make(map[uint64]Namespace, len(s.byInode))
	taken := map[string]bool{}
	give := func(inode uint64, n Namespace) bool {
		if _, ok := named[inode]; ok || taken[n.Name] {
			return ok
		}
		n.Inode = inode
		named[inode], taken[n.Name] = n, true
		return true
	}
	inodes := slices.Sorted(maps.Keys(s.byInode))
	for _, inode := range inodes {
		names := s.names(inode)
		for _, n := range names {
			if before, ok := last[inode]; ok && before.Name == n.Name && (n.pid == 0 || names[0].pid != 0) { // a file's name is better
				give(inode, n)
			}
		}
	}
	for _, inode := range inodes {
		for _, n := range s.names(inode) {
			if give(inode, n) {
				break
			}
		}
	}
	return named
}

// names returns what a namespace may be called, the best first.
func (s *search) names(inode uint64) (names []Namespace) {
	if inode == s.own {
		return []Namespace{{Path: "/proc/self/ns/net"}}
	}
	c := s.byInode[inode]
	pids := slices.Sorted(slices.Values(c.pids))
	for _, file := range c.files {
		name := path.Base(file)
		var pid int
		if n, err := fmt.Sscanf(file, "/proc/%d/ns/net", &pid); n == 1 && err == nil {
			pids = append(pids, pid)
		} else if !strings.HasPrefix(file, "/proc/") && utf8.ValidString(name) {
			names = append(names, Namespace{Name: name, Path: file})
		}
	}
	for _, pid := range pids {
		names = append(names, Namespace{Name: fmt.Sprint("pid:", pid), Path: fmt.Sprintf("/proc/%d/ns/net", pid), pid: pid})
	}
	for _, file := range c.files {
		names = append(names, Namespace{Name: fmt.Sprint("inode:", inode), Path: file})
	}
	return names
}

// inodeOf returns the inode of the namespace that a file stands for. The kernel has
// all namespaces on one device (nsfs), so that one look tells what the file is and
// which: between two, the mount that makes it a namespace may end.
func inodeOf(file string) (uint64, error) {
	var own, stat unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &own); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: "/proc/self/ns/net", Err: err}
	}
	if err := unix.Stat(file, &stat); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: file, Err: err}
	}
	if stat.Dev != own.Dev {
		return 0, fmt.Errorf("%s: %w", file, errNoNamespace)
	}
	return stat.Ino, nil
}

var errNoNamespace = errors.New("is no namespace")
