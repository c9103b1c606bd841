package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// grid is a table with a column for each size.
type grid struct {
	sizes []int
	rows  []*gridRow
}

// gridRow is one thing that was measured: at each size one value, or one for each node.
type gridRow struct {
	what, unit string
	cells      map[int][]float64
}

func (g *grid) add(what, unit string, size int, values ...float64) {
	if !slices.Contains(g.sizes, size) {
		g.sizes = append(g.sizes, size)
	}
	for _, r := range g.rows {
		if r.what == what {
			r.cells[size] = values
			return
		}
	}
	g.rows = append(g.rows, &gridRow{what, unit, map[int][]float64{size: values}})
}

// print shows each size, and how often the first is in the last.
func (g *grid) print(out io.Writer) {
	if len(g.rows) == 0 {
		return
	}
	fmt.Fprint(out, "| pods |")
	for _, s := range g.sizes {
		fmt.Fprintf(out, " %d |", s)
	}
	fmt.Fprintf(out, " last to first |\n|---|%s\n", strings.Repeat("---|", len(g.sizes)+1))
	for _, r := range g.rows {
		fmt.Fprintf(out, "| %s |", r.what)
		for _, s := range g.sizes {
			fmt.Fprintf(out, " %s |", r.cell(s))
		}
		fmt.Fprintf(out, " %s |\n", r.growth(g.sizes[0], g.sizes[len(g.sizes)-1]))
	}
}

func (r *gridRow) cell(size int) string {
	var all []string
	for _, v := range r.cells[size] {
		all = append(all, number3(v))
	}
	if len(all) == 0 {
		return ""
	}
	return strings.TrimSpace("**" + strings.Join(all, ", ") + "** " + r.unit)
}

// growth is the last size's mean over the first one's, nothing if one is not there.
func (r *gridRow) growth(first, last int) string {
	a, b := mean(r.cells[first]), mean(r.cells[last])
	if a == 0 || len(r.cells[last]) == 0 {
		return ""
	}
	return number3(b / a)
}

func mean(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	var sum float64
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// percentile is in milliseconds.
func percentile(all []time.Duration, p int) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return float64(sorted[min(len(sorted)*p/100, len(sorted)-1)].Microseconds()) / 1000
}
