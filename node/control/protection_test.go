package control

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestProtection: what a finalizer keeps goes when nothing uses it and the world is whole, and not before.
func TestProtection(t *testing.T) {
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = replica.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; replica.Close() })
	put := func(resource string, obj protected) *store.Entry {
		t.Helper()
		key := crdt.Key{Resource: resource, Namespace: obj.GetNamespace(), Name: obj.GetName()}
		base, _ := replica.Snapshot().Get(key)
		e, err := replica.Commit(ctx, store.Write{Key: key, Object: obj, Base: base})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	core, ending := metav1.TypeMeta{APIVersion: "v1"}, &metav1.Time{Time: epoch}
	meta := func(name, namespace string, deleted bool, finalizers ...string) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Name: name, Namespace: namespace, Finalizers: finalizers}
		if deleted {
			m.DeletionTimestamp = ending
		}
		return m
	}
	claim := func(name, volume string, deleted bool, finalizers ...string) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{TypeMeta: core, ObjectMeta: meta(name, "default", deleted, finalizers...)}
		c.Kind, c.Spec.VolumeName = "PersistentVolumeClaim", volume
		return c
	}
	volume := func(name string, of types.UID, deleted bool, finalizers ...string) *corev1.PersistentVolume {
		v := &corev1.PersistentVolume{TypeMeta: core, ObjectMeta: meta(name, "", deleted, finalizers...)}
		v.Kind = "PersistentVolume"
		if of != "" {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "used", UID: of}
		}
		return v
	}
	pod := func(name, node, claim string, ephemeral bool) *corev1.Pod {
		p := &corev1.Pod{TypeMeta: core, ObjectMeta: meta(name, "default", false), Spec: corev1.PodSpec{NodeName: node}}
		p.Kind = "Pod"
		source := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}
		if ephemeral {
			source = corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
		}
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}}
		return p
	}
	whole := map[string]sight{"n1": {reachable: true, since: second(0)}, "n2": {reachable: true, since: second(0)}}
	fresh := map[string]sight{"n1": {reachable: true, since: second(100)}, "n2": {reachable: true, since: second(100)}}
	alone := map[string]sight{"n1": {reachable: true, since: second(100)}}
	cut := map[string]sight{"n1": {reachable: true, since: second(0)}, "n2": {}}

	const keeps, gives, frees, waits = "keeps", "gives a finalizer", "frees", "waits"
	look := func(nodes map[string]sight, decide func(*world, *store.Entry) plan, e *store.Entry, finalizer string) string {
		t.Helper()
		p := decide(&world{snap: replica.Snapshot(), now: second(100), self: "n1", nodes: nodes}, e)
		switch {
		case len(p.writes) == 0 && !p.wake.IsZero():
			if !p.wake.Equal(second(100).Add(unseen)) {
				t.Errorf("%s: waits until %s", e.Key, p.wake)
			}
			return waits
		case len(p.writes) == 0:
			return keeps
		}
		if len(p.writes) != 1 || p.writes[0].verb != update {
			t.Fatalf("%s: %+v", e.Key, p.writes)
		}
		now := p.writes[0].obj.(metav1.Object).GetFinalizers()
		if !slices.Contains(now, "other/one") {
			t.Errorf("%s: the finalizers of others are %v", e.Key, now)
		}
		if slices.Contains(now, finalizer) {
			return gives
		}
		return frees
	}

	used := put(claims, claim("used", "", false, "other/one", claimFinalizer))
	put("pods", pod("p", "n1", "used", false))
	put("pods", pod("placeless", "", "wanted", false))
	put("pods", pod("scratch", "n2", "", true))
	put(claims, claim("bound", "held", false, claimFinalizer))
	small := "small"
	classed := volume("classed", "", false, volumeFinalizer)
	classed.Spec.VolumeAttributesClassName = &small
	put(volumes, classed)
	own := claim("scratch-v", "", true, "other/one", claimFinalizer)
	scratch, _ := replica.Snapshot().Get(crdt.Key{Resource: "pods", Namespace: "default", Name: "scratch"})
	yes := true
	own.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "scratch", UID: scratch.UID, Controller: &yes}}
	class := func(name string, deleted bool, finalizers ...string) *storagev1.VolumeAttributesClass {
		return &storagev1.VolumeAttributesClass{TypeMeta: metav1.TypeMeta{APIVersion: "storage.k8s.io/v1", Kind: "VolumeAttributesClass"}, ObjectMeta: meta(name, "", deleted, finalizers...)}
	}

	for _, c := range []struct {
		what     string
		resource string
		obj      protected
		nodes    map[string]sight
		want     string
	}{
		{"a claim without a finalizer", claims, claim("old", "", false, "other/one"), cut, gives},
		{"a claim with one", claims, claim("old", "", false, "other/one", claimFinalizer), whole, keeps},
		{"a claim that goes before it had one", claims, claim("late", "", true, "other/one"), whole, keeps},
		{"a used claim that is to go", claims, claim("used", "", true, "other/one", claimFinalizer), whole, keeps},
		{"an unused one", claims, claim("free", "", true, "other/one", claimFinalizer), whole, frees},
		{"an unused one on a side of a partition", claims, claim("free", "", true, "other/one", claimFinalizer), cut, keeps},
		{"an unused one with a node that has just come", claims, claim("free", "", true, "other/one", claimFinalizer), fresh, waits},
		{"an unused one on the only node, just started", claims, claim("free", "", true, "other/one", claimFinalizer), alone, frees},
		{"one that a pod without a node waits for", claims, claim("wanted", "", true, "other/one", claimFinalizer), whole, frees},
		{"one that was made for a pod", claims, own, whole, keeps},
		{"a volume without a finalizer", volumes, volume("old", "", false, "other/one"), whole, gives},
		{"an unused volume", volumes, volume("free", "", true, "other/one", volumeFinalizer), whole, frees},
		{"a volume that a claim names", volumes, volume("held", "", true, "other/one", volumeFinalizer), whole, keeps},
		{"a volume that names a claim", volumes, volume("given", used.UID, true, "other/one", volumeFinalizer), whole, keeps},
		{"a volume that names a claim of that name that is gone", volumes, volume("given", "another", true, "other/one", volumeFinalizer), whole, frees},
		{"a class that a volume has", attributeClasses, class("small", true, "other/one", attributesFinalizer), whole, keeps},
		{"a class that nothing has", attributeClasses, class("large", true, "other/one", attributesFinalizer), whole, frees},
		{"a class without a finalizer", attributeClasses, class("large", false, "other/one"), whole, gives},
	} {
		decide, finalizer := claimProtection, claimFinalizer
		switch c.resource {
		case volumes:
			decide, finalizer = volumeProtection, volumeFinalizer
		case attributeClasses:
			decide, finalizer = attributesProtection, attributesFinalizer
		}
		if got := look(c.nodes, decide, put(c.resource, c.obj), finalizer); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}

	// A pod that its kubelet is done with no longer keeps the claim that was made for it, or neither would ever go.
	ended := pod("scratch", "n2", "", true)
	ended.DeletionTimestamp, ended.DeletionGracePeriodSeconds = ending, new(int64)
	put("pods", ended)
	if got := look(whole, claimProtection, put(claims, own), claimFinalizer); got != frees {
		t.Errorf("a claim made for a pod that has ended: %s", got)
	}
}
