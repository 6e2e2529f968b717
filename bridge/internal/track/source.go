package track

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"ifacebridge/netlinksrc"
)

// A Source is what the links of a namespace are read from: the kernel, through a
// [netlinksrc.Source], which says what each method does and what it blocks on. Its
// lock is held while handle runs.
type Source interface {
	sync.Locker
	Receive(ctx context.Context, handle func(*netlinksrc.Message)) error
	Drain(handle func(*netlinksrc.Message)) error
	Dump(ctx context.Context, handle func(*netlinksrc.Message)) (interrupted bool, err error)
	Overruns() uint64
	Malformed() (messages, attributes uint64)
}

var _ Source = (*netlinksrc.Source)(nil)

// logReadBuffer logs what receive buffer was granted.
func logReadBuffer(log *slog.Logger, asked, granted int) {
	attrs := []any{"asked", asked, "granted", granted}
	if granted < 1<<20 {
		log.Warn("the receive buffer for notifications is small, a burst may overrun it; "+
			"raise it with: sysctl -w net.core.rmem_max="+fmt.Sprint(asked)+", or run with CAP_NET_ADMIN", attrs...)
		return
	}
	log.Info("receive buffer for notifications", attrs...)
}
