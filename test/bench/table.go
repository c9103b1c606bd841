package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// row is one line of the table: what was measured, once in each run.
type row struct {
	what, target, unit string
	values             []float64
}

type table []*row

// add notes one value; a row is made at its first.
func (t *table) add(what, target, unit string, v float64) {
	for _, r := range *t {
		if r.what == what {
			r.values = append(r.values, v)
			return
		}
	}
	*t = append(*t, &row{what, target, unit, []float64{v}})
}

func (t *table) seconds(what, target string, d time.Duration) { t.add(what, target, "s", d.Seconds()) }

// latencies notes the p50 and p99 of one run.
func (t *table) latencies(what, target string, all []time.Duration) {
	slices.Sort(all)
	at := func(p int) float64 { return float64(all[min(len(all)*p/100, len(all)-1)].Microseconds()) / 1000 }
	t.add(what+", p50", "", "ms", at(50))
	t.add(what+", p99", target, "ms", at(99))
}

// ratio adds a row of one row's values divided by another's, each by that of the same run: a machine that is shared is not as fast in one run as in the next.
func (t *table) ratio(what, target, of, to string) {
	var a, b []float64
	for _, r := range *t {
		switch r.what {
		case of:
			a = r.values
		case to:
			b = r.values
		}
	}
	for i := range min(len(a), len(b)) {
		t.add(what, target, "", a[i]/b[i])
	}
}

func (r *row) median() float64 {
	v := slices.Sorted(slices.Values(r.values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func (t table) print(out io.Writer) {
	fmt.Fprintln(out, "| what | target | median | min | max | runs |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|")
	for _, r := range t {
		v := slices.Sorted(slices.Values(r.values))
		show := func(f float64) string { return strings.TrimSpace(number3(f) + " " + r.unit) }
		fmt.Fprintf(out, "| %s | %s | **%s** | %s | %s | %d |\n", r.what, r.target, show(r.median()), show(v[0]), show(v[len(v)-1]), len(v))
	}
}

// number3 shows three digits, and all of a longer whole number.
func number3(f float64) string {
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.2f", f)
}
