package control

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/component-helpers/storage/ephemeral"

	"murmur/crdt"
	"murmur/crdt/store"
)

// What is in use is not deleted: admission gives each claim, volume and class of volume attributes a finalizer, and here it is
// taken away when nothing uses what is to go. Upstream asks its API server whether that is so. Here a pod that uses a claim may be on a
// node out of sight, or on its way from one that has just come in sight; so that nothing uses it is believed only of a world
// that has been whole for a while.

const (
	volumes          = "persistentvolumes"
	attributeClasses = "storage.k8s.io/volumeattributesclasses"

	claimFinalizer      = "kubernetes.io/pvc-protection"
	volumeFinalizer     = "kubernetes.io/pv-protection"
	attributesFinalizer = "kubernetes.io/vac-protection"
)

// protected is an object that a finalizer keeps.
type protected interface {
	runtime.Object
	metav1.Object
}

// protect gives an object its finalizer if it has none, and takes it away if it is to go and used says that nothing uses it.
func protect[T protected](w *world, obj T, copied func() T, finalizer string, used func() bool) plan {
	has, p := slices.Contains(obj.GetFinalizers(), finalizer), plan{}
	switch {
	case obj.GetDeletionTimestamp() == nil && !has:
		next := copied()
		next.SetFinalizers(append(next.GetFinalizers(), finalizer))
		p.writes = []write{{verb: update, obj: next}}
	case obj.GetDeletionTimestamp() != nil && has && !used():
		whole, at := w.whole()
		if !whole {
			p.at(at)
			return p
		}
		next := copied()
		next.SetFinalizers(slices.DeleteFunc(next.GetFinalizers(), func(f string) bool { return f == finalizer }))
		p.writes = []write{{verb: update, obj: next}}
	}
	return p
}

// whole tells whether what is not seen is not there: every registered node is in sight, and was long enough for what it has to be
// here. at is when it may be, if time is all that lacks.
func (w *world) whole() (ok bool, at time.Time) {
	if out(w.nodes) > 0 {
		return false, time.Time{}
	}
	if at = w.unbroken(time.Time{}).Add(unseen); w.now.Before(at) {
		return false, at
	}
	return true, time.Time{}
}

// unbroken is since when all other nodes have been in sight, if they are, but no earlier than a time. One may have been out of sight for less
// than the time between two looks.
func (w *world) unbroken(since time.Time) time.Time {
	for name, s := range w.nodes {
		if name != w.self && s.since.After(since) {
			since = s.since
		}
	}
	return since
}

// claimProtection keeps a claim while a pod that has a node uses it. Pods without one will not start with a claim that is to go.
func claimProtection(w *world, e *store.Entry) plan {
	claim, err := store.As[corev1.PersistentVolumeClaim](e)
	if err != nil {
		return plan{}
	}
	return protect(w, claim, claim.DeepCopy, claimFinalizer, func() bool {
		return slices.ContainsFunc(store.Find[corev1.Pod](w.snap, store.ByClaim, claim.Name, "pods", claim.Namespace), func(p *corev1.Pod) bool { return mounts(p, claim) })
	})
}

// mounts tells whether a pod on a node has a volume of a claim. A claim that was made for the pod is not kept by one that its
// kubelet is done with: what each of them waits for must not be the other.
func mounts(p *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if p.Spec.NodeName == "" {
		return false
	}
	done := p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		if v.PersistentVolumeClaim != nil {
			return v.PersistentVolumeClaim.ClaimName == claim.Name
		}
		return v.Ephemeral != nil && !done && ephemeral.VolumeClaimName(p, &v) == claim.Name && ephemeral.VolumeIsForPod(p, claim) == nil
	})
}

// volumeProtection keeps a volume while a claim is bound to it. Upstream reads that off the volume's phase, which its binder keeps; here
// the claims themselves say it.
func volumeProtection(w *world, e *store.Entry) plan {
	v, err := store.As[corev1.PersistentVolume](e)
	if err != nil {
		return plan{}
	}
	return protect(w, v, v.DeepCopy, volumeFinalizer, func() bool {
		if ref := v.Spec.ClaimRef; ref != nil && ref.UID != "" {
			if claim, ok := w.snap.Get(crdt.Key{Resource: claims, Namespace: ref.Namespace, Name: ref.Name}); ok && claim.UID == ref.UID {
				return true
			}
		}
		for range w.snap.Indexed(store.ByVolume, v.Name, claims, "", "") {
			return true
		}
		return false
	})
}

// attributesProtection keeps a class of volume attributes while a volume or a claim names it.
func attributesProtection(w *world, e *store.Entry) plan {
	class, err := store.As[storagev1.VolumeAttributesClass](e)
	if err != nil {
		return plan{}
	}
	return protect(w, class, class.DeepCopy, attributesFinalizer, func() bool {
		for range w.snap.Under(store.ByAttributes, class.Name) {
			return true
		}
		return false
	})
}
