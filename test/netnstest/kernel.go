package netnstest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Kernel changes the links of one network namespace. Its methods return when
// the kernel has done it, and so has sent its notifications. Names may hold any
// bytes that the kernel takes. It is not safe for concurrent use.
type Kernel struct {
	Path string // a file that stands for the namespace, such as /proc/4711/ns/net
	File *os.File
	conn *netlink.Conn
}

// New returns the links of a new, empty network namespace, which goes with the
// test. It skips when the process is not allowed to make one.
func New(t testing.TB) *Kernel {
	t.Helper()
	need(t)
	k, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func need(t testing.TB) {
	t.Helper()
	if state := os.Getenv(inside); state != "yes" {
		Skip(t, "netns", "no user and network namespace: "+state)
	}
	if missing := missingKinds(); len(missing) > 0 {
		Skip(t, missing[0], "the kernel makes no links of this kind")
	}
}

// missingKinds are those of the links that nearly all tests make which the kernel does not.
var missingKinds = sync.OnceValue(func() []string { return Unsupported("bridge", "ifb", "veth") })

// Unsupported returns those of the kinds of which the kernel makes no links.
func Unsupported(kinds ...string) (missing []string) {
	k, err := Open()
	if err != nil {
		return nil // New fails for the same reason, and tells it
	}
	defer k.Close()
	for _, kind := range kinds {
		if !k.Supports(Kind{Name: kind}) {
			missing = append(missing, kind)
		}
	}
	return missing
}

// Parallel has the test run beside others, in a network namespace of its own, and
// returns the links of that. The test's goroutine is there from then on, with all
// processes that it starts and all sockets that it opens; what other goroutines open
// is not (see [Where]). Subtests are not there either.
func Parallel(t *testing.T) *Kernel {
	t.Helper()
	need(t)
	t.Parallel()
	k := New(t)
	if err := errors.Join(k.Enter(), k.Up(1)); err != nil {
		t.Fatal(err)
	}
	return k
}

// Own returns the links of the namespace that the test process itself is in, and
// in which the servers and bridges run that it starts. All links but the loopback
// are deleted after the test. It is for tests that look at all namespaces, or at
// their names: those run alone, before the ones of [Parallel].
func Own(t testing.TB) *Kernel {
	t.Helper()
	need(t)
	k, err := Here()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.DeleteAll(); err != nil {
			t.Error(err)
		}
		k.Close()
	})
	return k
}

// Here returns the links of the namespace that the calling goroutine is in, whatever
// that is. The caller closes it, and deletes what it makes.
func Here() (*Kernel, error) {
	file, err := os.Open(here)
	if err != nil {
		return nil, err
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		file.Close()
		return nil, err
	}
	return &Kernel{Path: here, File: file, conn: conn}, nil
}

// DeleteAll deletes every link that can be deleted.
func (k *Kernel) DeleteAll() error {
	indexes, err := k.Indexes()
	for _, index := range indexes {
		_ = k.Delete(index) // the other end of a pair is gone already
	}
	return err
}

// Indexes returns the indexes of all links but the loopback.
func (k *Kernel) Indexes() ([]int32, error) {
	replies, err := k.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, unix.SizeofIfInfomsg),
	})
	var indexes []int32
	for _, reply := range replies {
		var msg rtnetlink.LinkMessage
		_ = msg.UnmarshalBinary(reply.Data[:unix.SizeofIfInfomsg])
		if msg.Type != unix.ARPHRD_LOOPBACK {
			indexes = append(indexes, int32(msg.Index))
		}
	}
	return indexes, err
}

// Open is New for a program: the caller closes it, and needs CAP_SYS_ADMIN.
func Open() (*Kernel, error) {
	file, err := newNamespace()
	if err != nil {
		return nil, err
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: int(file.Fd())})
	if err != nil {
		file.Close()
		return nil, err
	}
	return &Kernel{Path: fmt.Sprintf("/proc/self/fd/%d", file.Fd()), File: file, conn: conn}, nil
}

// Close lets go of the namespace, which goes when nothing else is in it.
func (k *Kernel) Close() {
	k.conn.Close()
	k.File.Close()
}

// NameDir is where `ip netns` looks for the names of namespaces.
const NameDir = "/run/netns"

// SetName gives the namespace a name, as `ip netns attach` does: a file is made,
// and then stands for it.
func (k *Kernel) SetName(name string) error {
	if err := os.MkdirAll(NameDir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(NameDir, name)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	file.Close()
	return os.NewSyscallError("mount", unix.Mount(fmt.Sprintf("/proc/self/fd/%d", k.File.Fd()), path, "", unix.MS_BIND, ""))
}

// DeleteName takes a name away, as `ip netns delete` does.
func DeleteName(name string) error {
	path := filepath.Join(NameDir, name)
	return errors.Join(os.NewSyscallError("umount2", unix.Unmount(path, unix.MNT_DETACH)), os.Remove(path))
}

// Inode returns the namespace's inode.
func (k *Kernel) Inode() (uint64, error) {
	var stat unix.Stat_t
	err := unix.Fstat(int(k.File.Fd()), &stat)
	return stat.Ino, os.NewSyscallError("fstat", err)
}

// newNamespace makes a namespace in a thread that is thrown away afterwards, so
// that there is nothing to restore.
func newNamespace() (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: fmt.Errorf("unshare network namespace: %w", err)}
			return
		}
		file, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		made <- result{file, err}
	}()
	r := <-made
	return r.file, r.err
}

// loopbackUp sets the process's own loopback link up, for servers on 127.0.0.1.
func loopbackUp() error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err == nil {
		defer conn.Close()
		err = (&Kernel{conn: conn}).SetFlags(1, unix.IFF_UP, true)
	}
	if err != nil {
		return fmt.Errorf("cannot set up its loopback link: %w", err)
	}
	return nil
}

// A Kind writes the attributes of a new link (IFLA_LINKINFO), and which lower
// link it stands on.
type Kind struct {
	Name  string
	Lower int32
	Data  func(*netlink.AttributeEncoder)
}

// Add creates a link and returns its index. On index 0 the kernel chooses one.
func (k *Kernel) Add(name string, index int32, kind Kind) (int32, error) {
	err := k.request(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, rtnetlink.LinkMessage{Index: uint32(index)}, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.IFLA_IFNAME, cString(name))
		if kind.Lower != 0 {
			ae.Uint32(unix.IFLA_LINK, uint32(kind.Lower))
		}
		ae.Nested(unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) error {
			ae.String(unix.IFLA_INFO_KIND, kind.Name)
			if kind.Data != nil {
				ae.Nested(unix.IFLA_INFO_DATA, func(ae *netlink.AttributeEncoder) error { kind.Data(ae); return nil })
			}
			return nil
		})
	})
	if err != nil {
		return 0, fmt.Errorf("add %s %q: %w", kind.Name, name, err)
	}
	return k.Index(name)
}

// AddVeth creates a pair and returns both indexes.
func (k *Kernel) AddVeth(name, peer string) (int32, int32, error) {
	index, err := k.Add(name, 0, VethKind(peer))
	if err != nil {
		return 0, 0, err
	}
	peerIndex, err := k.Index(peer)
	return index, peerIndex, err
}

// VethKind is a veth whose other end is called peer.
func VethKind(peer string) Kind {
	return Kind{Name: "veth", Data: func(ae *netlink.AttributeEncoder) {
		ae.Do(1 /* VETH_INFO_PEER */, func() ([]byte, error) {
			attrs := netlink.NewAttributeEncoder()
			attrs.Bytes(unix.IFLA_IFNAME, cString(peer))
			b, err := attrs.Encode()
			return append(make([]byte, unix.SizeofIfInfomsg), b...), err
		})
	}}
}

// Delete deletes a link.
func (k *Kernel) Delete(index int32) error {
	return k.request(unix.RTM_DELLINK, 0, rtnetlink.LinkMessage{Index: uint32(index)}, nil)
}

// SetFlags sets IFF_* flags, or clears them.
func (k *Kernel) SetFlags(index int32, flags uint32, on bool) error {
	msg := rtnetlink.LinkMessage{Index: uint32(index), Change: flags}
	if on {
		msg.Flags = flags
	}
	return k.request(unix.RTM_NEWLINK, 0, msg, nil)
}

// Up sets the links up.
func (k *Kernel) Up(indexes ...int32) error {
	var errs []error
	for _, index := range indexes {
		errs = append(errs, k.SetFlags(index, unix.IFF_UP, true))
	}
	return errors.Join(errs...)
}

// Rename gives a link another name.
func (k *Kernel) Rename(index int32, name string) error {
	return k.SetBytes(index, unix.IFLA_IFNAME, cString(name))
}

// SetAlias gives a link an alias, or none for "".
func (k *Kernel) SetAlias(index int32, alias string) error {
	return k.SetBytes(index, unix.IFLA_IFALIAS, []byte(alias))
}

// SetBytes sets one attribute of a link.
func (k *Kernel) SetBytes(index int32, typ uint16, value []byte) error {
	return k.set(index, func(ae *netlink.AttributeEncoder) { ae.Bytes(typ, value) })
}

// SetUint32 sets one attribute of a link.
func (k *Kernel) SetUint32(index int32, typ uint16, value uint32) error {
	return k.set(index, func(ae *netlink.AttributeEncoder) { ae.Uint32(typ, value) })
}

// SetUint8 sets one attribute of a link.
func (k *Kernel) SetUint8(index int32, typ uint16, value uint8) error {
	return k.set(index, func(ae *netlink.AttributeEncoder) { ae.Uint8(typ, value) })
}

func (k *Kernel) set(index int32, attrs func(*netlink.AttributeEncoder)) error {
	return k.request(unix.RTM_NEWLINK, 0, rtnetlink.LinkMessage{Index: uint32(index)}, attrs)
}

// AddAltName gives a link one more alternative name.
func (k *Kernel) AddAltName(index int32, name string) error {
	return k.altName(unix.RTM_NEWLINKPROP, netlink.Create|netlink.Append|netlink.Excl, index, name)
}

// DeleteAltName takes an alternative name from a link.
func (k *Kernel) DeleteAltName(index int32, name string) error {
	return k.altName(unix.RTM_DELLINKPROP, 0, index, name)
}

func (k *Kernel) altName(typ netlink.HeaderType, flags netlink.HeaderFlags, index int32, name string) error {
	return k.request(typ, flags, rtnetlink.LinkMessage{Index: uint32(index)}, func(ae *netlink.AttributeEncoder) {
		ae.Nested(unix.IFLA_PROP_LIST, func(ae *netlink.AttributeEncoder) error {
			ae.Bytes(unix.IFLA_ALT_IFNAME, cString(name))
			return nil
		})
	})
}

// Move moves a link to another namespace, on index 0 under an index that the
// kernel chooses.
func (k *Kernel) Move(index int32, to *Kernel, newIndex int32) error {
	return k.set(index, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.IFLA_NET_NS_FD, uint32(to.File.Fd()))
		if newIndex != 0 {
			ae.Uint32(unix.IFLA_NEW_IFINDEX, uint32(newIndex))
		}
	})
}

// Index returns the index of the link with this name.
func (k *Kernel) Index(name string) (int32, error) {
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.IFLA_IFNAME, cString(name))
	replies, err := k.execute(unix.RTM_GETLINK, 0, rtnetlink.LinkMessage{}, ae)
	if err != nil {
		return 0, fmt.Errorf("index of %q: %w", name, err)
	}
	var msg rtnetlink.LinkMessage
	_ = msg.UnmarshalBinary(replies[0].Data[:unix.SizeofIfInfomsg]) // the attributes are nobody's here
	return int32(msg.Index), nil
}

// Running reports whether a link is up and has its carrier. The kernel announces that
// when it finds the time (net/core/link_watch.c): up to a second after the links were set up.
func (k *Kernel) Running(index int32) (bool, error) {
	request := rtnetlink.LinkMessage{Index: uint32(index)}
	replies, err := k.execute(unix.RTM_GETLINK, 0, request, netlink.NewAttributeEncoder())
	if err != nil {
		return false, fmt.Errorf("flags of link %d: %w", index, err)
	}
	var msg rtnetlink.LinkMessage
	_ = msg.UnmarshalBinary(replies[0].Data[:unix.SizeofIfInfomsg])
	return msg.Flags&unix.IFF_RUNNING != 0, nil
}

func (k *Kernel) request(typ netlink.HeaderType, flags netlink.HeaderFlags, msg rtnetlink.LinkMessage, attrs func(*netlink.AttributeEncoder)) error {
	ae := netlink.NewAttributeEncoder()
	if attrs != nil {
		attrs(ae)
	}
	_, err := k.execute(typ, flags|netlink.Acknowledge, msg, ae)
	return err
}

func (k *Kernel) execute(typ netlink.HeaderType, flags netlink.HeaderFlags, msg rtnetlink.LinkMessage, ae *netlink.AttributeEncoder) ([]netlink.Message, error) {
	header, err := msg.MarshalBinary()
	if err != nil {
		return nil, err
	}
	attrs, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	return k.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | flags},
		Data:   append(header, attrs...),
	})
}

func cString(s string) []byte { return append([]byte(s), 0) }

// Supports reports whether the kernel can make links of a kind, by making one.
func (k *Kernel) Supports(kind Kind) bool {
	index, err := k.Add("probe0", 0, kind)
	if err != nil {
		return false
	}
	return k.Delete(index) == nil
}

// Do runs f in a thread that is in the namespace, and throws the thread away.
func (k *Kernel) Do(f func() error) error {
	done := make(chan error)
	go func() {
		if err := k.Enter(); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// Enter puts the calling goroutine's thread into the namespace, for good: the
// thread ends with the goroutine. What it starts is there too.
func (k *Kernel) Enter() error { return enter(k.File) }

func enter(namespace *os.File) error {
	runtime.LockOSThread() // never unlocked
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	return nil
}

// ProcPath is a path of the namespace that other processes can open as well.
func (k *Kernel) ProcPath() string {
	return filepath.Join("/proc", fmt.Sprint(os.Getpid()), "fd", fmt.Sprint(k.File.Fd()))
}
