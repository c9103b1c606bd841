package control_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestPodSecurity: a Deployment whose pods the namespace's level refuses says so, and is rolled out when the level is lifted.
func TestPodSecurity(t *testing.T) {
	c := start(t, "n1")
	level := func(labels map[string]string) {
		edit(c, crdt.Key{Resource: "namespaces", Name: "default"}, func(ns *corev1.Namespace) { ns.Labels = labels })
	}
	level(map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	_, err := c.admin.Create(c.ctx, web("nginx:1", 1))
	check(t, err)
	c.eventually("told", func(s *store.Snapshot) bool {
		for _, cond := range c.deployment().Status.Conditions {
			if cond.Type == appsv1.DeploymentReplicaFailure {
				return cond.Status == corev1.ConditionTrue && cond.Reason == "FailedCreate" && strings.Contains(cond.Message, `violates PodSecurity "restricted:latest"`)
			}
		}
		return false
	})
	if got := uids(c.store.Snapshot()); len(got) > 0 {
		t.Errorf("pods %v", got)
	}
	level(nil)
	c.eventually("works", complete(1, "1"))
}

// TestClaimInUse: a claim that is deleted goes when the pod that uses it has gone, and its volume after it.
func TestClaimInUse(t *testing.T) {
	c := start(t, "n1")
	_, err := c.admin.Create(c.ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{"storage": resource.MustParse("1Mi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/v"}}}})
	check(t, err)
	class := ""
	_, err = c.admin.Create(c.ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, VolumeName: "v", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Mi")}}}})
	check(t, err)
	claim, volume := crdt.Key{Resource: "persistentvolumeclaims", Namespace: "default", Name: "a"}, crdt.Key{Resource: "persistentvolumes", Name: "v"}
	_, err = c.admin.Create(c.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes:    []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "a"}}}}}})
	check(t, err)
	pod := crdt.Key{Resource: "pods", Namespace: "default", Name: "p"}
	c.eventually("runs", func(s *store.Snapshot) bool {
		p, ok := store.Get[corev1.Pod](s, pod)
		return ok && p.Spec.NodeName != ""
	})
	check(t, c.admin.Delete(c.ctx, claim, metav1.DeleteOptions{}))
	check(t, c.admin.Delete(c.ctx, volume, metav1.DeleteOptions{}))
	// What is decided about an unused claim is decided while these two wait.
	_, err = c.admin.Create(c.ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "default"}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Mi")}}}})
	check(t, err)
	unused := crdt.Key{Resource: "persistentvolumeclaims", Namespace: "default", Name: "b"}
	check(t, c.admin.Delete(c.ctx, unused, metav1.DeleteOptions{}))
	gone := func(k crdt.Key) func(*store.Snapshot) bool {
		return func(s *store.Snapshot) bool { _, there := s.Get(k); return !there }
	}
	c.eventually("the unused claim has gone", gone(unused))
	for _, k := range []crdt.Key{claim, volume} {
		m := &metav1.PartialObjectMetadata{}
		if e, ok := c.store.Snapshot().Get(k); !ok || e.Into(m) != nil || m.DeletionTimestamp == nil || len(m.Finalizers) != 1 {
			t.Fatalf("%s in use: there %v, %+v", k, ok, m.ObjectMeta)
		}
	}
	check(t, c.admin.Delete(c.ctx, pod, metav1.DeleteOptions{}))
	c.eventually("the claim has gone", gone(claim))
	c.eventually("the volume has gone", gone(volume))
}
