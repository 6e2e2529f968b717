// Package metrics names and registers what the parts of a bridge count. Each part
// registers its own; there is no list of them all.
package metrics

import "github.com/prometheus/client_golang/prometheus"

// Prefix is what the names of all metrics of ifacebridge begin with.
const Prefix = "ifacebridge_"

// A Registry takes metrics, and puts [Prefix] in front of their names. Registering
// one name twice panics: it is a mistake in the program.
type Registry struct{ *prometheus.Registry }

// Counter registers a counter.
func (r Registry) Counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: Prefix + name, Help: help})
	r.MustRegister(c)
	return c
}

// CounterVec registers a counter for each combination of label values.
func (r Registry) CounterVec(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: Prefix + name, Help: help}, labels)
	r.MustRegister(c)
	return c
}

// CounterFunc registers a counter whose value is asked for at each scrape, from
// another goroutine.
func (r Registry) CounterFunc(name, help string, value func() float64) {
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: Prefix + name, Help: help}, value))
}

// Gauge registers a gauge.
func (r Registry) Gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: Prefix + name, Help: help})
	r.MustRegister(g)
	return g
}

// GaugeFunc registers a gauge whose value is asked for at each scrape, from another
// goroutine.
func (r Registry) GaugeFunc(name, help string, value func() float64) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: Prefix + name, Help: help}, value))
}

// Histogram registers a histogram of seconds with these upper bounds.
func (r Registry) Histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: Prefix + name, Help: help, Buckets: buckets})
	r.MustRegister(h)
	return h
}

// Bool is 1 for true, as gauges show it.
func Bool(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Desc describes a metric that a collector of its own makes at each scrape.
func Desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(Prefix+name, help, labels, nil)
}
