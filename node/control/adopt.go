package control

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/controller"

	"murmur/crdt"
)

// recommit writes an object decoded from the world's snapshot back, changed, past the API. Controllers have no
// permission to update what they adopt; upstream's patch it.
func recommit(w *world, resource string, obj runtime.Object) write {
	m, err := meta.Accessor(obj)
	if err != nil {
		panic(err) // only objects with metadata are ever decoded
	}
	key := crdt.Key{Resource: resource, Namespace: m.GetNamespace(), Name: m.GetName()}
	base, _ := w.snap.Get(key)
	return write{verb: commit, key: key, obj: obj, base: base}
}

func without(refs []metav1.OwnerReference, uid types.UID) []metav1.OwnerReference {
	return slices.DeleteFunc(slices.Clone(refs), func(r metav1.OwnerReference) bool { return r.UID == uid })
}

// adoptPods gives the set the pods that its selector takes and no one controls, and lets go those that it no longer takes.
func adoptPods(w *world, owner metav1.Object, kind schema.GroupVersionKind, by *metav1.LabelSelector, mine []*corev1.Pod) plan {
	selector, err := metav1.LabelSelectorAsSelector(by)
	if err != nil || selector.Empty() {
		return plan{}
	}
	p := plan{}
	for _, q := range mine {
		if q.DeletionTimestamp == nil && !selector.Matches(labels.Set(q.Labels)) {
			free := q.DeepCopy()
			free.OwnerReferences = without(free.OwnerReferences, owner.GetUID())
			p.writes = append(p.writes, recommit(w, "pods", free))
		}
	}
	if owner.GetDeletionTimestamp() != nil {
		return p
	}
	for _, q := range orphans[corev1.Pod](w, "pods", owner.GetNamespace(), selector) {
		if controller.IsPodActive(q) {
			taken := q.DeepCopy()
			taken.OwnerReferences = append(taken.OwnerReferences, *metav1.NewControllerRef(owner, kind))
			p.writes = append(p.writes, recommit(w, "pods", taken))
		}
	}
	return p
}

// adoptSets does for a Deployment what adoptPods does for a ReplicaSet.
func adoptSets(w *world, d *appsv1.Deployment, mine []*appsv1.ReplicaSet) plan {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		return plan{}
	}
	p := plan{}
	for _, rs := range mine {
		if rs.DeletionTimestamp == nil && !selector.Matches(labels.Set(rs.Labels)) {
			free := rs.DeepCopy()
			free.OwnerReferences = without(free.OwnerReferences, d.UID)
			p.writes = append(p.writes, recommit(w, replicaSets, free))
		}
	}
	if d.DeletionTimestamp != nil {
		return p
	}
	for _, rs := range orphans[appsv1.ReplicaSet](w, replicaSets, d.Namespace, selector) {
		if rs.DeletionTimestamp == nil {
			taken := rs.DeepCopy()
			taken.OwnerReferences = append(taken.OwnerReferences, *metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment")))
			p.writes = append(p.writes, recommit(w, replicaSets, taken))
		}
	}
	return p
}
