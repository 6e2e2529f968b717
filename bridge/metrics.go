package bridge

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/netlinksrc"
)

// registerProcess registers what is about the process as a whole.
func registerProcess(to metrics.Registry, version string) {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: metrics.Prefix + "build_info", Help: "1; what was built, as labels.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	info.Set(1)
	to.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// kernelMetrics are what all watchers count together.
type kernelMetrics struct {
	messages [netlinksrc.Kinds]prometheus.Counter // by netlinksrc.Kind
	dumps    prometheus.Counter
	redumps  prometheus.Counter
	quiet    prometheus.Counter // notifications that changed nothing
	failures prometheus.Counter // attempts to read that failed
}

func newKernelMetrics(to metrics.Registry) *kernelMetrics {
	m := &kernelMetrics{
		dumps:   to.Counter("netlink_dumps_total", "Dumps of all links, retries included."),
		redumps: to.Counter("netlink_dump_retries_total", "Dumps that were interrupted by changes and asked for again."),
		quiet: to.Counter("netlink_unchanged_total",
			"Notifications that changed nothing: the link's next event counts them."),
		failures: to.Counter("netlink_failures_total",
			"Times that the kernel's links could not be read, and were tried again."),
	}
	messages := to.CounterVec("netlink_messages_total",
		"Messages of the kernel by kind; other: not about a link's state.", "kind")
	for kind := range m.messages {
		m.messages[kind] = messages.WithLabelValues(netlinksrc.Kind(kind).String())
	}
	return m
}

// publishMetrics are what the publisher counts. It alone writes them.
type publishMetrics struct {
	events   *prometheus.CounterVec
	byLabels map[event.Labels]prometheus.Counter // the ones of events that were seen
	failures *prometheus.CounterVec
	latency  prometheus.Histogram
	epochs   *prometheus.CounterVec
}

func newPublishMetrics(to metrics.Registry) *publishMetrics {
	m := &publishMetrics{
		events:   to.CounterVec("events_total", "Events that NATS has confirmed.", "event", "action", "cause"),
		byLabels: map[event.Labels]prometheus.Counter{},
		failures: to.CounterVec("publish_failures_total",
			"Attempts to publish that failed and are made again, by reason.", "reason"),
		latency: to.Histogram("publish_duration_seconds",
			"Time from sending a batch of events until NATS has confirmed it.", prometheus.ExponentialBuckets(0.00025, 4, 8)),
		epochs: to.CounterVec("epochs_total", "Epochs that were begun, by reason.", "reason"),
	}
	for _, reason := range event.EpochReasons {
		m.epochs.WithLabelValues(string(reason))
	}
	for _, reason := range natsio.Reasons() {
		m.failures.WithLabelValues(string(reason))
	}
	return m
}

// published counts events that were confirmed together.
func (m *publishMetrics) published(events []event.Outgoing, took time.Duration) {
	m.latency.Observe(took.Seconds())
	for i := range events {
		l := events[i].Labels
		counter, ok := m.byLabels[l]
		if !ok {
			counter = m.events.WithLabelValues(l.Kind.String(), l.Action.String(), l.Cause.String())
			m.byLabels[l] = counter
		}
		counter.Inc()
	}
}

// failed counts an attempt to publish that failed.
func (m *publishMetrics) failed(err error) {
	var broken *brokenStoryError
	var replaced *replacedError
	if !errors.As(err, &broken) && !errors.As(err, &replaced) && !errors.Is(err, context.Canceled) {
		m.failures.WithLabelValues(string(natsio.Classify(err).Reason)).Inc()
	}
}

// register registers how far the publisher is.
func (p *publisher) register(to metrics.Registry) {
	to.GaugeFunc("queue_events", "Events that wait, in memory or in the spool.",
		func() float64 { return float64(p.backlog.Waiting()) })
	to.GaugeFunc("unconfirmed_events", "Events that NATS has not confirmed.",
		func() float64 { return float64(p.unconfirmed()) })
	to.GaugeFunc("standby", "1 while another bridge publishes as this host and this one stands by.",
		func() float64 { return metrics.Bool(p.owner.standing.Load() != nil) })
	to.GaugeFunc("unconfirmed_age_seconds", "How long the oldest event that was sent has waited to be confirmed.",
		func() float64 {
			if oldest := p.oldest.Load(); oldest != 0 {
				return time.Since(time.Unix(0, oldest)).Seconds()
			}
			return 0
		})
}

// register registers what the delivery counts.
func (d *jetStreamDelivery) register(to metrics.Registry) {
	to.CounterFunc("events_already_stored_total",
		"Events whose acknowledgment was lost, and that were found stored instead of being stored twice.",
		func() float64 { return float64(d.already.Load()) })
	to.CounterFunc("publish_refused_total",
		"Batches that the server refused because it had them already, or somebody else had written.",
		func() float64 { return float64(d.refused.Load()) })
}
