package bridge

import (
	"context"
	"log/slog"
	"strings"
	"testing"
)

// A name that cannot be followed any more is not taken for one that stays the same.
func TestHostnameCannotBeFollowed(t *testing.T) {
	h, err := openHostname()
	if err != nil {
		t.Fatal(err)
	}
	h.release()
	var logged strings.Builder
	if h.follow(context.Background(), slog.New(slog.NewTextHandler(&logged, nil))) {
		t.Error("renamed")
	}
	if !strings.Contains(logged.String(), "cannot follow the name of the host any more") {
		t.Errorf("logged:\n%s", logged.String())
	}
}
