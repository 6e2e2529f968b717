package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/bridge/internal/track"
	"ifacebridge/netlinksrc"
)

// A reporter answers for the process, whatever the bridge does at the moment: over HTTP, and
// to systemd.
type reporter struct {
	process metrics.Registry // what is counted of the process as a whole
	current atomic.Pointer[health]

	begun chan struct{} // closed when the bridge runs, or is known to wait for something
	begin sync.Once
}

func newReporter(cfg config.Config) *reporter {
	r := &reporter{process: metrics.Registry{Registry: prometheus.NewRegistry()}, begun: make(chan struct{})}
	r.current.Store(&health{waits: "starting"})
	registerProcess(r.process, cfg.Version)
	r.process.GaugeFunc("ready", "1 when NATS is connected, has the snapshot, and takes what is published, as /readyz.",
		func() float64 { return metrics.Bool(len(r.notReady()) == 0) })
	return r
}

// report has h answered from now on.
func (r *reporter) report(h *health) {
	r.current.Store(h)
	r.begin.Do(func() { close(r.begun) })
}

// waits has it answered that nothing is read or published yet, and why.
func (r *reporter) waits(why string) { r.report(&health{waits: why}) }

func (r *reporter) failures() []string { return r.current.Load().failures() }
func (r *reporter) notReady() []string { return r.current.Load().notReady() }

// metrics answers with what is counted.
func (r *reporter) metrics(w http.ResponseWriter, req *http.Request) {
	counted := append(prometheus.Gatherers{r.process}, r.current.Load().metrics...)
	promhttp.HandlerFor(counted, promhttp.HandlerOpts{Registry: r.process}).ServeHTTP(w, req)
}

// health is how the bridge is, under one name.
type health struct {
	waits string // why nothing is read or published yet; else "", and there is all of this:

	reading    *track.Namespaces
	publishing *publisher
	conn       *natsio.Conn
	metrics    prometheus.Gatherers
}

// failures returns which loops do not run.
func (h *health) failures() []string {
	if h.waits != "" {
		return nil
	}
	list := h.reading.Stuck()
	if h.publishing.progress.Stuck() {
		list = append(list, "the publisher is stuck")
	}
	return list
}

// notReady returns why a subscriber would not get this host's state now, and what to
// do about it.
func (h *health) notReady() []string {
	if h.waits != "" {
		return []string{h.waits}
	}
	var list []string
	if fault := h.conn.Fault(); fault != nil {
		list = append(list, "NATS is not connected: "+fault.String())
	}
	if why := h.publishing.owner.standing.Load(); why != nil {
		return append(list, *why)
	}
	if !h.publishing.isWhole.Load() {
		list = append(list, "the snapshot is not confirmed yet")
	}
	if fault := h.publishing.fault.Load(); fault != nil && fault.Reason != natsio.Disconnected {
		list = append(list, "publishing fails: "+fault.String())
	}
	if list = append(list, h.behind()...); len(list) == 0 {
		return nil
	}
	if refused := h.conn.Refused(); refused != nil && h.conn.IsConnected() {
		list = append(list, "NATS refuses a subject to this user: "+refused.String())
	}
	return list
}

const (
	// unconfirmedPatience is how old the oldest event may become that NATS has not
	// confirmed: what waits longer is not stored, whatever the reason.
	unconfirmedPatience = 30 * time.Second

	// followerPatience is how long nothing may be put into the bucket.
	followerPatience = 2 * time.Minute
)

// behind returns what of this host's state NATS has not got for long.
func (h *health) behind() (list []string) {
	if age := h.publishing.unconfirmedFor(); age > unconfirmedPatience {
		list = append(list, fmt.Sprintf("the oldest event that NATS has not confirmed is %v old; %d wait",
			age.Round(time.Second), h.publishing.unconfirmed()))
	}
	if lasting, why := h.publishing.follower.Fault(); why != nil && lasting > followerPatience {
		list = append(list, fmt.Sprintf("the bucket has not followed for %v, and lacks %d links: %v",
			lasting.Round(time.Second), h.publishing.follower.Behind(), why))
	}
	return list
}

// answer writes 200, or 503 and the reasons.
func answer(reasons func() []string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		list := reasons()
		if len(list) == 0 {
			_, _ = io.WriteString(w, "ok\n")
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, strings.Join(list, "\n")+"\n")
	}
}

// start answers over HTTP, and keeps systemd informed, until the returned function is
// called. It fails when the address cannot be used.
func (r *reporter) start(ctx context.Context, cfg config.Config, log *slog.Logger) (stop func(), err error) {
	stopHTTP, err := serveHTTP(cfg, r.handler(cfg.Pprof), log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var supervisor sync.WaitGroup
	supervisor.Go(func() { r.supervise(ctx, log) })
	return func() {
		cancel()
		supervisor.Wait()
		stopHTTP()
	}, nil
}

// handler serves what may be asked over HTTP. Nothing can be changed that way.
func (r *reporter) handler(withPprof bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", answer(r.failures))
	mux.Handle("GET /readyz", answer(func() []string { return append(r.failures(), r.notReady()...) }))
	mux.HandleFunc("GET /metrics", r.metrics)
	if withPprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index) // heap, goroutine and the others too
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	}
	return mux
}

// listenRetry is how long to wait for the default address, when another bridge
// on this host still has it.
const listenRetry = 5 * time.Second

// serveHTTP serves handler on cfg.HTTPAddr until the returned function is called.
// An address that cannot be used is an error. The default one, when it is taken, is waited
// for, and so is what passes: events matter more than their metrics.
func serveHTTP(cfg config.Config, handler http.Handler, log *slog.Logger) (stop func(), err error) {
	if cfg.HTTPAddr == "" {
		return func() {}, nil
	}
	srv := &http.Server{
		Handler: handler, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	listener, err := net.Listen("tcp", cfg.HTTPAddr)
	taken := cfg.HTTPAddr == config.DefaultHTTPAddr && errors.Is(err, syscall.EADDRINUSE)
	if err != nil && !taken && !netlinksrc.Passes(err) {
		return nil, fmt.Errorf("IFACE_HTTP_ADDR: cannot serve /healthz, /readyz and /metrics: %w; "+
			"set it to an address that is free, or empty to serve none", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if listener == nil {
			if taken {
				log.Error("cannot serve /healthz, /readyz and /metrics: another process has the default address; "+
					"retrying until it is free", "address", cfg.HTTPAddr)
			} else {
				log.Error("cannot serve /healthz, /readyz and /metrics yet; retrying", "address", cfg.HTTPAddr, "cause", err)
			}
			if listener = listenLater(ctx, cfg.HTTPAddr); listener == nil {
				return
			}
		}
		address := cfg.HTTPAddr
		if own := listener.Addr(); own != nil { // nil when the kernel did not tell it
			address = own.String()
		}
		log.Info("serving /healthz, /readyz and /metrics", "address", address)
		_ = srv.Serve(listener) // ends with Close
	}()
	return func() {
		cancel()
		_ = srv.Close()
		<-ended
	}, nil
}

// listenLater listens once the address is free. It returns nil when ctx has ended.
func listenLater(ctx context.Context, address string) net.Listener {
	for {
		select {
		case <-time.After(listenRetry):
		case <-ctx.Done():
			return nil
		}
		if listener, err := net.Listen("tcp", address); err == nil {
			return listener
		}
	}
}
