package pod

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestUsage: what a node and its pods use follows from two measurements. The directive "measure" has the second at which it is made, a line
// of /proc/stat and memory for the node, and for each container: id, pod, name, seconds of processor time, bytes.
func TestUsage(t *testing.T) {
	k := &Kubelet{cfg: Config{Node: "n1"}}
	datadriven.RunTest(t, "testdata/usage", func(t *testing.T, d *datadriven.TestData) string {
		var at, memory int64
		d.ScanArgs(t, "at", &at)
		d.ScanArgs(t, "memory", &memory)
		now := time.Unix(at, 0).UTC()
		stat, rest, _ := strings.Cut(d.Input, "\n")
		var stats []ContainerStats
		for s := bufio.NewScanner(strings.NewReader(rest)); s.Scan(); {
			f := strings.Fields(s.Text())
			cpu, err := strconv.ParseFloat(f[3], 64)
			if err != nil {
				t.Fatal(err)
			}
			bytes, err := strconv.ParseInt(f[4], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			stats = append(stats, ContainerStats{ID: f[0], Pod: Ref{Namespace: "default", Name: f[1]}, Name: f[2], Time: now, CPU: time.Duration(cpu * float64(time.Second)), Memory: bytes})
		}
		k.meter.add(nodeReading(now, stat, memory), stats)
		node, pods := k.Usage()
		var out strings.Builder
		if node != nil {
			fmt.Fprintf(&out, "node %s: cpu %s, memory %s in %s\n", node.Name, node.Usage.Cpu(), node.Usage.Memory(), node.Window.Duration)
		}
		for _, p := range pods {
			for _, c := range p.Containers {
				fmt.Fprintf(&out, "%s/%s %s: cpu %s, memory %s in %s at %d\n", p.Namespace, p.Name, c.Name, c.Usage.Cpu(), c.Usage.Memory(), p.Window.Duration, p.Timestamp.Unix())
			}
		}
		return out.String()
	})
}
