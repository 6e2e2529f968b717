package bridge

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"ifacebridge/bridge/internal/delivery"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/natsio"
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

// publishMetrics are what the publisher counts. It alone writes them.
type publishMetrics struct {
	events   *prometheus.CounterVec
	byLabels map[event.Labels]prometheus.Counter // the ones of events that were seen
	failures *prometheus.CounterVec
	latency  prometheus.Histogram
	epochs   *prometheus.CounterVec
	renewed  prometheus.Counter
	givenUp  prometheus.Counter
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
		renewed: to.Counter("snapshots_renewed_total",
			"Snapshots that were told again within an epoch, before the stream forgets the last one, or on request."),
		givenUp: to.Counter("events_given_up_total",
			"Events that were larger than NATS takes, whatever was left out of them."),
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
	if !delivery.IsJudgment(err) && !errors.Is(err, context.Canceled) {
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
		func() float64 { return p.unconfirmedFor().Seconds() })
	to.GaugeFunc("bucket_failing_seconds", "How long nothing could be put into the bucket of current state; 0: it can.",
		func() float64 {
			if lasting, why := p.follower.Fault(); why != nil {
				return lasting.Seconds()
			}
			return 0
		})
}
