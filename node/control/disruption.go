package control

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	budgethelper "k8s.io/component-helpers/apps/poddisruptionbudget"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"murmur/crdt"
	"murmur/crdt/store"
)

const budgets = "policy/poddisruptionbudgets"

// evictionGrace is how long an evicted pod may take to be deleted before it counts again.
const evictionGrace = 2 * time.Minute

// disruption decides the status of one budget, from which evictions draw. Pods on nodes out of sight are not healthy from
// here, so a side of a partition allows what it can bear itself.
func disruption(w *world, e *store.Entry) plan {
	budget, err := store.As[policyv1.PodDisruptionBudget](e)
	if err != nil || budget.DeletionTimestamp != nil {
		return plan{}
	}
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		return plan{}
	}
	pods := store.Select[corev1.Pod](w.snap, "pods", budget.Namespace, selector)
	p := plan{}
	st := allowance(&p, budget, pods, func(p *corev1.Pod) bool { return w.nodes[p.Spec.NodeName].reachable }, scales(w, pods), w.now)
	next := budget.DeepCopy()
	next.Status = st
	budgethelper.UpdateDisruptionAllowedCondition(next)
	if !equality.Semantic.DeepEqual(next.Status, budget.Status) {
		p.writes = append(p.writes, write{verb: status, obj: next})
	}
	return p
}

// allowance is a budget's status. scale is how many pods the owners of these want.
func allowance(p *plan, budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod, seen func(*corev1.Pod) bool, scale int32, now time.Time) policyv1.PodDisruptionBudgetStatus {
	st := policyv1.PodDisruptionBudgetStatus{ObservedGeneration: budget.Generation, Conditions: budget.Status.DeepCopy().Conditions}
	for _, q := range pods {
		if q.DeletionTimestamp != nil {
			continue
		}
		// A pod made since is another of that name: it took the evicted one's place.
		if at, evicted := budget.Status.DisruptedPods[q.Name]; evicted && q.CreationTimestamp.Before(&at) {
			if ends := at.Add(evictionGrace); now.Before(ends) {
				p.at(ends)
				if st.DisruptedPods == nil {
					st.DisruptedPods = map[string]metav1.Time{}
				}
				st.DisruptedPods[q.Name] = at
				continue
			}
		}
		if podutil.IsPodReady(q) && seen(q) {
			st.CurrentHealthy++
		}
	}
	share := func(v *intstr.IntOrString) int32 {
		n, err := intstr.GetScaledValueFromIntOrPercent(v, int(scale), true)
		if err != nil {
			return scale // the API lets none of these in; if one is there, nothing may be disrupted
		}
		return int32(n)
	}
	switch {
	case budget.Spec.MaxUnavailable != nil:
		st.ExpectedPods, st.DesiredHealthy = scale, max(0, scale-share(budget.Spec.MaxUnavailable))
	case budget.Spec.MinAvailable != nil && budget.Spec.MinAvailable.Type == intstr.Int:
		st.ExpectedPods, st.DesiredHealthy = int32(len(pods)), budget.Spec.MinAvailable.IntVal
	case budget.Spec.MinAvailable != nil:
		st.ExpectedPods, st.DesiredHealthy = scale, share(budget.Spec.MinAvailable)
	}
	// A budget without pods allows nothing: its first ones may not have been counted yet.
	if st.ExpectedPods > 0 {
		st.DisruptionsAllowed = max(0, st.CurrentHealthy-st.DesiredHealthy)
	}
	return st
}

// scales adds up what the owners of some pods want, each once. Pods of nobody count as one.
func scales(w *world, pods []*corev1.Pod) int32 {
	want := map[types.UID]int32{}
	or := func(n *int32) int32 {
		if n == nil {
			return 1
		}
		return *n
	}
	for _, p := range pods {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			want[p.UID] = 1
			continue
		}
		key := crdt.Key{Namespace: p.Namespace, Name: ref.Name}
		switch ref.Kind {
		case "ReplicaSet":
			key.Resource = replicaSets
			rs, ok := store.Get[appsv1.ReplicaSet](w.snap, key)
			if !ok || rs.UID != ref.UID {
				continue
			}
			up := metav1.GetControllerOfNoCopy(rs)
			if up == nil {
				want[rs.UID] = or(rs.Spec.Replicas)
			} else if d, ok := store.Get[appsv1.Deployment](w.snap, crdt.Key{Resource: deployments, Namespace: p.Namespace, Name: up.Name}); ok && d.UID == up.UID {
				want[d.UID] = or(d.Spec.Replicas)
			}
		case "ReplicationController":
			key.Resource = replicationControllers
			if rc, ok := store.Get[corev1.ReplicationController](w.snap, key); ok && rc.UID == ref.UID {
				want[rc.UID] = or(rc.Spec.Replicas)
			}
		case "StatefulSet":
			key.Resource = "apps/statefulsets"
			if s, ok := store.Get[appsv1.StatefulSet](w.snap, key); ok && s.UID == ref.UID {
				want[s.UID] = or(s.Spec.Replicas)
			}
		}
	}
	var sum int32
	for _, n := range want {
		sum += n
	}
	return sum
}
