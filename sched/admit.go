package sched

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	podresource "k8s.io/component-helpers/resource"
)

// Rejection is why a node does not run a pod that was bound to it past the exchange, in the kubelet's words. The pod
// ends with phase Failed, this reason and this message.
type Rejection struct {
	Reason, Message string
}

// Admit tells whether a pod whose creator chose the node may run there beside the pods already admitted; nil if it may.
// What the kubelet does not check, it does not either: cordons, and taints that only keep schedulers away.
func Admit(pod *corev1.Pod, node *corev1.Node, admitted []*corev1.Pod) *Rejection {
	l := NewLedger(node)
	for _, p := range admitted {
		if p.UID != pod.UID && !finished(p) {
			l.Add(p)
		}
	}
	c := count(pod)
	for _, s := range shortages(c.need, l.used, l.capacity) {
		return &Rejection{
			Reason: "OutOf" + s.name,
			Message: fmt.Sprintf("Pod was rejected: Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
				s.name, s.need, s.used, s.capacity),
		}
	}
	for _, f := range []struct {
		name  string
		check func(*counted, *Ledger) []string
	}{{"NodeAffinity", nodeAffinity}, {"NodeName", nodeName}, {"NodePorts", nodePorts}} {
		if reasons := f.check(c, l); len(reasons) > 0 {
			return &Rejection{f.name, fmt.Sprintf("Pod was rejected: Predicate %s failed: %s", f.name, reasons[0])}
		}
	}
	static := pod.Annotations["kubernetes.io/config.source"]
	if _, bad := untolerated(pod, node, corev1.TaintEffectNoExecute); bad && (static == "" || static == "api") {
		return &Rejection{"TaintToleration", "Pod was rejected: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"}
	}
	return nil
}

// Resize tells whether a pod that runs on the node may have the resources it asks for beside the pods already admitted; nil if it
// may. The reason is one of a pod's condition PodResizePending: what the node never has is infeasible, what it has not now is deferred.
func Resize(pod *corev1.Pod, node *corev1.Node, admitted []*corev1.Pod) *Rejection {
	l := NewLedger(node)
	need := amountsOf(podresource.PodRequests(pod, podresource.PodResourcesOptions{}))
	need.pods = 1
	for _, s := range shortages(need, l.used, l.capacity) {
		return &Rejection{corev1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", s.name, s.need, s.capacity)}
	}
	for _, p := range admitted {
		l.Add(p)
	}
	for _, s := range shortages(need, l.used, l.capacity) {
		return &Rejection{corev1.PodReasonDeferred, fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", s.name, s.need, s.used, s.capacity)}
	}
	return nil
}
