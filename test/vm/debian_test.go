package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ifacebridge/test/netnstest"
)

// fetch gets the newest kernel of a part of Debian, and the ip that goes with it. What was
// fetched is kept in the user's cache folder.
func fetch(t *testing.T, suite string) system {
	cache := cacheFolder(t)
	defer lock(t, cache)()
	apt := newDebian(t, cache, suite)
	image := apt.dependency("linux-image-amd64", `linux-image-\S*[0-9]\S*-?amd64\S*`)
	files := apt.unpack(image)
	kernels, _ := filepath.Glob(filepath.Join(files, "boot/vmlinuz-*"))
	if len(kernels) != 1 {
		t.Fatalf("%s has the kernels %v", image, kernels)
	}
	s := system{kernel: kernels[0], release: strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-"), modules: files}
	if _, err := os.Stat(filepath.Join(files, "lib/modules")); err != nil {
		s.modules = filepath.Join(files, "usr")
	}
	if s.ip = path(t, "ip"); suite == "backports" {
		tools := apt.unpack("iproute2")
		if s.ip = filepath.Join(tools, "bin/ip"); !exists(s.ip) {
			s.ip = filepath.Join(tools, "usr/bin/ip")
		}
	}
	return s
}

// cacheFolder is where the files of Debian are kept.
func cacheFolder(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	must(t, err)
	dir := filepath.Join(cache, "ifacebridge-vm")
	must(t, os.MkdirAll(dir, 0o755))
	return dir
}

// lock waits until no other process has a folder locked, and locks it: the tests of another
// checkout fetch to the same. It returns what unlocks it.
func lock(t *testing.T, dir string) (unlock func()) {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	return func() { f.Close() }
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// A debian is apt with a folder of its own, so that nothing on this machine changes.
type debian struct {
	t       *testing.T
	dir     string
	options []string
	release string // what packages are taken from
}

func newDebian(t *testing.T, cache, suite string) *debian {
	codename := regexp.MustCompile(`(?m)^VERSION_CODENAME=(\w+)$`).FindStringSubmatch(readFile(t, "/etc/os-release"))
	if codename == nil {
		netnstest.Skip(t, "vm", "this is not Debian")
	}
	d := &debian{t: t, dir: filepath.Join(cache, codename[1]+"-"+suite), release: codename[1]}
	if suite == "backports" {
		d.release += "-backports"
	}
	for _, dir := range []string{"lists/partial", "archives/partial", "parts"} {
		must(t, os.MkdirAll(filepath.Join(d.dir, dir), 0o755))
	}
	site := regexp.MustCompile(`(?m)^(\S+) ` + codename[1] + `$`).FindStringSubmatch(
		run(t, "", "apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)",
			"Created-By: Packages", "Component: main"))
	if site == nil {
		netnstest.Skip(t, "vm", "apt has no source for "+codename[1])
	}
	sources := ""
	for _, release := range []string{codename[1], d.release} {
		sources += fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n",
			site[1], release)
	}
	if suite != "backports" {
		sources = sources[:len(sources)/2]
	}
	must(t, os.WriteFile(filepath.Join(d.dir, "sources.list"), []byte(sources), 0o644))
	for option, value := range map[string]string{
		"Dir::Etc::sourcelist": "sources.list", "Dir::Etc::sourceparts": "parts",
		"Dir::State::lists": "lists", "Dir::Cache::archives": "archives",
	} {
		d.options = append(d.options, "-o", option+"="+filepath.Join(d.dir, value))
	}
	d.options = append(d.options, "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=",
		"-o", "APT::Sandbox::User=root")
	if out, err := exec.Command("apt-get", append(d.options, "-qq", "update")...).CombinedOutput(); err != nil {
		netnstest.Skip(t, "vm", fmt.Sprintf("apt-get update: %v\n%s", err, out))
	}
	return d
}

// dependency is the package that another one stands for.
func (d *debian) dependency(of, pattern string) string {
	d.t.Helper()
	out := run(d.t, "", "apt-cache", append(d.options, "-t", d.release, "show", of)...)
	first, _, _ := strings.Cut(out, "\n\n")
	name := regexp.MustCompile(`(?m)^Depends:.*?(` + pattern + `)`).FindStringSubmatch(first)
	if name == nil {
		d.t.Fatalf("%s depends on no %s:\n%s", of, pattern, first)
	}
	return strings.TrimRight(name[1], ",")
}

// unpack downloads a package and returns the folder with its files.
func (d *debian) unpack(name string) string {
	d.t.Helper()
	to := filepath.Join(d.dir, "files", name)
	if exists(to) {
		return to
	}
	download := d.t.TempDir()
	run(d.t, download, "apt-get", append(d.options, "-qq", "-t", d.release, "download", name)...)
	debs, _ := filepath.Glob(filepath.Join(download, "*.deb"))
	if len(debs) != 1 {
		d.t.Fatalf("downloaded %v for %s", debs, name)
	}
	must(d.t, os.MkdirAll(filepath.Dir(to), 0o755))
	part := to + ".part"
	must(d.t, os.RemoveAll(part))
	run(d.t, "", "dpkg-deb", "-x", debs[0], part)
	must(d.t, os.Rename(part, to))
	return to
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}
