package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ifacebridge/test/netnstest"
)

// A newcomer's first steps: the README's commands, one after the other, until the
// change is seen.
func TestFirstSteps(t *testing.T) {
	netnstest.Tool(t, "ip")
	netnstest.Parallel(t)
	began := time.Now()
	b := start(t, []string{"IFACE_HOST=demo"}) // go run ./cmd/ifacebridge
	watch := start(t, nil, "watch")
	var steps []string
	for _, block := range codeBlocks(readme(t), "sh") {
		for line := range strings.Lines(block) {
			if strings.HasPrefix(line, "ip ") {
				steps = append(steps, line)
			}
		}
	}
	eventually(t, "an event of the change", func() bool {
		for _, step := range steps {
			if out, err := exec.Command("/bin/sh", "-c", step).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", step, err, out)
			}
		}
		seen := watch.Output()
		return strings.Contains(seen, `"action":"created"`) && strings.Contains(seen, `"ifname":"veth0"`)
	})
	t.Logf("%d steps; the change is seen %v after the start", len(steps), time.Since(began).Round(time.Millisecond))
	b.Signal(syscall.SIGTERM)
}

// commands says of each command in the guides which test runs it, by how its line
// begins.
var commands = []struct{ begins, test string }{
	{"docker compose up", "TestCompose"},
	{"docker compose exec", "TestCompose"},
	{"ip link ", "TestFirstSteps"},
	{"go run ./cmd/ifacebridge", "TestFirstSteps"},
	{"nats ", "TestRecipesForNATS"},
	{"go test -count=1 ./...", "TestReadme"}, // by itself, while it runs
	{"go mod edit -replace=", "TestAnotherModule"},
	{"go get ", "TestAnotherModule"},
	{"CGO_ENABLED=0 go build -tags noembed ", "TestNoEmbed"},
	{"ifacebridge doctor", "TestDoctor"},
	{"ifacebridge permissions --all-hosts", "TestPermissionsOfAllHosts"},
	{"ifacebridge permissions web01.example.com --nsc", "TestPermissionsWithJWTs"},
	{"ifacebridge forget web01.example.com", "TestForget"},
	{"ifacebridge forget --silent-for ", "TestForgetSilentHosts"},
	{"nsc generate creds ", "TestPermissionsWithJWTs"},
	{"ifacebridge permissions web01.example.com", "TestPermissions"},
	{"IFACE_INBOX_PREFIX=_INBOX_alice ifacebridge permissions --viewer", "TestInboxesAreOnesOwn"},
	{"dpkg -i ", "TestDeb"},
	{"editor /etc/ifacebridge/ifacebridge.env", "TestDeb"},
	{"systemctl enable --now ifacebridge", "TestDeb"},
	{"install -D -m 600 web01.creds /etc/credstore/", "TestDeb"},
	{"kubectl apply -k deploy/kubernetes/base", "TestKustomizations"},
	{"kubectl -n ifacebridge create secret ", "TestKustomizations"},
	{"docker build -t ifacebridge .", "TestImageAuthorities"},
	{"docker run --network host ", "TestImageAuthorities"},
	{"deploy/release.sh ", "TestDeb"},
	{"deploy/rename.sh ", "TestRename"},
}

// testOf returns the test that runs a line of a guide, "" when there is none.
func testOf(line string) string {
	for _, c := range commands {
		if strings.HasPrefix(line, c.begins) {
			return c.test
		}
	}
	return ""
}

// Every command that a guide shows is one that a test runs.
func TestCommandsInGuidesAreRun(t *testing.T) {
	there := testNames(t)
	for _, guide := range []string{"README.md", "docs/deploying.md", "docs/troubleshooting.md"} {
		text, err := os.ReadFile(filepath.Join("..", guide))
		must(t, err)
		for line := range strings.Lines(strings.Join(codeBlocks(string(text), "sh"), "")) {
			if !there[testOf(line)] {
				t.Errorf("%s: no test runs %s", guide, line)
			}
		}
	}
}

// A page that a guide links to, or shows, is there.
func TestLinksInGuides(t *testing.T) {
	guides, err := filepath.Glob("../docs/*.md")
	must(t, err)
	for _, guide := range append(guides, "../README.md") {
		text, err := os.ReadFile(guide)
		must(t, err)
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(guide), string(m[1]))); err != nil {
				t.Errorf("%s: %v", guide, err)
			}
		}
	}
}

// Each message that the program logs as a warning or an error is in the guide that
// says what to do about it, and the guide has no other.
func TestTroubleshootingHasEveryMessage(t *testing.T) {
	guide, err := os.ReadFile("../docs/troubleshooting.md")
	must(t, err)
	var messages []string
	for _, dir := range []string{"bridge", "cmd", "fleet", "netlinksrc"} {
		must(t, filepath.WalkDir(filepath.Join("..", dir), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				messages = append(messages, warnings(t, path)...)
			}
			return err
		}))
	}
	for _, message := range messages {
		if !strings.Contains(string(guide), "| `"+message+"` |") {
			t.Errorf("docs/troubleshooting.md does not have %q", message)
		}
	}
	if len(messages) < 30 {
		t.Errorf("found %d messages only", len(messages))
	}
	_, log, _ := strings.Cut(string(guide), "## The log, line by line")
	log, _, _ = strings.Cut(log, "## Exit status")
	for line := range strings.Lines(log) {
		message, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "` | ")
		if ok && strings.HasPrefix(line, "| `") && !slices.Contains(messages, message) {
			t.Errorf("docs/troubleshooting.md has %q, which nothing logs", message)
		}
	}
}

// warnings returns what a file logs with Warn or Error, and what it has a retrier log
// (Failing): the beginning of each message that is a constant.
func warnings(t *testing.T, path string) (messages []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	must(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		var text ast.Expr
		switch n := n.(type) {
		case *ast.CallExpr:
			method, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || len(n.Args) == 0 || method.Sel.Name != "Warn" && method.Sel.Name != "Error" || !logs(method.X) {
				return true
			}
			text = n.Args[0]
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); !ok || key.Name != "Failing" {
				return true
			}
			text = n.Value
		default:
			return true
		}
		if message, _ := constant(text); message != "" {
			messages = append(messages, message)
		}
		return true
	})
	return messages
}

// logs reports whether an expression is a logger, by its name.
func logs(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return strings.EqualFold(x.Name, "log")
	case *ast.SelectorExpr:
		return strings.EqualFold(x.Sel.Name, "log")
	}
	return false
}

// constant returns the literals that a text begins with, and whether they are all of it.
func constant(x ast.Expr) (text string, whole bool) {
	switch x := x.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(x.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		left, whole := constant(x.X)
		if !whole {
			return left, false
		}
		right, whole := constant(x.Y)
		return left + right, whole
	}
	return "", false
}
