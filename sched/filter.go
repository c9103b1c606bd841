package sched

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// Filter is one reason for which a node may decline a pod.
type Filter struct {
	// Name is kube-scheduler's.
	Name string
	// Check returns why the node declines, in kube-scheduler's words; nothing if it does not.
	Check func(pod *counted, l *Ledger) []string
	// Sentence says the same to a person who looks at this one node.
	Sentence func(pod *counted, l *Ledger) string
}

// filters in the order in which they are asked: the first that declines speaks.
var filters = []Filter{
	{"NodeUnschedulable", nodeUnschedulable, func(_ *counted, l *Ledger) string {
		return fmt.Sprintf("%s is cordoned", l.node.Name)
	}},
	{"NodeName", nodeName, func(p *counted, l *Ledger) string {
		return fmt.Sprintf("the pod asks for node %s, this is %s", p.pod.Spec.NodeName, l.node.Name)
	}},
	{"TaintToleration", taintToleration, func(p *counted, l *Ledger) string {
		t, _ := untolerated(p.pod, l.node, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute)
		return fmt.Sprintf("the pod does not tolerate %s's taint %s", l.node.Name, t.ToString())
	}},
	{"NodeAffinity", nodeAffinity, func(_ *counted, l *Ledger) string {
		return fmt.Sprintf("%s's labels are not those of the pod's nodeSelector or required node affinity", l.node.Name)
	}},
	{"NodePorts", nodePorts, func(p *counted, l *Ledger) string {
		for _, want := range p.ports {
			if l.reserved(want) {
				return fmt.Sprintf("host port %d/%s is one of %s's own", want.port, want.protocol, l.node.Name)
			}
			if l.taken(want) {
				return fmt.Sprintf("host port %d/%s is taken on %s", want.port, want.protocol, l.node.Name)
			}
		}
		return ""
	}},
	{"NodeResourcesFit", nodeResourcesFit, func(p *counted, l *Ledger) string {
		var out []string
		for _, s := range shortages(p.need, l.used, l.capacity) {
			out = append(out, fmt.Sprintf("%s: requested %d, used %d of %d", s.name, s.need, s.used, s.capacity))
		}
		return fmt.Sprintf("%s has not enough %s", l.node.Name, strings.Join(out, "; "))
	}},
}

// Refusal is a node's no to a pod.
type Refusal struct {
	Plugin string `json:"plugin"`
	// Reasons are kube-scheduler's words, which it counts over the nodes.
	Reasons []string `json:"reasons"`
	// Sentence explains it for this node.
	Sentence string `json:"sentence"`
}

// Check asks every filter about a pod and returns the first refusal; nil if the pod fits.
func (l *Ledger) Check(pod *corev1.Pod) *Refusal { return l.check(count(pod)) }

func (l *Ledger) check(pod *counted) *Refusal {
	for _, f := range filters {
		if reasons := f.Check(pod, l); len(reasons) > 0 {
			return &Refusal{Plugin: f.Name, Reasons: reasons, Sentence: f.Sentence(pod, l)}
		}
	}
	return nil
}

func nodeUnschedulable(p *counted, l *Ledger) []string {
	cordon := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if l.node.Spec.Unschedulable && !schedulinghelpers.TolerationsTolerateTaint(klog.Background(), p.pod.Spec.Tolerations, &cordon, true) {
		return []string{"node(s) were unschedulable"}
	}
	return nil
}

func nodeName(p *counted, l *Ledger) []string {
	if n := p.pod.Spec.NodeName; n != "" && n != l.node.Name {
		return []string{"node(s) didn't match the requested node name"}
	}
	return nil
}

// untolerated is the first taint with one of the effects that the pod does not tolerate.
func untolerated(pod *corev1.Pod, node *corev1.Node, effects ...corev1.TaintEffect) (corev1.Taint, bool) {
	return schedulinghelpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations,
		func(t *corev1.Taint) bool { return slices.Contains(effects, t.Effect) }, true)
}

func taintToleration(p *counted, l *Ledger) []string {
	if _, bad := untolerated(p.pod, l.node, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute); bad {
		return []string{"node(s) had untolerated taint(s)"}
	}
	return nil
}

func nodeAffinity(p *counted, l *Ledger) []string {
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(p.pod).Match(l.node); !ok || err != nil {
		return []string{"node(s) didn't match Pod's node affinity/selector"}
	}
	return nil
}

func nodePorts(p *counted, l *Ledger) []string {
	if slices.ContainsFunc(p.ports, l.taken) {
		return []string{"node(s) didn't have free ports for the requested pod ports"}
	}
	return nil
}

func nodeResourcesFit(p *counted, l *Ledger) []string {
	var out []string
	for _, s := range shortages(p.need, l.used, l.capacity) {
		if s.name == string(corev1.ResourcePods) {
			out = append(out, "Too many pods")
		} else {
			out = append(out, "Insufficient "+s.name)
		}
	}
	return out
}

type shortage struct {
	name                 string
	need, used, capacity int64
}

// shortages lists what a pod needs and the node has not left. A need of nothing is always met; with no need at all
// given, what is already promised too much is listed.
func shortages(need, used, capacity amounts) []shortage {
	audit := need.pods == 0
	var out []shortage
	short := func(name string, need, used, capacity int64) {
		if (need > 0 || audit) && need > capacity-used {
			out = append(out, shortage{name, need, used, capacity})
		}
	}
	short("pods", need.pods, used.pods, capacity.pods)
	short("cpu", need.cpu, used.cpu, capacity.cpu)
	short("memory", need.memory, used.memory, capacity.memory)
	short("ephemeral-storage", need.storage, used.storage, capacity.storage)
	names := need.other
	if audit {
		names = used.other
	}
	other := make([]string, 0, len(names))
	for name := range names {
		other = append(other, string(name))
	}
	slices.Sort(other)
	for _, name := range other {
		n := corev1.ResourceName(name)
		short(name, need.other[n], used.other[n], capacity.other[n])
	}
	return out
}
