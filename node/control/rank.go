package control

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"murmur/rendezvous"
)

// The values of ReconcileAnnotation.
const (
	bestScore       = "best_score"
	keepOriginal    = "keep_original"
	keepReplacement = "keep_replacement"
	longestRunning  = "longest_running"
)

// standing is all that ranks a pod among the pods of its owner. It holds replicated fields only, so that all nodes that
// see the same pods rank them the same.
type standing struct {
	pod *corev1.Pod
	// current: made from the owner's present template.
	current, assigned bool
	phase             int
	ready             bool
	// cost is upstream's pod-deletion-cost.
	cost int
	// cover: stands in for a pod that still counts.
	cover bool
	// doubled is how many ready pods of the workload are on the node.
	doubled int
	started time.Time
	lot     uint64
}

var phases = map[corev1.PodPhase]int{corev1.PodRunning: 2, corev1.PodUnknown: 1}

// compare is negative if a is to be kept rather than b, under the owner's policy. It is zero only for one and the same
// pod: it compares fields of each alone, one after the other, so the order is total.
func compare(a, b *standing, policy string) int {
	first := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	if c := cmp.Or(first(a.current, b.current), first(a.assigned, b.assigned), cmp.Compare(b.phase, a.phase),
		first(a.ready, b.ready), cmp.Compare(b.cost, a.cost)); c != 0 {
		return c
	}
	spread, age := cmp.Compare(a.doubled, b.doubled), a.started.Compare(b.started)
	var c int
	switch policy {
	case bestScore:
		c = spread
	case keepReplacement:
		c = first(a.cover, b.cover)
	case longestRunning:
		c = age
	default:
		c = first(b.cover, a.cover)
	}
	return cmp.Or(c, spread, age, cmp.Compare(a.lot, b.lot), cmp.Compare(a.pod.UID, b.pod.UID))
}

// ranked orders pods of an owner, those to be kept first. counting are the names of all the owner's pods that count,
// near and far; neighbours are the ready pods of the same workload, by node.
func ranked(rs *appsv1.ReplicaSet, pods []*corev1.Pod, counting map[string]bool, neighbours map[string]int) []*standing {
	policy := rs.Annotations[ReconcileAnnotation]
	if v, ok := rs.Spec.Template.Annotations[ReconcileAnnotation]; ok {
		policy = v
	}
	template := rs.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	out := make([]*standing, 0, len(pods))
	for _, p := range pods {
		s := &standing{
			pod: p, assigned: p.Spec.NodeName != "", phase: phases[p.Status.Phase], ready: podutil.IsPodReady(p),
			current: p.Labels[appsv1.DefaultDeploymentUniqueLabelKey] == template,
			cover:   counting[p.Annotations[CoversAnnotation]],
			doubled: neighbours[p.Spec.NodeName],
			started: p.CreationTimestamp.Time,
			lot:     rendezvous.OwnerKey(rs.UID).Weight(string(p.UID)),
		}
		if n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32); err == nil {
			s.cost = int(n)
		}
		if p.Status.StartTime != nil {
			s.started = p.Status.StartTime.Time
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *standing) int { return compare(a, b, policy) })
	return out
}
