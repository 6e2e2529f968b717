package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

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
