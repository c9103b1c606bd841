package main

import (
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	var rows table
	for _, v := range []float64{400, 100, 200} {
		rows.add("ours", "", "", v)
	}
	rows.add("theirs", "", "", 50)
	rows.add("theirs", "", "", 150)
	rows.ratio("ratio", ">= 2", "ours", "theirs")
	rows.ratio("no row", "", "ours", "nobody's")
	var all []time.Duration
	for i := range 100 {
		all = append(all, time.Duration(100-i)*time.Millisecond)
	}
	rows.latencies("late", "<= 1 s", all)
	var out strings.Builder
	rows.print(&out)
	want := `| what | target | median | min | max | runs |
|---|---|---|---|---|---|
| ours |  | **200** | 100 | 400 | 3 |
| theirs |  | **100** | 50.0 | 150 | 2 |
| ratio | >= 2 | **4.33** | 0.67 | 8.00 | 2 |
| late, p50 |  | **51.0 ms** | 51.0 ms | 51.0 ms | 1 |
| late, p99 | <= 1 s | **100 ms** | 100 ms | 100 ms | 1 |
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", &out, want)
	}
}
