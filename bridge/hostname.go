package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/loop"
	"ifacebridge/netlinksrc"
)

// errRenamed is why a run ends when the kernel's name of the host has become another.
var errRenamed = errors.New("the host was renamed")

// hostnameFile is where the kernel has the name of the calling thread's UTS namespace. A
// poll(2) of it ends when that changes (proc_sys_poll_notify).
const hostnameFile = "/proc/sys/kernel/hostname"

// A hostname follows the kernel's name of the host.
type hostname struct {
	file *os.File
	name string // as last read
}

func openHostname() (*hostname, error) {
	file, err := os.Open(hostnameFile)
	if err != nil {
		return nil, fmt.Errorf("the name of the host: %w", err)
	}
	h := &hostname{file: file}
	return h, h.read()
}

func (h *hostname) release() { _ = h.file.Close() }

func (h *hostname) read() error {
	var buf [256]byte
	n, err := h.file.ReadAt(buf[:], 0)
	if n == 0 && err != nil {
		return fmt.Errorf("the name of the host: %w", err)
	}
	h.name = strings.TrimRight(string(buf[:n]), "\n")
	return nil
}

// pollFor is how long one poll lasts, so that the end of a context is seen.
const pollFor = time.Second

// changed waits until the name is another than it was, through failures that pass. It returns
// an error when ctx ends first, or the name cannot be followed any more.
func (h *hostname) changed(ctx context.Context, log *slog.Logger) error {
	return loop.Persist(ctx, func() error { return h.poll(ctx) }, netlinksrc.Passes, func(err error, again bool) {
		if !again {
			log.Warn("cannot follow the name of the host; retrying", "cause", err)
		}
	})
}

// poll is one try of changed.
func (h *hostname) poll(ctx context.Context) error {
	before := h.name
	for h.name == before {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fds := []unix.PollFd{{Fd: int32(h.file.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(pollFor.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if err := h.read(); err != nil {
			return err
		}
	}
	return nil
}

// follow waits until the name is another than it was, and reports whether that is so. Else ctx
// has ended, or the name cannot be followed any more, which is logged.
func (h *hostname) follow(ctx context.Context, log *slog.Logger) (renamed bool) {
	err := h.changed(ctx, log)
	if err != nil && ctx.Err() == nil {
		log.Error("cannot follow the name of the host any more: when it changes, restart the bridge", "cause", err)
	}
	return err == nil
}

// named waits until the host has a name of its own: not what it is called before
// somebody names it.
func (h *hostname) named(ctx context.Context, r *reporter, log *slog.Logger) error {
	if config.IsPlaceholder(h.name) {
		const advice = "set the host's name, or IFACE_HOST"
		r.waits("waiting for the host to be named: " + advice)
		log.Warn("waiting for the host to be named: nothing is published under a name that every host has at first",
			"hostname", h.name, "advice", advice)
	}
	for config.IsPlaceholder(h.name) {
		if err := h.changed(ctx, log); err != nil {
			return err
		}
	}
	return nil
}
