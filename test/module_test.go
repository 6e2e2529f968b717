package test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// commandIn runs a command in a folder, and returns what it printed. There is no network: what
// Go needs is in its cache since these tests were compiled, and was verified then.
func commandIn(t testing.TB, dir string, command string, args ...string) string {
	t.Helper()
	cmd := exec.Command(command, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOPROXY=off", "GONOSUMDB=*")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", command, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

// Another module, beside a checkout, with the README's commands and its program.
func TestAnotherModule(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	checkout, err := filepath.Abs("..")
	must(t, err)
	must(t, os.Symlink(checkout, filepath.Join(dir, "ifacebridge")))
	own := filepath.Join(dir, "links")
	must(t, os.Mkdir(own, 0o755))
	must(t, os.WriteFile(filepath.Join(own, "main.go"), []byte(codeBlocks(readme(t), "go")[0]), 0o644))
	commandIn(t, own, "go", "mod", "init", "example.com/links")
	ran := 0
	for line := range strings.Lines(strings.Join(codeBlocks(readme(t), "sh"), "")) {
		if strings.HasPrefix(line, "go mod ") || strings.HasPrefix(line, "go get ") {
			commandIn(t, own, "/bin/sh", "-c", line)
			ran++
		}
	}
	if ran < 2 {
		t.Errorf("the README has %d commands for another module", ran)
	}
	commandIn(t, own, "go", "build", "-o", os.DevNull, ".")
	// What it gets is a client of NATS, and not what only the bridge is made of.
	modules := commandIn(t, own, "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", ".")
	for module := range strings.FieldsSeq(modules) {
		if strings.Contains(module, "nats-server") || strings.Contains(module, "prometheus") {
			t.Errorf("it gets %s", module)
		}
	}
}

// tree returns the files of a checkout, without what is hidden or made in it.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d.IsDir() && path != dir && (d.Name() == "dist" || d.Name()[0] == '.') {
			return filepath.SkipDir
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir+"/")] = string(text)
		return err
	}))
	return files
}

// deploy/rename.sh, on a copy, which compiles then; there is no import left with the old
// name, and the way back leads to what was before.
func TestRename(t *testing.T) {
	t.Parallel()
	was := tree(t, "..")
	copied := t.TempDir()
	for path, text := range was {
		must(t, os.MkdirAll(filepath.Join(copied, filepath.Dir(path)), 0o755))
		must(t, os.WriteFile(filepath.Join(copied, path), []byte(text), 0o755))
	}
	module := strings.TrimSpace(commandIn(t, "..", "go", "list", "-m"))
	image := regexp.MustCompile(`(?m)^ *image: (.*)$`).FindStringSubmatch(was["deploy/kubernetes/base/daemonset.yaml"])[1]
	const newModule, newImage = "git.example.org/~net/if.bridge", "registry.example.org:5000/net/if-bridge"
	commandIn(t, copied, "deploy/rename.sh", newModule, newImage)

	// It compiles, and links nothing.
	commandIn(t, copied, "go", "list", "-export", "./...")
	for _, path := range strings.Fields(commandIn(t, copied, "go", "list", "-test", "-deps", "./...")) { // all tests, too
		if strings.HasPrefix(path, module+"/") {
			t.Errorf("it still needs %s", path)
		}
	}
	renamed := tree(t, copied)
	for path, text := range renamed { // also of the modules for themselves
		if strings.Contains(text, `"`+module+"/") {
			t.Errorf("%s still imports %s", path, module)
		}
	}
	for path, lines := range map[string][]string{
		"deploy/kubernetes/base/daemonset.yaml":     {" image: " + newImage + "\n"},
		"deploy/kubernetes/base/kustomization.yaml": {" - name: " + newImage + "\n"},
		"docker-compose.yml":                        {"image: ${IFACEBRIDGE_IMAGE:-" + newImage + "}\n"},
		"docs/deploying.md":                         {" - name: " + newImage + "\n", "docker build -t " + newImage + " .\n"},
		"tools/go.mod":                              {"module " + newModule + "/tools\n"},
		"README.md": {
			"\"" + newModule + "/fleet\"\n", "-replace=" + newModule + "=../",
			"go get " + newModule + "/fleet " + newModule + "/schema\n",
		},
	} {
		for _, line := range lines {
			if !strings.Contains(renamed[path], line) {
				t.Errorf("%s has no %q", path, line)
			}
		}
	}
	if unformatted := commandIn(t, copied, "gofmt", "-l", "."); unformatted != "" {
		t.Errorf("not gofmt-ed: %s", unformatted)
	}
	commandIn(t, copied, "deploy/rename.sh", module, image)
	for path, text := range tree(t, copied) {
		if text != was[path] {
			t.Errorf("%s is not what it was", path)
		}
	}
	for _, args := range [][]string{{}, {"no module"}, {"example.com/m", "an image"}} {
		cmd := exec.Command("deploy/rename.sh", args...)
		cmd.Dir = copied
		if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 {
			t.Errorf("rename.sh %q: %v\n%s", args, err, out)
		}
	}
}
