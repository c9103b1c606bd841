package httpapi

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestInProcess: the in-process client sees what an HTTP client would, errors too.
func TestInProcess(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c := n.As("system:serviceaccount:kube-system:replicaset-controller", "system:serviceaccounts")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-", Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	obj, err := c.Create(ctx, pod)
	check(t, err)
	p := obj.(*corev1.Pod)
	if p.Kind != "Pod" || p.Name == "" || p.UID == "" || p.ResourceVersion == "" || p.Spec.ServiceAccountName != "default" || p.Spec.DNSPolicy != corev1.DNSClusterFirst || len(p.ManagedFields) != 1 {
		t.Errorf("created %+v", p)
	}
	if pod.Name != "" || pod.Spec.DNSPolicy != "" {
		t.Error("the caller's object was changed")
	}
	if _, err := c.Create(ctx, p); !apierrors.IsAlreadyExists(err) {
		t.Errorf("a second create: %v", err)
	}
	if _, err := c.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}}); !apierrors.IsForbidden(err) {
		t.Errorf("a secret by the replicaset controller: %v", err)
	}
	p.Labels = map[string]string{"no spaces": "allowed"}
	if _, err := n.As("admin", "system:masters").Update(ctx, p); !apierrors.IsInvalid(err) {
		t.Errorf("a bad label: %v", err)
	}
	check(t, c.Delete(ctx, crdt.Key{Resource: "pods", Namespace: "default", Name: p.Name}, metav1.DeleteOptions{}))
	if err := c.Delete(ctx, crdt.Key{Resource: "pods", Namespace: "default", Name: p.Name}, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a second delete: %v", err)
	}
	typed, err := kubernetes.NewForConfig(&rest.Config{Host: "https://here", Transport: n.As("admin", "system:masters").RoundTripper()})
	check(t, err)
	w, err := typed.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{})
	check(t, err)
	_, err = typed.CoreV1().ConfigMaps("default").Create(ctx, configMap("x", nil), metav1.CreateOptions{})
	check(t, err)
	if e := <-w.ResultChan(); e.Type != watch.Added {
		t.Errorf("in-process watch: %v", e)
	}
	w.Stop()
}

// TestFinalize: a namespace goes when its last finalizer is taken off.
func TestFinalize(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c := n.As("system:serviceaccount:kube-system:namespace-controller", "system:serviceaccounts")
	admin := n.As("admin", "system:masters")
	_, err := admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going"}})
	check(t, err)
	key := crdt.Key{Resource: "namespaces", Name: "going"}
	check(t, admin.Delete(ctx, key, metav1.DeleteOptions{}))
	ns, ok := store.Get[corev1.Namespace](n.store.Snapshot(), key)
	if !ok || ns.Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("after deletion: %+v", ns)
	}
	ns = ns.DeepCopy()
	ns.Spec.Finalizers = nil
	_, err = c.Finalize(ctx, ns)
	check(t, err)
	if _, ok := n.store.Snapshot().Get(key); ok {
		t.Error("the namespace outlives its last finalizer")
	}
}
