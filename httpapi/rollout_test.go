package httpapi

import (
	"context"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestRollout: with the ReplicaSets that a controller would have made, kubectl tells the history of a Deployment and
// undoes its last step.
func TestRollout(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	admin := n.As("system:serviceaccount:kube-system:deployment-controller", "system:masters")
	for _, bin := range kubectls(t) {
		template := func(image string) corev1.PodTemplateSpec {
			return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: image}}}}
		}
		obj, err := admin.Create(ctx, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Annotations: map[string]string{"deployment.kubernetes.io/revision": "2"}},
			Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template("nginx:2")},
		})
		check(t, err)
		d := obj.(*appsv1.Deployment)
		for i := 1; i <= 2; i++ {
			_, err := admin.Create(ctx, &appsv1.ReplicaSet{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("web-%d", i), Namespace: "default", Labels: map[string]string{"app": "web"},
					Annotations:     map[string]string{"deployment.kubernetes.io/revision": fmt.Sprint(i)},
					OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}},
				Spec: appsv1.ReplicaSetSpec{Selector: d.Spec.Selector, Template: template(fmt.Sprintf("nginx:%d", i))},
			})
			check(t, err)
		}
		if out := n.must(bin, "", "rollout", "history", "deploy/web"); !strings.Contains(out, "\n1 ") || !strings.Contains(out, "\n2 ") {
			t.Errorf("rollout history:\n%s", out)
		}
		n.must(bin, "", "rollout", "undo", "deploy/web")
		if out := n.must(bin, "", "get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"); out != "nginx:1" {
			t.Errorf("after undo: %s", out)
		}
		now, ok := store.Get[appsv1.Deployment](n.store.Snapshot(), crdt.Key{Resource: "apps/deployments", Namespace: "default", Name: "web"})
		if !ok {
			t.Fatal("the deployment is gone")
		}
		done := now.DeepCopy()
		done.Status = appsv1.DeploymentStatus{ObservedGeneration: done.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
		_, err = admin.UpdateStatus(ctx, done)
		check(t, err)
		if out := n.must(bin, "", "rollout", "status", "deploy/web", "--timeout=5s"); !strings.Contains(out, "successfully rolled out") {
			t.Errorf("rollout status:\n%s", out)
		}
		n.must(bin, "", "rollout", "pause", "deploy/web")
		n.must(bin, "", "rollout", "resume", "deploy/web")
		n.must(bin, "", "delete", "deploy/web", "rs/web-1", "rs/web-2", "--cascade=orphan", "--wait=false")
		for _, key := range []crdt.Key{{Resource: "apps/deployments", Namespace: "default", Name: "web"}, {Resource: "apps/replicasets", Namespace: "default", Name: "web-1"}, {Resource: "apps/replicasets", Namespace: "default", Name: "web-2"}} {
			// Orphaning is a finalizer that the garbage collector takes off.
			e, ok := n.store.Snapshot().Get(key)
			if !ok {
				t.Fatalf("%s went without the garbage collector", key)
			}
			m, err := e.Map()
			check(t, err)
			meta := m["metadata"].(map[string]any)
			if fmt.Sprint(meta["finalizers"]) != "[orphan]" || meta["deletionTimestamp"] == nil {
				t.Errorf("%s: finalizers %v, deletion %v", key, meta["finalizers"], meta["deletionTimestamp"])
			}
			n.must(bin, "", "patch", strings.TrimSuffix(strings.TrimPrefix(key.Resource, "apps/"), "s"), key.Name, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
			if _, ok := n.store.Snapshot().Get(key); ok {
				t.Errorf("%s outlives its last finalizer", key)
			}
		}
	}
}
