package track

import (
	"github.com/prometheus/client_golang/prometheus"

	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/netlinksrc"
)

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

// The metrics of what is watched when somebody asks: a namespace that is gone leaves
// no series behind.
var (
	linksDesc = metrics.Desc("links",
		"Links in the kernel, whether they are published or not, in all network namespaces that are watched.")
	netnsLinksDesc = metrics.Desc("namespace_links",
		"Those of them in other network namespaces than the bridge's own.", "netns")
	watchedDesc    = metrics.Desc("namespaces", "Network namespaces that are watched.")
	notWatchedDesc = metrics.Desc("namespaces_failing",
		"Network namespaces that should be watched and cannot be; the log has the reasons.")
)

// register registers what the watchers count, and what is watched.
func (n *Namespaces) register(to metrics.Registry) {
	to.CounterFunc("netlink_overruns_total",
		"Times that notifications of the kernel were lost: it dropped some (ENOBUFS), or they could not be read.",
		func() float64 { return float64(n.overrunCount.Load()) })
	to.CounterFunc("netlink_decode_errors_total", "Malformed messages and attributes of the kernel that were left out.",
		func() float64 { return float64(n.malformed()) })
	to.GaugeFunc("netlink_receive_buffer_bytes", "Receive buffer for notifications as the kernel granted it.",
		func() float64 { return float64(n.granted.Load()) })
	to.MustRegister(namespaceCollector{n})
}

// A namespaceCollector makes the metrics of what is watched at each scrape.
type namespaceCollector struct{ *Namespaces }

func (namespaceCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{linksDesc, netnsLinksDesc, watchedDesc, notWatchedDesc} {
		descs <- d
	}
}

func (c namespaceCollector) Collect(to chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, n int, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), labels...)
	}
	links, failing := c.counts()
	sum := 0
	for netns, n := range links {
		sum += n
		if netns != "" {
			gauge(netnsLinksDesc, n, netns)
		}
	}
	gauge(linksDesc, sum)
	gauge(watchedDesc, len(links))
	gauge(notWatchedDesc, failing)
}

// Overruns returns how often notifications were lost, of all namespaces. It
// may be called at any time, like Stuck.
func (n *Namespaces) Overruns() uint64 { return n.overrunCount.Load() }

// malformed returns how many messages and attributes were left out.
func (n *Namespaces) malformed() (sum uint64) {
	for _, w := range n.list() {
		sum += w.watcher.malformed.Load()
	}
	return sum
}

// Stuck returns, in words, which readers do not run; see [loop.Progress].
func (n *Namespaces) Stuck() (list []string) {
	for _, w := range n.list() {
		if w.progress.Stuck() {
			list = append(list, stuckReader(n.nameOf(w)))
		}
	}
	return list
}

func stuckReader(netns string) string {
	if netns == "" {
		return "the kernel's reader is stuck"
	}
	return "the kernel's reader is stuck in network namespace " + netns
}

// nameOf returns what the namespace of a watcher is called, "" when it is the bridge's own.
func (n *Namespaces) nameOf(w *namespace) string {
	n.lock.Lock()
	defer n.lock.Unlock()
	return w.ns.Name
}

// counts returns how many links each namespace has, and how many namespaces cannot
// be watched.
func (n *Namespaces) counts() (links map[string]int, failing int) {
	n.lock.Lock()
	defer n.lock.Unlock()
	links = map[string]int{}
	for _, w := range n.watched {
		links[w.ns.Name] = int(w.links.Load())
	}
	return links, len(n.failing)
}
