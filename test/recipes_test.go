package test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

func readme(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	must(t, err)
	return string(text)
}

// A newcomer with the nats command alone follows the README, against the embedded
// server of the README's first command.
func TestRecipesForNATS(t *testing.T) {
	cli := netnstest.Tool(t, "nats")
	k := netnstest.Parallel(t)
	b := start(t, []string{"IFACE_HOST=web01.example.com"})
	b.Ready()
	eventually(t, "the query service", func() bool {
		return b.Metric("ifacebridge_ready") == 1 && b.Metric("ifacebridge_bucket_puts_total") > 0 &&
			b.Metric("ifacebridge_bucket_behind_keys") == 0 && b.Metric("ifacebridge_presence_puts_total") > 0
	})
	home := t.TempDir()
	ran := 0
	for _, block := range codeBlocks(readme(t), "sh") {
		for line := range strings.Lines(block) {
			line, _, _ = strings.Cut(line, "  #")
			args, ok := strings.CutPrefix(strings.TrimSpace(line), "nats ")
			if !ok {
				continue
			}
			ran++
			want := "web01"
			if strings.HasPrefix(args, "sub ") {
				args += " --count=1" // it would follow for ever
			}
			ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
			cmd := exec.CommandContext(ctx, "/bin/sh", "-c", cli+" "+args)
			cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), natsPatience}
			stop := make(chan struct{})
			changing := make(chan error, 1)
			go func() { changing <- changeUntil(k, stop) }() // something to follow
			out, err := cmd.CombinedOutput()
			cancel()
			close(stop)
			must(t, <-changing)
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("nats %s: %v\n%s", args, err, out)
			}
		}
	}
	if ran < 7 {
		t.Errorf("the README has %d recipes", ran)
	}
}

func changeUntil(k *netnstest.Kernel, stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		case <-time.After(100 * time.Millisecond):
			index, err := k.Add("brief", 0, netnstest.Kind{Name: "ifb"})
			if err == nil {
				err = k.Delete(index)
			}
			if err != nil {
				return err
			}
		}
	}
}

// The README's programs: the Go one runs; Python's and JavaScript's run where their
// runtime has a NATS client, and are checked by their runtime otherwise.
func TestRecipesInLanguages(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	b := bridge(t, s)
	b.Ready()
	holds(t, s)
	changeMTU(t, k, 1) // who subscribes sees what happens
	for _, tt := range []struct {
		language, file string
		has            []string // succeeds when there is a NATS client
		run, check     []string
	}{
		{"go", "main.go", nil, nil, nil},
		{"python", "main.py", []string{"python3", "-c", "import nats"}, []string{"python3"}, []string{"python3", "-m", "py_compile"}},
		{"javascript", "main.mjs", []string{"node", "-e", "require.resolve('@nats-io/transport-node')"}, []string{"node"}, []string{"node", "--check"}},
	} {
		t.Run(tt.language, func(t *testing.T) {
			blocks := codeBlocks(readme(t), tt.language)
			if len(blocks) != 1 {
				t.Fatalf("the README has %d programs", len(blocks))
			}
			path := filepath.Join(t.TempDir(), tt.file)
			must(t, os.WriteFile(path, []byte(blocks[0]), 0o600))
			if tt.has != nil {
				netnstest.Tool(t, tt.has[0])
				if exec.Command(tt.has[0], tt.has[1:]...).Run() != nil {
					if out, err := exec.Command(tt.check[0], append(tt.check[1:], path)...).CombinedOutput(); err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
					netnstest.Skip(t, "nats-for-"+tt.language, "checked, not run: no NATS client for it here")
				}
			}
			if tt.language == "javascript" { // node looks for packages from where the program is
				client, err := exec.Command("node", "-p", "require.resolve('@nats-io/transport-node')").Output()
				must(t, err)
				packages, _, _ := strings.Cut(string(client), "/@nats-io/")
				must(t, os.Symlink(packages, filepath.Join(filepath.Dir(path), "node_modules")))
			}
			command := append(tt.run, path)
			if tt.run == nil { // to be compiled
				program := strings.TrimSuffix(path, ".go")
				build := exec.Command("go", "build", "-o", program, path)
				build.Dir = ".." // the module whose packages it imports
				if out, err := build.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				command = []string{program}
			}
			p := keptRunning(func() *process {
				return startWith(t, launch{On: k}, command[0], append(os.Environ(), "NATS_URL="+s.URL), command[1:]...)
			})
			eventually(t, "a link", func() bool { p.keep(); return strings.Contains(p.b.Output(), " lo\n") })
		})
	}
}
