package httpapi

import (
	"context"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
)

// TestPodDeletion: a bound pod waits for its kubelet; an unbound one and one with grace 0 go at once.
func TestPodDeletion(t *testing.T) {
	n := newNode(t, func(c *Config) {
		c.Arbiter = func() map[string]string { return map[string]string{"placement.murmur.io/arbiter": "n1/7"} }
	})
	ctx := context.Background()
	c := n.clientset(true).CoreV1().Pods("default")
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	}
	made, err := c.Create(ctx, pod("free"), metav1.CreateOptions{})
	check(t, err)
	if made.Annotations["placement.murmur.io/arbiter"] != "n1/7" {
		t.Errorf("no placement record: %v", made.Annotations)
	}
	check(t, c.Delete(ctx, "free", metav1.DeleteOptions{}))
	if _, err := c.Get(ctx, "free", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an unbound pod after deletion: %v", err)
	}
	_, err = c.Create(ctx, pod("bound"), metav1.CreateOptions{})
	check(t, err)
	check(t, c.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}, metav1.CreateOptions{}))
	check(t, c.Delete(ctx, "bound", metav1.DeleteOptions{}))
	p, err := c.Get(ctx, "bound", metav1.GetOptions{})
	check(t, err)
	if p.Spec.NodeName != "n1" || p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 {
		t.Errorf("a bound pod after deletion: node %q, deletion %v", p.Spec.NodeName, p.DeletionTimestamp)
	}
	asNode := n.As("system:node:n1", "system:nodes")
	token := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "bound", UID: p.UID}}}
	issued, err := asNode.Token(ctx, "default", "default", token)
	check(t, err)
	if issued.Status.Token == "" || issued.Status.ExpirationTimestamp.IsZero() {
		t.Errorf("issued %+v", issued.Status)
	}
	if _, err := n.As("system:node:n2", "system:nodes").Token(ctx, "default", "default", token); !apierrors.IsForbidden(err) {
		t.Errorf("a token for a pod of another node: %v", err)
	}
	token.Spec.BoundObjectRef = nil
	if _, err := asNode.Token(ctx, "default", "default", token); !apierrors.IsForbidden(err) {
		t.Errorf("an unbound token for a node: %v", err)
	}
	zero := int64(0)
	check(t, n.As("system:node:n1", "system:nodes").Delete(ctx, crdt.Key{Resource: "pods", Namespace: "default", Name: "bound"}, metav1.DeleteOptions{GracePeriodSeconds: &zero}))
	if _, err := c.Get(ctx, "bound", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a pod that its kubelet ended: %v", err)
	}
	other, err := c.Create(ctx, pod("other"), metav1.CreateOptions{})
	check(t, err)
	if _, err := n.As("system:node:n1", "system:nodes").UpdateStatus(ctx, other); !apierrors.IsForbidden(err) {
		t.Errorf("a node wrote the status of a pod that is not its own: %v", err)
	}
}

// TestPodDefaults: what LimitRanges, RuntimeClasses and PriorityClasses say of a pod is in it.
func TestPodDefaults(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c := n.clientset(true)
	for _, class := range []string{"system-node-critical", "system-cluster-critical"} {
		if _, err := c.SchedulingV1().PriorityClasses().Get(ctx, class, metav1.GetOptions{}); err != nil {
			t.Errorf("priority class %s: %v", class, err)
		}
	}
	_, err := c.CoreV1().LimitRanges("default").Create(ctx, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type: corev1.LimitTypeContainer, DefaultRequest: corev1.ResourceList{"memory": resource.MustParse("200Mi")}, Max: corev1.ResourceList{"memory": resource.MustParse("1Gi")}}}}}, metav1.CreateOptions{})
	check(t, err)
	_, err = c.NodeV1().RuntimeClasses().Create(ctx, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Handler: "runc",
		Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{"cpu": resource.MustParse("10m")}}}, metav1.CreateOptions{})
	check(t, err)
	_, err = c.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000}, metav1.CreateOptions{})
	check(t, err)
	class := "r"
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{RuntimeClassName: &class, PriorityClassName: "high", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	made, err := c.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
	check(t, err)
	if m := made.Spec.Containers[0].Resources.Requests["memory"]; m.String() != "200Mi" || made.Spec.Overhead.Cpu().String() != "10m" || *made.Spec.Priority != 1000 {
		t.Errorf("memory %s, overhead %v, priority %d", m.String(), made.Spec.Overhead, *made.Spec.Priority)
	}
	pod.Name, pod.Spec.Containers[0].Resources.Limits = "big", corev1.ResourceList{"memory": resource.MustParse("2Gi")}
	if _, err := c.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("over the limit: %v", err)
	}
	yes := true
	pod.Name, pod.Spec.Containers[0].SecurityContext, pod.Spec.Containers[0].Resources.Limits = "privileged", &corev1.SecurityContext{Privileged: &yes}, nil
	_, err = c.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
	check(t, err)
	gone := "gone"
	pod.Name, pod.Spec.RuntimeClassName, pod.Spec.Containers[0].Resources.Limits = "classless", &gone, nil
	if _, err := c.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("of a class that does not exist: %v", err)
	}
}
