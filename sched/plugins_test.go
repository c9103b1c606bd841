package sched

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// TestPlugins asks nodes about pods. Commands:
//
//	node       the input, a Node in YAML, is there from now on (with 110 pods of room unless it says otherwise)
//	bind on=N  the input, a Pod, counts on a node
//	remove N   a node is gone
//	check      what each node says to the input, a Pod, and the pod's condition
//	quote n=K  what each node bids for K pods like the input
//	admit on=N what a kubelet says to the input
func TestPlugins(t *testing.T) {
	datadriven.Walk(t, "testdata/plugins", func(t *testing.T, path string) {
		ledgers := map[string]*Ledger{}
		n := 0
		names := func() []string {
			var out []string
			for name := range ledgers {
				out = append(out, name)
			}
			slices.Sort(out)
			return out
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			pod := &corev1.Pod{}
			if d.Cmd != "node" {
				if err := yaml.UnmarshalStrict([]byte(d.Input), pod); err != nil {
					d.Fatalf(t, "%v", err)
				}
			}
			var on string
			d.MaybeScanArgs(t, "on", &on)
			var b strings.Builder
			switch d.Cmd {
			case "node":
				node := testNode("", "4", "8Gi")
				if err := yaml.UnmarshalStrict([]byte(d.Input), node); err != nil {
					d.Fatalf(t, "%v", err)
				}
				ledgers[node.Name] = NewLedger(node)
				var all []*corev1.Node
				for _, name := range names() {
					all = append(all, ledgers[name].node)
				}
				for _, l := range ledgers {
					l.spread = spreadOf(all)
				}
			case "bind":
				n++
				pod.UID = types.UID(fmt.Sprint(n))
				ledgers[on].Add(pod)
			case "check":
				tried := map[string]*Refusal{}
				for _, name := range names() {
					r := ledgers[name].Check(pod)
					if r == nil {
						fmt.Fprintf(&b, "%s: fits\n", name)
						continue
					}
					tried[name] = r
					fmt.Fprintf(&b, "%s: %s: %s\n", name, r.Plugin, r.Sentence)
				}
				if len(tried) == len(ledgers) {
					fmt.Fprintln(&b, unschedulable(len(ledgers), tried))
				}
			case "quote":
				k := 1
				d.MaybeScanArgs(t, "n", &k)
				for _, name := range names() {
					curve, parts, refusal := ledgers[name].Quote(pod, k)
					fmt.Fprintf(&b, "%s: %v\n", name, curve)
					for _, p := range parts {
						fmt.Fprintf(&b, "  %s %v\n", p.Plugin, p.Score)
					}
					if refusal != nil {
						fmt.Fprintf(&b, "  declines: %s\n", refusal.Sentence)
					}
				}
			case "admit":
				l := ledgers[on]
				var others []*corev1.Pod
				for _, c := range l.pods {
					others = append(others, c.pod)
				}
				if r := Admit(pod, l.node, others); r != nil {
					fmt.Fprintf(&b, "%s\n%s\n", r.Reason, r.Message)
				} else {
					b.WriteString("admitted\n")
				}
			default:
				d.Fatalf(t, "no command %s", d.Cmd)
			}
			return b.String()
		})
	})
}
