// Command hosts draws what BenchmarkHosts of test/fleet has measured: results.json in
// the directory that is its argument becomes results.svg there.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// results are costs by the number of hosts.
type results struct {
	Hosts  []float64
	Series []struct {
		Name   string
		Values []float64
	}
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: hosts DIRECTORY")
	}
	text, err := os.ReadFile(filepath.Join(os.Args[1], "results.json"))
	if err != nil {
		log.Fatal(err)
	}
	var r results
	if err := json.Unmarshal(text, &r); err != nil {
		log.Fatal(err)
	}
	if err := draw(&r, filepath.Join(os.Args[1], "results.svg")); err != nil {
		log.Fatal(err)
	}
}

// draw draws what each host costs by the number of hosts, as a multiple of what it
// costs among the fewest.
func draw(r *results, path string) error {
	p := plot.New()
	p.Title.Text = "Cost of a host, by the number of hosts"
	p.X.Label.Text, p.Y.Label.Text, p.Y.Min = "hosts", fmt.Sprintf("÷ that among %v", r.Hosts[0]), 0
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	for i, s := range r.Series {
		var points plotter.XYs
		for j, value := range s.Values {
			points = append(points, plotter.XY{X: r.Hosts[j], Y: value / r.Hosts[j] / (s.Values[0] / r.Hosts[0])})
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		line.Color, dots.Color = plotutil.Color(i), plotutil.Color(i)
		p.Add(line, dots)
		p.Legend.Add(s.Name[:strings.LastIndex(s.Name, ",")], line, dots) // without its unit
	}
	p.Legend.Left, p.Legend.YOffs = true, vg.Centimeter
	p.X.Max *= 1.3
	return p.Save(20*vg.Centimeter, 12*vg.Centimeter, path)
}
