package control

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt/store"
)

const resourceQuotas = "resourcequotas"

// Usage counts what the objects of a snapshot use of a quota.
type Usage func(*store.Snapshot, *corev1.ResourceQuota) (corev1.ResourceList, error)

// returned is how long usage must have been lower than what is charged before the difference is given back: admission
// charges an object a moment before it is stored.
const returned = 500 * time.Millisecond

// charges keeps the status of quotas: the limits as they are, and the usage by what exists. Admission has charged what was
// created; this gives back what is gone.
type charges struct {
	usage Usage
	// lower is since when the usage of a quota has been below its charge.
	lower map[types.UID]time.Time
}

func newCharges(usage Usage) *charges {
	return &charges{usage: usage, lower: map[types.UID]time.Time{}}
}

func (c *charges) prepare(w *world) {
	if !w.everything {
		return
	}
	present := map[types.UID]bool{}
	for e := range w.snap.Range(resourceQuotas, "", "") {
		present[e.UID] = true
	}
	maps.DeleteFunc(c.lower, func(uid types.UID, _ time.Time) bool { return !present[uid] })
}

func (c *charges) decide(w *world, e *store.Entry) plan {
	q, err := store.As[corev1.ResourceQuota](e)
	if err != nil || q.DeletionTimestamp != nil {
		return plan{}
	}
	used, err := c.usage(w.snap, q)
	if err != nil {
		return plan{wake: w.now.Add(time.Minute)}
	}
	p := plan{}
	st := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: corev1.ResourceList{}}
	lower := false
	for name := range q.Spec.Hard {
		now, counts := used[name]
		was, charged := q.Status.Used[name]
		switch {
		case !counts && charged:
			now = was // nothing here knows what it is
		case !counts:
			continue
		case charged && now.Cmp(was) < 0:
			lower = true
		}
		st.Used[name] = now
	}
	if !lower {
		delete(c.lower, q.UID)
	} else {
		since, ok := c.lower[q.UID]
		if !ok {
			since = w.now
			c.lower[q.UID] = since
		}
		if at := since.Add(returned); w.now.Before(at) {
			p.at(at)
			for name, was := range q.Status.Used {
				if now, ok := st.Used[name]; ok && now.Cmp(was) < 0 {
					st.Used[name] = was
				}
			}
		}
	}
	p.at(released(w, q.Namespace))
	if !equality.Semantic.DeepEqual(st, q.Status) {
		next := q.DeepCopy()
		next.Status = st
		p.writes = append(p.writes, write{verb: status, obj: next})
	}
	return p
}

// released is when the next pod of a namespace stops being charged for though it is there: its time to end is over.
func released(w *world, namespace string) (next time.Time) {
	for e := range w.snap.Range("pods", namespace, "") {
		if e.Raw("metadata", "deletionTimestamp") == nil {
			continue
		}
		p, err := store.As[corev1.Pod](e)
		if err != nil || p.DeletionTimestamp == nil || p.DeletionGracePeriodSeconds == nil {
			continue
		}
		at := p.DeletionTimestamp.Add(time.Duration(*p.DeletionGracePeriodSeconds)*time.Second + time.Millisecond)
		if w.now.Before(at) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// charged tells whether what is charged for an object may be another after a change of it. Of most kinds it is only that there is one.
func charged(was, is *store.Entry) bool {
	e := store.Event{Entry: is, Old: was}
	switch is.Key.Resource {
	case "services":
		return !sameRaw(e, "spec")
	case claims:
		return !sameRaw(e, "spec") || !sameRaw(e, "status")
	case "pods":
	default:
		return false
	}
	for _, path := range [][]string{{"spec"}, {"status", "phase"}, {"status", "resources"}, {"metadata", "deletionTimestamp"}, {"metadata", "deletionGracePeriodSeconds"}} {
		if !sameRaw(e, path...) {
			return true
		}
	}
	a, err := store.As[corev1.Pod](was)
	b, failed := store.As[corev1.Pod](is)
	if err != nil || failed != nil {
		return true
	}
	return !slices.EqualFunc(a.Status.ContainerStatuses, b.Status.ContainerStatuses, sameAllocation) ||
		!slices.EqualFunc(a.Status.InitContainerStatuses, b.Status.InitContainerStatuses, sameAllocation) ||
		!slices.EqualFunc(resizes(a), resizes(b), equality.Semantic.DeepEqual)
}

// sameAllocation tells whether a container was given the same. A resize in place changes it, and until it is done both count.
func sameAllocation(a, b corev1.ContainerStatus) bool {
	return a.Name == b.Name && equality.Semantic.DeepEqual(a.AllocatedResources, b.AllocatedResources) && equality.Semantic.DeepEqual(a.Resources, b.Resources)
}

// resizes are the conditions that say what becomes of a resize.
func resizes(p *corev1.Pod) (out []any) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
			out = append(out, c.Type, c.Status, c.Reason)
		}
	}
	return out
}
