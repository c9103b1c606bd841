package control

import (
	"maps"
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
	if !equality.Semantic.DeepEqual(st, q.Status) {
		next := q.DeepCopy()
		next.Status = st
		p.writes = append(p.writes, write{verb: status, obj: next})
	}
	return p
}
