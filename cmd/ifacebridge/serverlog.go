//go:build !noembed

package main

import (
	"fmt"
	"log/slog"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
)

// serverLog passes on what the embedded server warns of; the rest is its own
// business.
type serverLog struct {
	log *slog.Logger

	mu   sync.Mutex
	text string // of the last error
}

var _ server.Logger = (*serverLog)(nil)

func (l *serverLog) Noticef(format string, v ...any) {}
func (l *serverLog) Debugf(format string, v ...any)  {}
func (l *serverLog) Tracef(format string, v ...any)  {}

func (l *serverLog) Warnf(format string, v ...any) {
	l.log.Debug("embedded NATS server: " + fmt.Sprintf(format, v...))
}

func (l *serverLog) Errorf(format string, v ...any) {
	l.mu.Lock()
	l.text = fmt.Sprintf(format, v...)
	l.mu.Unlock()
	l.log.Error("embedded NATS server: " + fmt.Sprintf(format, v...))
}

// Fatalf is how the server reports that it cannot serve; it does not exit by itself.
func (l *serverLog) Fatalf(format string, v ...any) { l.Errorf(format, v...) }

func (l *serverLog) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text == "" {
		return "no reason given"
	}
	return l.text
}
