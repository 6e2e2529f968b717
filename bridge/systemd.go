package bridge

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// supervise notifies systemd, if that has started the process as Type=notify, that the
// bridge runs, and feeds its watchdog (WatchdogSec) as long as the loops run. NATS may be
// away meanwhile, or the host have no name: the bridge runs, and waits. It returns when ctx
// ends, with which the process has to end as well: systemd kills what goes on.
func (r *reporter) supervise(ctx context.Context, log *slog.Logger) {
	select {
	case <-r.begun:
	case <-ctx.Done():
		return
	}
	supervised, err := daemon.SdNotify(false, daemon.SdNotifyReady)
	if err != nil {
		log.Warn("cannot notify systemd", "cause", err)
	}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("cannot read systemd's watchdog interval", "cause", err)
	}
	if !supervised || interval == 0 {
		<-ctx.Done()
	} else {
		r.feedWatchdog(ctx, interval/2, log)
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) // systemd sees the exit anyway
}

func (r *reporter) feedWatchdog(ctx context.Context, every time.Duration, log *slog.Logger) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		state := "STATUS=publishing"
		if reasons := r.notReady(); len(reasons) > 0 {
			state = "STATUS=" + strings.Join(reasons, "; ")
		}
		if stuck := r.failures(); len(stuck) > 0 {
			log.Error("not feeding systemd's watchdog", "cause", strings.Join(stuck, "; "))
		} else {
			state += "\n" + daemon.SdNotifyWatchdog
		}
		_, _ = daemon.SdNotify(false, state) // a failure was logged at the start
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
