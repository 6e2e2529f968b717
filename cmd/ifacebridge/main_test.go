package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge"
	"ifacebridge/bridge/config"
)

// run is main without the process: what counts is the environment that it is given,
// and it writes nowhere but where it is told.
func TestRunWithoutTheProcess(t *testing.T) {
	t.Setenv("IFACE_STREAM", "PROCESS")
	t.Setenv("IFACE_QUEUE", "none")
	for _, tt := range []struct {
		environ        []string
		status         int
		stdout, stderr string
	}{
		{[]string{"IFACE_HOST=web01", "IFACE_STREAM=GIVEN"}, exitOK, "GIVEN", ""},
		{[]string{"IFACE_HOST=web01", "IFACE_QUEUE=0"}, exitConfig, "IFACE_QUEUE",
			"ifacebridge: IFACE_QUEUE: not a number or size in range (got \"0\"); " +
				"accepted: 1 to 16777216 events, or a size from 64KiB to 1GiB\n"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(context.Background(), []string{"config"}, tt.environ, &stdout, &stderr)
		if status != tt.status || stderr.String() != tt.stderr || !strings.Contains(stdout.String(), tt.stdout) {
			t.Errorf("%v: status %d, want %d\nstdout: %s\nstderr: %s\nwant %s",
				tt.environ, status, tt.status, &stdout, &stderr, tt.stderr)
		}
		if strings.Contains(stdout.String(), "PROCESS") {
			t.Errorf("%v: the process's environment counts:\n%s", tt.environ, &stdout)
		}
	}
}

// One failure that is neither that nobody answers nor that something is not permitted is what
// counts; and who may not ask gets no answer either.
func TestExitForAll(t *testing.T) {
	nobody, denied := bridge.NoAnswer, bridge.Classify(nats.ErrPermissionViolation).Reason
	other := bridge.Classify(errors.New("other")).Reason
	for _, tt := range []struct {
		reasons []bridge.Reason
		want    int
	}{
		{nil, exitOK}, {[]bridge.Reason{""}, exitFailure}, {[]bridge.Reason{other}, exitFailure},
		{[]bridge.Reason{nobody}, exitNoAnswer}, {[]bridge.Reason{denied}, exitForbidden},
		{[]bridge.Reason{denied, nobody}, exitForbidden}, {[]bridge.Reason{nobody, denied}, exitForbidden},
		{[]bridge.Reason{denied, "", nobody}, exitFailure},
	} {
		if got := exitForAll(tt.reasons); got != tt.want {
			t.Errorf("%q: got %d, want %d", tt.reasons, got, tt.want)
		}
	}
}

// The man page has every command and every variable, and nothing that roff would take
// for a request of its own.
func TestManPage(t *testing.T) {
	root := newRoot(nil)
	page := manPage(root)
	for _, cmd := range root.Commands() {
		if want := ".SS ifacebridge " + cmd.Name(); cmd.IsAvailableCommand() && !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, v := range config.Variables(nil) {
		if !strings.Contains(page, ".B "+v.Name+"\n") {
			t.Errorf("no %s", v.Name)
		}
	}
	requests := []string{".TH", ".SH", ".SS", ".TP", ".B", ".PP", ".nf", ".fi"}
	for line := range strings.Lines(page) {
		request, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(line, ".") && !slices.Contains(requests, request) {
			t.Errorf("%q is no request of a man page", line)
		}
	}
}
