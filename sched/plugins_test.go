package sched

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
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
//	admit on=N what a kubelet says to the input; resize, what it says when the input is a pod that it runs
//	budget     the input, a PodDisruptionBudget, holds from now on
//	sacrifice n=K [hold=NODE]
//	           what each node would give for K pods like the input, and which is asked first; with hold, that node keeps
//	           room for a pod like the input already
func TestPlugins(t *testing.T) {
	datadriven.Walk(t, "testdata/plugins", func(t *testing.T, path string) {
		ledgers := map[string]*Ledger{}
		n := 0
		var budgets []*policyv1.PodDisruptionBudget
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
			if d.Cmd != "node" && d.Cmd != "budget" {
				if err := yaml.UnmarshalStrict([]byte(d.Input), pod); err != nil {
					d.Fatalf(t, "%v", err)
				}
			}
			var on string
			d.MaybeScanArgs(t, "on", &on)
			var b strings.Builder
			if (d.Cmd == "check" || d.Cmd == "quote") && pod.Spec.NodeName == "" { // one that has a node is offered to nobody
				sameClass(t, ledgers, pod)
			}
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
				pod.UID, pod.Spec.NodeName = types.UID(fmt.Sprint(n)), on
				ledgers[on].Add(pod)
			case "remove":
				delete(ledgers, d.CmdArgs[0].Key)
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
			case "admit", "resize":
				l, decide := ledgers[on], Admit
				if d.Cmd == "resize" {
					decide = Resize
				}
				var others []*corev1.Pod
				for _, c := range l.pods {
					others = append(others, c.pod)
				}
				if r := decide(pod, l.node, others); r != nil {
					fmt.Fprintf(&b, "%s\n%s\n", r.Reason, r.Message)
				} else {
					b.WriteString("admitted\n")
				}
			case "budget":
				b := &policyv1.PodDisruptionBudget{}
				if err := yaml.UnmarshalStrict([]byte(d.Input), b); err != nil {
					d.Fatalf(t, "%v", err)
				}
				budgets = append(budgets, b)
			case "sacrifice":
				k, hold, best := 1, "", ""
				d.MaybeScanArgs(t, "n", &k)
				d.MaybeScanArgs(t, "hold", &hold)
				first := map[string]Sacrifice{}
				for _, name := range names() {
					l := ledgers[name]
					if hold == name {
						l = l.with([]*counted{count(pod)})
					}
					out, reasons := l.Sacrifices(pod, k, nil, budgets)
					for _, r := range reasons {
						fmt.Fprintf(&b, "%s: %s\n", name, r)
					}
					for i, s := range out {
						fmt.Fprintf(&b, "%s: %v violations=%d highest=%d", name, s.Victims, s.Violations, s.Highest)
						if s.Since.Before(unborn) && len(s.Victims) > 0 {
							fmt.Fprintf(&b, " since=%s", s.Since.Format("15:04"))
						}
						fmt.Fprintln(&b)
						if i == 0 {
							first[name] = s
						}
					}
				}
				for _, name := range names() {
					s, ok := first[name]
					o := first[best]
					if ok && (best == "" || s.less(&o)) {
						best = name
					} else if ok && !o.less(&s) {
						best += " or " + name // by rendezvous
					}
				}
				if best != "" {
					fmt.Fprintf(&b, "first: %s\n", best)
				}
			default:
				d.Fatalf(t, "no command %s", d.Cmd)
			}
			return b.String()
		})
	})
}

// sameClass: the pods of a class are offered and bid for as one, by what representative leaves of them. So no plugin may see a field that
// it does not leave.
func sameClass(t *testing.T, ledgers map[string]*Ledger, pod *corev1.Pod) {
	t.Helper()
	one := representative(pod)
	one.Namespace = pod.Namespace
	for name, l := range ledgers {
		curve, parts, refusal := l.Quote(pod, 3)
		asOne, partsAsOne, refusalAsOne := l.Quote(one, 3)
		if !reflect.DeepEqual(curve, asOne) || !reflect.DeepEqual(parts, partsAsOne) || !reflect.DeepEqual(refusal, refusalAsOne) {
			t.Errorf("%s bids %v %v %v for a pod, and %v %v %v for its class: a plugin reads a field that representative does not copy",
				name, curve, parts, refusal, asOne, partsAsOne, refusalAsOne)
		}
	}
}
