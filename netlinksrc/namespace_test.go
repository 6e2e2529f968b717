package netlinksrc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/test/harness"
	"ifacebridge/test/netnstest"
)

// A namespace is called after its file, else after a process, keeps its name as long
// as that holds, and never has another's.
func TestNamesOfNamespaces(t *testing.T) {
	blue, docker := "/run/netns/blue", "/var/run/docker/netns/blue"
	tests := []struct {
		name string
		last map[uint64]Namespace
		now  map[uint64]*candidate
		want string
	}{
		{"its own has none", nil, map[uint64]*candidate{1: {files: []string{blue}}}, "1:"},
		{"a file", nil, map[uint64]*candidate{2: {files: []string{blue}, pids: []int{7}}}, "2:blue"},
		{"a process, the oldest", nil, map[uint64]*candidate{2: {pids: []int{9, 7}}}, "2:pid:7"},
		{"a process by its path", nil, map[uint64]*candidate{2: {files: []string{"/proc/7/ns/net"}}}, "2:pid:7"},
		{"a file without a name", nil, map[uint64]*candidate{2: {files: []string{"/proc/7/fd/3"}}}, "2:inode:2"},
		{"a name that JSON cannot say", nil, map[uint64]*candidate{2: {files: []string{"/run/netns/a\xff"}}}, "2:inode:2"},
		{"two of one name", nil, map[uint64]*candidate{2: {files: []string{blue}}, 3: {files: []string{docker}}}, "2:blue 3:inode:3"},
		{"the other had it before", map[uint64]Namespace{3: {Name: "blue"}}, map[uint64]*candidate{2: {files: []string{docker}}, 3: {files: []string{blue}}}, "2:inode:2 3:blue"},
		{"a process that is still there", map[uint64]Namespace{2: {Name: "pid:9"}}, map[uint64]*candidate{2: {pids: []int{7, 9}}}, "2:pid:9"},
		{"a process that is not", map[uint64]Namespace{2: {Name: "pid:8"}}, map[uint64]*candidate{2: {pids: []int{7, 9}}}, "2:pid:7"},
		{"a file is better than a process", map[uint64]Namespace{2: {Name: "pid:7"}}, map[uint64]*candidate{2: {files: []string{blue}, pids: []int{7}}}, "2:blue"},
		{"a second file changes nothing", map[uint64]Namespace{2: {Name: "green"}}, map[uint64]*candidate{2: {files: []string{blue, "/run/netns/green"}}}, "2:green"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := search{Finder: &Finder{own: 1}, byInode: tt.now}
			named := s.name(tt.last)
			got := ""
			for _, inode := range slices.Sorted(maps.Keys(named)) {
				got += fmt.Sprintf(" %d:%s", inode, named[inode].Name)
			}
			if got != " "+tt.want {
				t.Errorf("got%s, want %s", got, tt.want)
			}
		})
	}
}

func newFinder(t *testing.T, list string) *Finder {
	selection, err := ParseSelection(list)
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFinder(selection)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// A name that comes while nobody waits for one, as at the start of a bridge, is told to who
// waits next. Go's poller may have looked in between, which uses up what the epoll is told.
func TestFinderTellsWhatCameBeforeTheWait(t *testing.T) {
	k, f := netnstest.New(t), newFinder(t, "told-*")
	if err := k.SetName("told-0"); err != nil {
		t.Fatal(err)
	}
	readable(int(f.epoll.Fd())) // as Go's poller looks
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	if err := f.Wait(ctx); err != nil {
		t.Error(err)
	}
	if found, _ := f.Find(); len(found) != 1 {
		t.Errorf("found %v", found)
	}
	if err := netnstest.DeleteName("told-0"); err != nil {
		t.Fatal(err)
	}
}

// Without a file descriptor to look with, nothing is gone that was there.
func TestFindWithoutDescriptors(t *testing.T) {
	for _, list := range []string{"blind-*", "all"} {
		t.Run(list, func(t *testing.T) {
			k, f := netnstest.New(t), newFinder(t, list)
			if err := k.SetName("blind-0"); err != nil {
				t.Fatal(err)
			}
			before, _ := f.Find()
			if !slices.ContainsFunc(before, func(n Namespace) bool { return n.Name == "blind-0" }) {
				t.Fatalf("found %v", before)
			}
			var limit unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
				t.Fatal(err)
			}
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Max: limit.Max}); err != nil {
				t.Fatal(err)
			}
			blind, missed := f.Find()
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(blind, before) || len(missed) != 1 {
				t.Errorf("found %v, before %v; missed %v", blind, before, missed)
			}
			if err := netnstest.DeleteName("blind-0"); err != nil {
				t.Fatal(err)
			}
			if now, _ := f.Find(); len(now) != len(before)-1 {
				t.Errorf("found %v, before %v", now, before)
			}
		})
	}
}

// A namespace that was found and always has a name is always found, also when it gets
// another one while the names are looked at.
func TestFindsWhatIsRenamedMeanwhile(t *testing.T) {
	k, f := netnstest.New(t), newFinder(t, "renamed-*")
	inode, err := k.Inode()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.SetName("renamed-0"); err != nil {
		t.Fatal(err)
	}
	f.Find() // from now on it knows what to miss
	// One more rename while Find looks, at any moment of that: two would be enough to
	// be missed by each of its looks.
	once := make(chan struct{})
	var renames sync.WaitGroup
	renames.Go(func() {
		last := "renamed-0"
		for i := 1; ; i++ {
			if _, more := <-once; !more {
				if err := netnstest.DeleteName(last); err != nil {
					t.Error(err)
				}
				return
			}
			name := fmt.Sprint("renamed-", i%16)
			if err := errors.Join(k.SetName(name), netnstest.DeleteName(last)); err != nil {
				t.Error(err)
			}
			last = name
		}
	})
	looks, wrong := 0, 0
	for began := time.Now(); time.Since(began) < time.Second || looks < 100; looks++ {
		once <- struct{}{} // it is waiting, so the one before is over
		if found, _ := f.Find(); len(found) != 1 || found[0].Inode != inode {
			wrong++
			t.Logf("look %d: found %+v, the namespace is %d", looks, found, inode)
		}
	}
	close(once)
	renames.Wait()
	if wrong > 0 {
		t.Errorf("not found, or found as another, %d times of %d", wrong, looks)
	}
}
