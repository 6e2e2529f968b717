package vm

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ifacebridge/test/netnstest"
)

// attach has a program that passes every packet on look at a link, in one of the ways that
// there are (XDP_FLAGS_*).
func attach(t *testing.T, name string, way uint32) {
	t.Helper()
	link, err := net.InterfaceByName(name)
	must(t, err)
	program := loadProgram(t)
	defer unix.Close(program)
	ae := netlink.NewAttributeEncoder()
	ae.Int32(unix.IFLA_XDP_FD, int32(program))
	ae.Uint32(unix.IFLA_XDP_FLAGS, way)
	nest, err := ae.Encode()
	must(t, err)
	k, err := netnstest.Here()
	must(t, err)
	defer k.Close()
	must(t, k.SetBytes(int32(link.Index), unix.IFLA_XDP|unix.NLA_F_NESTED, nest))
}

// loadProgram returns the descriptor of a program that returns XDP_PASS (bpf(2)).
func loadProgram(t *testing.T) int {
	t.Helper()
	instructions := [2]uint64{0x2_0000_00b7, 0x95} // r0 = 2; exit
	license := []byte("GPL\x00")
	attr := struct {
		typ, count            uint32
		instructions, license uint64
		_                     [24]byte
	}{unix.BPF_PROG_TYPE_XDP, uint32(len(instructions)), address(&instructions[0]), address(&license[0]), [24]byte{}}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&instructions)
	runtime.KeepAlive(&license)
	if errno != 0 {
		t.Fatalf("bpf: %v", errno)
	}
	return int(fd)
}

func address[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

// serialCAN makes a CAN controller of a terminal, which is the one kind of them that needs no
// hardware. It is there until the test ends.
func serialCAN(t *testing.T) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { master.Close() })
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	terminal, err := os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { terminal.Close() })
	const slcan = 17 // N_SLCAN (include/uapi/linux/tty.h)
	must(t, unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSETD, slcan))
}
