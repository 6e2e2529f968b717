package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ifacebridge/test/netnstest"
)

// needed is what has to be installed here: Debian's packages of these names.
var needed = map[string]string{
	"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "ip": "iproute2", "iw": "iw", "depmod": "kmod",
	"xz": "xz-utils", "apt-get": "apt", "dpkg-deb": "dpkg",
}

func TestMain(m *testing.M) { netnstest.Summarize(func() { m.Run() }) }

// The tests of this package that are called TestGuest…, on Debian's kernels. IFACE_TEST_VM says
// on which: stable, backports, both (stable,backports), or none of them, which is the default
// unless vm is required. IFACE_TEST_VM_RUN says which of the tests: Kinds, for TestGuestKinds.
func TestKernels(t *testing.T) {
	if os.Getenv("IFACE_VM_GUEST") != "" {
		t.Skip("this is the guest")
	}
	needs(t)
	for _, suite := range suites(t) {
		t.Run(suite, func(t *testing.T) {
			boot(t, fetch(t, suite))
		})
	}
}

// needs skips a test where a machine cannot be emulated.
func needs(t *testing.T) {
	t.Helper()
	for program, pkg := range needed {
		if _, err := exec.LookPath(program); err != nil {
			netnstest.Skip(t, "vm", fmt.Sprintf("%v (Debian's package %s)", err, pkg))
		}
	}
}

// suites are the parts of Debian of which the kernels are tested.
func suites(t *testing.T) []string {
	switch wanted := os.Getenv("IFACE_TEST_VM"); {
	case wanted != "":
		return strings.Split(wanted, ",")
	case netnstest.Required("vm"):
		return []string{"backports"}
	}
	netnstest.Skip(t, "vm", "IFACE_TEST_VM=stable,backports boots Debian's kernels in an emulated machine, "+
		"which takes minutes")
	return nil
}

// A system is what a guest is made of.
type system struct {
	release string // of the kernel
	kernel  string // its image
	modules string // the folder below which /lib/modules is
	ip      string
}

// boot runs the guest's tests on a kernel, and fails with them.
func boot(t *testing.T, s system) {
	image := initramfs(t, kernelScript, s.ip, func(root string) { modules(t, s, root) })
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	// Emulated, also where there is a /dev/kvm: what is behind one in a virtual machine may
	// stop at an instruction (6.12 checks its own with one of AVX at boot) and never go on.
	console, err := os.Create(filepath.Join(t.TempDir(), "console"))
	must(t, err)
	defer console.Close()
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-smp", "1",
		"-nographic", "-no-reboot", "-nic", "none", "-kernel", s.kernel, "-initrd", image,
		"-append", "console=ttyS0 quiet loglevel=3 panic=-1 IFACE_TEST_VM_RUN="+os.Getenv("IFACE_TEST_VM_RUN"))
	qemu.Stdout, qemu.Stderr = console, console
	began := time.Now()
	err = qemu.Run()
	text := strings.ReplaceAll(readFile(t, console.Name()), "\r", "")
	if i := strings.Index(text, "=== RUN"); i >= 0 {
		text = text[i:]
	}
	t.Logf("kernel %s, %v:\n%s", s.release, time.Since(began).Round(time.Second), text)
	switch {
	case err != nil:
		t.Errorf("qemu: %v", err)
	case !strings.Contains(text, "\nGUEST PASS\n"):
		t.Error("the guest's tests did not pass")
	case strings.Contains(text, "--- SKIP"):
		t.Error("the guest skipped a test")
	}
}

// initramfs makes the guest's file system: busybox, ip, the bridge, this test binary, what
// adds puts there, such as the kernel's modules, and what is run. Its path is returned.
func initramfs(t *testing.T, script, ip string, adds func(root string)) string {
	root := t.TempDir()
	for _, dir := range []string{"bin", "proc", "sys", "dev", "tmp", "run", "etc", "lib/modules"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	run(t, "", "cp", "-L", path(t, "busybox"), root+"/bin/busybox")
	for _, tool := range []string{
		"sh", "mount", "mkdir", "modprobe", "insmod", "poweroff", "sleep", "cat", "ifconfig", "ls", "dmesg",
	} {
		must(t, os.Symlink("busybox", filepath.Join(root, "bin", tool)))
	}
	must(t, os.Symlink("bin", filepath.Join(root, "sbin")))
	withLibraries(t, root, ip, "/bin/ip")
	withLibraries(t, root, path(t, "iw"), "/bin/iw")
	build(t, root+"/bin/ifacebridge", "build", "ifacebridge/cmd/ifacebridge")
	build(t, root+"/guest", "test", "-c", "ifacebridge/test/vm")
	adds(root)
	must(t, os.WriteFile(root+"/init", []byte(bootScript+script+"poweroff -f\n"), 0o755))
	out := filepath.Join(t.TempDir(), "initrd")
	must(t, writeCPIO(out, root))
	return out
}

// bootScript is what every guest begins with; behind it comes what it is there for.
const bootScript = `#!/bin/sh
export PATH=/bin HOME=/tmp/home TMPDIR=/tmp IFACE_VM_GUEST=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mkdir -p /run/netns /tmp/home
ip link set lo up
`

const kernelScript = `
if /guest -test.v -test.run "^TestGuest$IFACE_TEST_VM_RUN" -test.timeout 14m; then echo; echo "GUEST PASS"; fi
`

// modules copies the kernel's network modules, all that they need, unpacked.
func modules(t *testing.T, s system, root string) {
	from := filepath.Join(s.modules, "lib/modules", s.release)
	to := filepath.Join(root, "lib/modules", s.release)
	for _, dir := range []string{
		"drivers/net", "net", "lib", "crypto", "arch/x86/crypto", "drivers/virtio", "drivers/tty", "drivers/char",
		"drivers/ptp", "drivers/pps", "drivers/base/regmap", "drivers/rfkill", "fs/fuse",
	} {
		if _, err := os.Stat(filepath.Join(from, "kernel", dir)); err != nil {
			continue
		}
		must(t, os.MkdirAll(filepath.Join(to, "kernel", filepath.Dir(dir)), 0o755))
		run(t, "", "cp", "-a", filepath.Join(from, "kernel", dir), filepath.Join(to, "kernel", dir))
	}
	for _, heavy := range []string{
		"drivers/net/ethernet", "drivers/net/usb", "drivers/net/phy", "drivers/net/dsa", "net/sctp", "net/ceph",
		"net/rds", "net/sunrpc", "drivers/net/fddi", "drivers/net/arcnet", "drivers/net/hamradio",
	} {
		must(t, os.RemoveAll(filepath.Join(to, "kernel", heavy)))
	}
	wireless, _ := filepath.Glob(filepath.Join(to, "kernel/drivers/net/wireless/*"))
	for _, vendor := range wireless {
		if !strings.Contains(filepath.Base(vendor), "hwsim") && !strings.Contains(filepath.Base(vendor), "virtual") {
			must(t, os.RemoveAll(vendor))
		}
	}
	run(t, to, "sh", "-c", "find . -name '*.ko.xz' -exec xz -d {} +")
	for _, file := range []string{"modules.builtin", "modules.order", "modules.builtin.modinfo"} {
		run(t, "", "cp", filepath.Join(from, file), to)
	}
	run(t, "", "depmod", "-b", root, s.release)
}

// withLibraries copies a program and the shared libraries that it needs.
func withLibraries(t *testing.T, root, program, as string) {
	run(t, "", "cp", "-L", program, filepath.Join(root, as))
	for _, library := range regexp.MustCompile(`/\S+\.so\S*`).FindAllString(run(t, "", "ldd", program), -1) {
		must(t, os.MkdirAll(filepath.Join(root, filepath.Dir(library)), 0o755))
		run(t, "", "cp", "-L", library, filepath.Join(root, library))
	}
}

// build runs go without cgo, so that what it makes needs no libraries.
func build(t *testing.T, out string, args ...string) {
	cmd := exec.Command("go", append(args[:len(args)-1:len(args)-1], "-o", out, args[len(args)-1])...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, text)
	}
}

func path(t *testing.T, program string) string {
	p, err := exec.LookPath(program)
	must(t, err)
	return p
}

func run(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
