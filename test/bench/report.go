package main

import (
	"cmp"
	"fmt"
	"image/color"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// of is the median over the rounds.
func of[T cmp.Ordered](rounds []result, value func(result) T) T {
	var values []T
	for _, r := range rounds {
		values = append(values, value(r))
	}
	return median(values)
}

func perEvent(r result) float64 { return float64(r.cpu.Nanoseconds()) / 1e3 / float64(r.changes) }

// ratio is what one costs of another, each in the same round: the median, and from
// which to which.
func ratio(a, b []result) string {
	var ratios []float64
	for i := range a {
		ratios = append(ratios, perEvent(a[i])/perEvent(b[i]))
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", median(ratios), slices.Min(ratios), slices.Max(ratios))
}

// report writes the results as a table and as a plot.
func report(p plan, all []subject, results [][]result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Medians of %d rounds on %s, %d CPUs, Linux %s, Go %s: storms of %d changes by one writer, which made %.0f a second; "+
		"latency at %d changes a second, and ÷ that of a message of this size that nats.go alone publishes. "+
		"Memory: the most of its own (RssAnon), and resident, in MiB.\n\n",
		p.rounds, time.Now().Format(time.DateOnly), runtime.NumCPU(), kernel(), runtime.Version(), p.changes,
		of(slices.Concat(results...), func(r result) float64 { return float64(r.changes) / r.wrote.Seconds() }), p.rate)
	b.WriteString("| | CPU for an event, µs | ÷ `ip` | ÷ pipeline | events/s | lost | latency p50, p99 | ÷ bare | own, resident |\n" +
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for i, s := range all {
		rs := results[i]
		fmt.Fprintf(&b, "| %s | %.1f | %s | %s | %.0f | %s | %s | %s | %.1f, %.1f |\n", s.name,
			of(rs, perEvent), ratio(rs, results[0]), ratio(rs, results[1]),
			of(rs, func(r result) float64 { return float64(r.changes) / r.took.Seconds() }), lost(s, rs), latency(rs), bare(rs),
			mib(of(rs, func(r result) int { return r.own })), mib(of(rs, func(r result) int { return r.rss })))
	}
	fmt.Print(b.String())
	if err := os.WriteFile(filepath.Join(p.out, "results.md"), []byte(b.String()), 0o644); err != nil {
		return err
	}
	log.Printf("wrote results.md and results.svg to %s", p.out)
	return draw(filepath.Join(p.out, "results.svg"), all, results)
}

func mib(kib int) float64 { return float64(kib) / 1024 }

// bare is the median latency, of that of a bare publish in the same round.
func bare(rs []result) string {
	if len(rs[0].bare) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", of(rs, func(r result) float64 {
		return percentile(r.latency, 50).Seconds() / percentile(r.bare, 50).Seconds()
	}))
}

// lost says how many changes no event stands for, in the worst round.
func lost(s subject, rs []result) string {
	if !s.nats {
		return "not said"
	}
	var most, overruns int64
	for _, r := range rs {
		most, overruns = max(most, int64(r.changes)-r.stands), max(overruns, r.overruns)
	}
	if overruns > 0 {
		return fmt.Sprintf("%d (%d overruns)", most, overruns)
	}
	return fmt.Sprint(most)
}

func latency(rs []result) string {
	if len(rs[0].latency) == 0 {
		return "-"
	}
	at := func(p int) time.Duration {
		return of(rs, func(r result) time.Duration { return percentile(r.latency, p) }).Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%v, %v", at(50), at(99))
}

func kernel() string {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(release))
}

// draw draws the CPU time of an event as bars, with a dot for each round.
func draw(path string, all []subject, results [][]result) error {
	p := plot.New()
	p.Title.Text = "CPU for one event (user + system)"
	p.Y.Label.Text, p.Y.Min = "µs", 0
	var names []string
	for i, s := range all {
		names = append(names, s.name)
		bar, err := plotter.NewBarChart(plotter.Values{of(results[i], perEvent)}, vg.Points(60))
		if err != nil {
			return err
		}
		bar.XMin, bar.LineStyle.Width, bar.Color = float64(i), 0, color.RGBA{0xb0, 0xb8, 0xc4, 0xff}
		if strings.HasPrefix(s.name, "ifacebridge") {
			bar.Color = color.RGBA{0x2a, 0x6f, 0xbb, 0xff}
		}
		var dots plotter.XYs
		for _, r := range results[i] {
			dots = append(dots, plotter.XY{X: float64(i), Y: perEvent(r)})
		}
		scatter, err := plotter.NewScatter(dots)
		if err != nil {
			return err
		}
		p.Add(bar, scatter)
	}
	p.NominalX(names...)
	return p.Save(20*vg.Centimeter, 10*vg.Centimeter, path)
}
