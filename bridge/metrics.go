package bridge

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// labels are what events are counted by.
type labels struct {
	kind   schema.Kind
	action schema.Action
	cause  schema.Cause
}

// metrics are what /metrics shows. What the parts of a bridge count for
// themselves is read when somebody asks (observe); the rest is counted here.
type metrics struct {
	reg      *prometheus.Registry
	events   *prometheus.CounterVec
	byLabels map[labels]prometheus.Counter // the ones of events that were seen
	failures *prometheus.CounterVec
	latency  prometheus.Histogram
	dumps    prometheus.Counter
	redumps  prometheus.Counter
	messages [netlinksrc.Kinds]prometheus.Counter // by netlinksrc.Kind
	quiet    prometheus.Counter                   // notifications that changed nothing
	fenced   prometheus.Gauge
}

const metricPrefix = "ifacebridge_"

func newMetrics(reg *prometheus.Registry, version string) *metrics {
	m := &metrics{
		reg: reg, byLabels: map[labels]prometheus.Counter{},
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricPrefix + "events_total", Help: "Events that NATS has confirmed."}, []string{"event", "action", "cause"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricPrefix + "publish_failures_total", Help: "Attempts to publish that failed and are made again, by reason."}, []string{"reason"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricPrefix + "publish_duration_seconds", Help: "Time from sending a batch of events until NATS has confirmed it.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 4, 8)}),
		dumps:   prometheus.NewCounter(prometheus.CounterOpts{Name: metricPrefix + "netlink_dumps_total", Help: "Dumps of all links, retries included."}),
		redumps: prometheus.NewCounter(prometheus.CounterOpts{Name: metricPrefix + "netlink_dump_retries_total", Help: "Dumps that were interrupted by changes and asked for again."}),
		quiet: prometheus.NewCounter(prometheus.CounterOpts{Name: metricPrefix + "netlink_unchanged_total",
			Help: "Notifications that changed nothing: the link's next event counts them."}),
		fenced: prometheus.NewGauge(prometheus.GaugeOpts{Name: metricPrefix + "fenced", Help: "1 when another bridge has taken this host's name and this one is stopping."}),
	}
	messages := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricPrefix + "netlink_messages_total", Help: "Messages of the kernel by kind; other: not about a link's state."}, []string{"kind"})
	for kind := range m.messages {
		m.messages[kind] = messages.WithLabelValues(netlinksrc.Kind(kind).String())
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: metricPrefix + "build_info", Help: "1; what was built, as labels.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()}})
	info.Set(1)
	for reason := range failureReasons {
		m.failures.WithLabelValues(reason)
	}
	reg.MustRegister(m.events, m.failures, m.latency, m.dumps, m.redumps, messages, m.quiet, m.fenced, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// published counts events that were confirmed together. The one publisher calls it.
func (m *metrics) published(events []outgoing, took time.Duration) {
	m.latency.Observe(took.Seconds())
	for i := range events {
		l := events[i].labels
		counter, ok := m.byLabels[l]
		if !ok {
			counter = m.events.WithLabelValues(l.kind.String(), l.action.String(), l.cause.String())
			m.byLabels[l] = counter
		}
		counter.Inc()
	}
}

// failed counts an attempt to publish that failed.
func (m *metrics) failed(err error) {
	var fenced *FencedError
	switch {
	case errors.As(err, &fenced):
		m.fenced.Set(1)
	case !errors.Is(err, context.Canceled):
		m.failures.WithLabelValues(failureReason(err)).Inc()
	}
}

// failureReasons are the causes that failures are counted by, each with the
// errors that it stands for. What has another cause is "other".
var failureReasons = map[string][]error{
	"disconnected": {errNotConnected, errDisconnected, errReconnected, nats.ErrConnectionClosed, nats.ErrDisconnected},
	"permission":   {nats.ErrPermissionViolation},
	"no_stream":    {jetstream.ErrNoStreamResponse, jetstream.ErrStreamNotFound},
	"no_jetstream": {jetstream.ErrJetStreamNotEnabled, jetstream.ErrJetStreamNotEnabledForAccount, nats.ErrNoResponders},
	"timeout":      {context.DeadlineExceeded, nats.ErrTimeout},
	"too_large":    {nats.ErrMaxPayload},
	"unavailable":  {}, // the server's own word for a cluster without a leader
	"refused":      {},
	"other":        {},
}

// errCodeUnavailable is the server's JSClusterNotAvailErr.
const errCodeUnavailable jetstream.ErrorCode = 10008

func failureReason(err error) string {
	for _, reason := range []string{"disconnected", "permission", "no_stream", "no_jetstream", "timeout", "too_large"} {
		for _, is := range failureReasons[reason] {
			if errors.Is(err, is) {
				return reason
			}
		}
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == errCodeUnavailable {
		return "unavailable"
	}
	if errors.As(err, &api) { // a full stream, say: the log has the server's words
		return "refused"
	}
	return "other"
}

// namespaceMetrics are about what is watched when somebody asks: a namespace that
// is gone leaves no series behind.
type namespaceMetrics struct{ *namespaces }

var (
	linksDesc      = prometheus.NewDesc(metricPrefix+"links", "Links in the kernel, whether they are published or not, in all network namespaces that are watched.", nil, nil)
	netnsLinksDesc = prometheus.NewDesc(metricPrefix+"namespace_links", "Those of them in other network namespaces than the bridge's own.", []string{"netns"}, nil)
	watchedDesc    = prometheus.NewDesc(metricPrefix+"namespaces", "Network namespaces that are watched.", nil, nil)
	notWatchedDesc = prometheus.NewDesc(metricPrefix+"namespaces_failing", "Network namespaces that should be watched and cannot be; the log says why.", nil, nil)
)

func (namespaceMetrics) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{linksDesc, netnsLinksDesc, watchedDesc, notWatchedDesc} {
		descs <- d
	}
}

func (m namespaceMetrics) Collect(to chan<- prometheus.Metric) {
	links, failing := m.counts()
	sum := 0
	for netns, n := range links {
		sum += n
		if netns != "" {
			to <- prometheus.MustNewConstMetric(netnsLinksDesc, prometheus.GaugeValue, float64(n), netns)
		}
	}
	to <- prometheus.MustNewConstMetric(linksDesc, prometheus.GaugeValue, float64(sum))
	to <- prometheus.MustNewConstMetric(watchedDesc, prometheus.GaugeValue, float64(len(links)))
	to <- prometheus.MustNewConstMetric(notWatchedDesc, prometheus.GaugeValue, float64(failing))
}

// observe has the registry read what the parts of a bridge count themselves.
func (m *metrics) observe(n *namespaces, p *publisher) {
	counter := func(name, help string, value func() float64) {
		m.reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: metricPrefix + name, Help: help}, value))
	}
	gauge := func(name, help string, value func() float64) {
		m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: metricPrefix + name, Help: help}, value))
	}
	counter("netlink_overruns_total", "Times that the kernel reported dropped notifications (ENOBUFS).", func() float64 { return float64(n.overruns.Load()) })
	counter("netlink_decode_errors_total", "Malformed messages and attributes of the kernel that were left out.", func() float64 { return float64(n.malformed()) })
	gauge("netlink_receive_buffer_bytes", "Receive buffer for notifications as the kernel granted it.", func() float64 { return float64(n.granted.Load()) })

	m.reg.MustRegister(namespaceMetrics{n})
	gauge("queue_events", "Events that wait, in memory or in the spool.", func() float64 { return float64(p.backlog.waiting()) })
	gauge("queue_limit_events", "Events that may wait before those of one link are folded (IFACE_QUEUE).", func() float64 { return float64(n.queue.limit) })
	counter("events_folded_total", "Notifications that were folded into a later event of the same link.", func() float64 { _, folded, _ := n.queue.size(); return float64(folded) })
	counter("events_forgotten_total", "Links that came and went unseen and got no event, because the queue was full twice over.", func() float64 { _, _, forgotten := n.queue.size(); return float64(forgotten) })

	gauge("unconfirmed_events", "Events that NATS has not confirmed.", func() float64 { return float64(p.unconfirmed()) })
	gauge("unconfirmed_age_seconds", "How long the oldest event that was sent has waited to be confirmed.", func() float64 {
		if oldest := p.oldest.Load(); oldest != 0 {
			return time.Since(time.Unix(0, oldest)).Seconds()
		}
		return 0
	})
	gauge("ready", "1 when NATS is connected and the snapshot is confirmed, as /readyz.", func() float64 {
		if len(p.notReady()) > 0 {
			return 0
		}
		return 1
	})
	gauge("nats_connected", "1 when there is a connection to NATS.", func() float64 {
		if p.nc.IsConnected() {
			return 1
		}
		return 0
	})
	counter("nats_reconnects_total", "Times that the connection to NATS was lost and is there again.", func() float64 { return float64(p.nc.Stats().Reconnects) })
	if d, ok := p.delivery.(*jetStreamDelivery); ok {
		counter("events_already_stored_total", "Events whose acknowledgment was lost, and that were found stored instead of being stored twice.", func() float64 { return float64(d.already.Load()) })
		counter("publish_refused_total", "Batches that the server refused because it had them already, or somebody else had written.", func() float64 { return float64(d.refused.Load()) })
	}
	if p.bucket != nil {
		counter("bucket_puts_total", "Keys that were put into or taken out of the bucket of current state.", func() float64 { return float64(p.bucket.puts.Load()) })
		gauge("bucket_behind_keys", "Keys that the bucket of current state does not hold yet as it should.", func() float64 { return float64(p.bucket.unsaid()) })
	}
	if p.spool != nil {
		gauge("spool_events", "Events on disk that NATS has not confirmed.", func() float64 { n, _ := p.spool.saved(); return float64(n) })
		counter("spool_failures_total", "Times that the disk did not take events.", func() float64 { return float64(p.spool.failures()) })
	}
}
