package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

type goPackage struct {
	ImportPath, Doc, Dir string
	Imports              []string
}

func packages(t *testing.T, pattern string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Dir,Imports", pattern)
	cmd.Dir = ".."
	out, err := cmd.Output()
	must(t, err)
	var list []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p goPackage
		must(t, dec.Decode(&p))
		list = append(list, p)
	}
	return list
}

// Dependencies run one way: cmd → fleet, bridge → netlinksrc → schema, and schema
// imports nothing but the standard library and its JSON encoder. Of the packages below
// bridge, each may import those that are named, and bridge all of them. They stand here
// in an order in which none imports one that comes later.
func TestDependenciesRunOneWay(t *testing.T) {
	const (
		netlinksrc = "ifacebridge/netlinksrc"
		uapi       = netlinksrc + "/internal/uapi"
		schema     = "ifacebridge/schema"
		fleet      = "ifacebridge/fleet"
		bridge     = "ifacebridge/bridge"
		config     = bridge + "/config"
		doctor     = bridge + "/doctor"
		forget     = bridge + "/forget"
		loop       = bridge + "/internal/loop"
		metrics    = bridge + "/internal/metrics"
		event      = bridge + "/internal/event"
		queue      = bridge + "/internal/queue"
		track      = bridge + "/internal/track"
		spool      = bridge + "/internal/spool"
		natsio     = bridge + "/internal/natsio"
		delivery   = bridge + "/internal/delivery"
		state      = bridge + "/internal/state"
		linktest   = bridge + "/internal/linktest"
	)
	order := []struct {
		path string
		may  []string
	}{
		{schema, nil},
		{uapi, nil},
		{netlinksrc, []string{schema, uapi}},
		{config, []string{netlinksrc, schema}},
		{loop, nil},
		{metrics, nil},
		{event, []string{config, schema}},
		{queue, []string{config, event, loop, metrics, schema}},
		{track, []string{config, event, loop, metrics, netlinksrc, queue, schema}},
		{spool, []string{config, event, loop, metrics, queue, schema}},
		{natsio, []string{config, metrics, schema}},
		{delivery, []string{config, event, metrics, natsio, schema}},
		{state, []string{config, event, loop, metrics, natsio, schema}},
		{linktest, []string{config, event, netlinksrc, queue, schema}}, // for tests
		{doctor, []string{config, natsio, netlinksrc, schema}},
		{forget, []string{config, delivery, event, metrics, natsio, schema, state}},
		{bridge, []string{config, delivery, event, loop, metrics, natsio, netlinksrc, queue, schema, spool, state, track}},
		{fleet, []string{schema}},
		{"ifacebridge/cmd/ifacebridge", []string{bridge, config, doctor, fleet, forget, schema}},
	}
	allowed, before := map[string][]string{}, []string{}
	for _, p := range order {
		allowed[p.path] = p.may
		for _, imported := range p.may {
			if !slices.Contains(before, imported) {
				t.Errorf("%s may import %s, which comes later", p.path, imported)
			}
		}
		before = append(before, p.path)
	}
	found := 0
	for _, p := range packages(t, "./...") {
		may, ok := allowed[p.ImportPath]
		if !ok {
			if !strings.HasPrefix(p.ImportPath, "ifacebridge/test") {
				t.Errorf("%s has no place in the structure", p.ImportPath)
			}
			continue
		}
		found++
		for _, imported := range p.Imports {
			ours := strings.HasPrefix(imported, "ifacebridge/")
			if ours && !slices.Contains(may, imported) {
				t.Errorf("%s imports %s", p.ImportPath, imported)
			}
			if !ours && strings.Contains(imported, "nats") &&
				(strings.HasSuffix(p.ImportPath, "netlinksrc") || strings.HasSuffix(p.ImportPath, "schema")) {
				t.Errorf("%s knows NATS: it imports %s", p.ImportPath, imported)
			}
			if p.ImportPath == "ifacebridge/schema" && strings.Contains(imported, ".") &&
				!strings.HasPrefix(imported, "github.com/go-json-experiment/json") {
				t.Errorf("schema imports %s", imported)
			}
			// recvmmsg(2) has no wrapper in x/sys, and a system call takes a pointer.
			if imported == "unsafe" && p.ImportPath != "ifacebridge/netlinksrc" {
				t.Errorf("%s imports unsafe", p.ImportPath)
			}
		}
	}
	if found != len(allowed) {
		t.Errorf("found %d of %d packages", found, len(allowed))
	}
}

// What only tests need is no module that a consumer's module graph gets: the libraries
// of those who read our manifests and documents, plots, and the linter are required by
// modules of their own.
func TestModulesThatOnlyTestsNeed(t *testing.T) {
	requirements, err := os.ReadFile("../go.mod")
	must(t, err)
	for line := range strings.Lines(string(requirements)) {
		for _, other := range []string{"k8s.io/", "compose-spec", "gonum.org", "yaml", "honnef.co"} {
			if strings.Contains(line, other) {
				t.Errorf("go.mod has %s", line)
			}
		}
	}
}

// testNames are the tests that there are, in all modules.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	there := map[string]bool{}
	must(t, filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`).FindAllSubmatch(text, -1) {
			there[string(m[1])] = true
		}
		return err
	}))
	return there
}

// Every test that promises.go names is there.
func TestPromisesHaveTheirTests(t *testing.T) {
	doc, err := os.ReadFile("promises.go")
	must(t, err)
	there := testNames(t)
	named := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(doc), -1)
	for _, name := range named {
		if !there[name] {
			t.Errorf("promises.go names %s, which is not there", name)
		}
	}
	if len(named) < 50 {
		t.Errorf("promises.go names %d tests only", len(named))
	}
}

// Tests wait for a server with harness.Flush: what nats.go has gives up after 10 s, which a busy
// machine may take.
func TestFlushesHavePatience(t *testing.T) {
	bare := regexp.MustCompile(`.*\.Flush\(\).*`)
	must(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") && filepath.Dir(path) != "harness" {
			return err
		}
		text, err := os.ReadFile(path)
		for _, line := range bare.FindAll(text, -1) {
			t.Errorf("%s: %s", path, line)
		}
		return err
	}))
}

// Every package says what it is for.
func TestPackageComments(t *testing.T) {
	for _, p := range packages(t, "./...") {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// An address on the web that a file names is somebody's, or reserved for examples.
func TestAddressesHaveAnOwner(t *testing.T) {
	for _, found := range strayAddresses(t, "..") {
		t.Error(found)
	}

	const nobodys = "https:" + "//nobody.test" // in two, since this file is looked at as well
	dir := t.TempDir()
	for _, path := range []string{"README.md", "ifacebridge", "dist/notes", "node_modules/nats/README.md",
		".git/config", "python/pyvenv.cfg", "python/lib/nats.py"} {
		text := "see " + nobodys
		if path == "ifacebridge" { // as docs/deploying.md builds it
			text += "\x00"
		}
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o600))
	}
	if want, got := []string{dir + "/README.md: " + nobodys}, strayAddresses(t, dir); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// strayAddresses are the files below a folder and the addresses in them that are nobody's. What
// is built or installed there, as the documentation has it, is not ours.
func strayAddresses(t *testing.T, dir string) (found []string) {
	t.Helper()
	const owned = `127\.0\.0\.1|localhost|h|host|%s|([a-z-]+\.)*example\.com|` +
		`docs\.nats\.io|json-schema\.org|www\.w3\.org|github\.com`
	known := regexp.MustCompile(`^https?://(` + owned + `)$`)
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != dir && installed(path) {
			return filepath.SkipDir
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.IndexByte(text, 0) >= 0 { // a program, or a picture
			return err
		}
		for _, m := range regexp.MustCompile(`(https?://[\w.%-]+)(/ifacebridge\b)?`).FindAllSubmatch(text, -1) {
			if !known.Match(m[1]) || len(m[2]) > 0 {
				found = append(found, fmt.Sprintf("%s: %s", path, m[0]))
			}
		}
		return err
	}))
	return found
}

// installed reports whether a folder holds what was made here, or is not ours: a release, Git's
// and editors' files, packages of npm, an environment of Python.
func installed(dir string) bool {
	name := filepath.Base(dir)
	_, err := os.Stat(filepath.Join(dir, "pyvenv.cfg"))
	return name == "dist" || name == "node_modules" || name[0] == '.' || err == nil
}
