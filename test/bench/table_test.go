package main

import (
	"encoding/json"
	"fmt"
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

func TestGrid(t *testing.T) {
	var g grid
	g.print(&strings.Builder{}) // nothing was measured
	g.add("late", "ms", 100, 10)
	g.add("late", "ms", 5000, 25)
	g.add("each", "%", 100, 1, 2, 3)
	g.add("each", "%", 5000, 4, 4, 4)
	g.add("only small", "", 100, 7)
	var out strings.Builder
	g.print(&out)
	want := `| pods | 100 | 5000 | last to first |
|---|---|---|---|
| late | **10.0** ms | **25.0** ms | 2.50 |
| each | **1.00, 2.00, 3.00** % | **4.00, 4.00, 4.00** % | 2.00 |
| only small | **7.00** |  |  |
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", &out, want)
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]string{"5000,100": "[100 5000]", "7, 7": "[7]", "": "[]", "1,x": "[]", "0": "[]"} {
		got, err := parseSizes(in)
		if s := fmt.Sprint(got); s != want || (err == nil) != (want != "[]") {
			t.Errorf("parseSizes(%q) = %s, %v; want %s", in, s, err, want)
		}
	}
}

// What a cluster is filled with has the size that is said of it, and no two objects have one name.
func TestGrowObjects(t *testing.T) {
	seen := map[string]bool{}
	for i := range 3000 {
		p, m := growPod(i), growConfigMap(i)
		for _, name := range []string{"p/" + p.Namespace + "/" + p.Name, "m/" + m.Namespace + "/" + m.Name} {
			if seen[name] {
				t.Fatalf("%s twice", name)
			}
			seen[name] = true
		}
	}
	b, err := json.Marshal(growPod(2999))
	if err != nil || len(b) < 1000 || len(b) > 1300 {
		t.Errorf("a pod has %d bytes, %v", len(b), err)
	}
}
