package control

import (
	"context"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestJobsOfOthers: a Job that another controller manages is left alone; one of ours takes the pods that its selector takes and lets the others go.
func TestJobsOfOthers(t *testing.T) {
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- replica.Run(ctx) }()
	defer func() { cancel(); <-done; replica.Close() }()
	one, other, ours := int32(1), "example.com/kueue", batchv1.JobControllerName
	put := func(managedBy *string) *store.Entry {
		t.Helper()
		k := crdt.Key{Resource: "batch/jobs", Namespace: "a", Name: "j"}
		base, _ := replica.Snapshot().Get(k)
		e, err := replica.Commit(ctx, store.Write{Key: k, Base: base, Object: &batchv1.Job{TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}, ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "j"},
			Spec: batchv1.JobSpec{ManagedBy: managedBy, Parallelism: &one, Completions: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"job": "j"}},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"job": "j"}}}}}})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	look := func(e *store.Entry) plan {
		return job(&world{snap: replica.Snapshot(), now: epoch, self: "n1", alive: []string{"n1"}, nodes: map[string]sight{"n1": {reachable: true, ready: true}}}, e)
	}
	if p := look(put(&other)); len(p.writes) > 0 {
		t.Errorf("a Job of another's: %+v", p.writes)
	}
	e := put(&ours)
	if p := look(e); len(p.writes) == 0 || p.writes[0].verb != create {
		t.Errorf("a Job of ours: %+v", p.writes)
	}
	for name, labels := range map[string]map[string]string{"orphan": {"job": "j"}, "stranger": {"job": "k"}} {
		p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, Labels: labels}}
		if name == "stranger" {
			j, err := store.As[batchv1.Job](e)
			if err != nil {
				t.Fatal(err)
			}
			p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(j, batchv1.SchemeGroupVersion.WithKind("Job"))}
		}
		if _, err := replica.Commit(ctx, store.Write{Key: crdt.Key{Resource: "pods", Namespace: "a", Name: name}, Object: p}); err != nil {
			t.Fatal(err)
		}
	}
	owned := map[string]int{}
	for _, w := range look(e).writes {
		if p, ok := w.obj.(*corev1.Pod); ok && w.verb == commit {
			owned[p.Name] = len(p.OwnerReferences)
		}
	}
	if n, ok := owned["orphan"]; !ok || n != 1 {
		t.Errorf("a pod that the selector takes: %v", owned)
	}
	if n, ok := owned["stranger"]; !ok || n != 0 {
		t.Errorf("a pod that the selector does not take: %v", owned)
	}
}
