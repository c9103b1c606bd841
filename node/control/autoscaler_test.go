package control_test

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"murmur/crdt"
	"murmur/crdt/store"
)

func hpaKey(name string) crdt.Key {
	return crdt.Key{Resource: "autoscaling/horizontalpodautoscalers", Namespace: "default", Name: name}
}

// scales makes an HPA of the memory of a target's pods.
func (c *cluster) scales(apiVersion, kind, name string, least, most int32) {
	c.t.Helper()
	target := resource.MustParse("100Mi")
	_, err := c.admin.Create(c.ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: apiVersion, Kind: kind, Name: name},
			MinReplicas: &least, MaxReplicas: most, Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType,
				Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceMemory, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &target}}}}}})
	check(c.t, err)
}

// condition is that of an HPA, as "Status Reason".
func condition(s *store.Snapshot, name string, of autoscalingv2.HorizontalPodAutoscalerConditionType) string {
	hpa, ok := store.Get[autoscalingv2.HorizontalPodAutoscaler](s, hpaKey(name))
	if !ok {
		return ""
	}
	for _, c := range hpa.Status.Conditions {
		if c.Type == of {
			return fmt.Sprint(c.Status, " ", c.Reason)
		}
	}
	return ""
}

// TestAutoscaler: through the real API, what pods use scales a Deployment up and its bounds scale it down, and whatever has a scale
// can be scaled: a StatefulSet, a ReplicationController, an object of a defined kind.
func TestAutoscaler(t *testing.T) {
	c := start(t, "n1", "n2")
	c.memory.Store(200 << 20)
	_, err := c.admin.Create(c.ctx, web("i", 2))
	check(t, err)
	c.eventually("two pods", complete(2, "1"))
	c.scales("apps/v1", "Deployment", "web", 1, 5)
	c.eventually("four pods", complete(4, "1"))
	c.eventually("a status", func(s *store.Snapshot) bool {
		hpa, _ := store.Get[autoscalingv2.HorizontalPodAutoscaler](s, hpaKey("web"))
		st := hpa.Status
		return st.CurrentReplicas == 2 && st.DesiredReplicas == 4 && st.LastScaleTime != nil && len(st.CurrentMetrics) == 1 &&
			st.CurrentMetrics[0].Resource.Current.AverageValue.Value() == 200<<20 && condition(s, "web", autoscalingv2.AbleToScale) == "True SucceededRescale"
	})
	// Another spec is decided at once.
	edit(c, hpaKey("web"), func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Spec.MaxReplicas = 3 })
	c.eventually("three pods", complete(3, "1"))

	c.scales("apps/v1", "Deployment", "nothing", 1, 2)
	c.eventually("no scale", func(s *store.Snapshot) bool {
		return condition(s, "nothing", autoscalingv2.AbleToScale) == "False FailedGetScale"
	})

	_, err = c.admin.Create(c.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "set", Namespace: "default"}, Spec: appsv1.StatefulSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "set"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "set"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}})
	check(t, err)
	c.scales("apps/v1", "StatefulSet", "set", 2, 2)
	_, err = c.admin.Create(c.ctx, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "rc", Namespace: "default"}, Spec: corev1.ReplicationControllerSpec{
		Selector: map[string]string{"app": "rc"},
		Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "rc"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}})
	check(t, err)
	c.scales("v1", "ReplicationController", "rc", 2, 2)
	c.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
		"metadata":{"name":"widgets.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"widgets","kind":"Widget"},
		"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}},
		"subresources":{"scale":{"specReplicasPath":".spec.n","statusReplicasPath":".status.n","labelSelectorPath":".status.s"}}}]}}`)
	c.post("/apis/example.com/v1/namespaces/default/widgets", `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"n":1}}`)
	c.scales("example.com/v1", "Widget", "w", 2, 2)
	c.eventually("two of each", func(s *store.Snapshot) bool {
		set, _ := store.Get[appsv1.StatefulSet](s, crdt.Key{Resource: "apps/statefulsets", Namespace: "default", Name: "set"})
		rc, _ := store.Get[corev1.ReplicationController](s, crdt.Key{Resource: "replicationcontrollers", Namespace: "default", Name: "rc"})
		w, ok := store.Get[unstructured.Unstructured](s, crdt.Key{Resource: "example.com/widgets", Namespace: "default", Name: "w"})
		if !ok {
			return false
		}
		n, _, _ := unstructured.NestedInt64(w.Object, "spec", "n")
		return *set.Spec.Replicas == 2 && *rc.Spec.Replicas == 2 && n == 2
	})

	// One HPA each: two that choose the same pods do nothing.
	target := autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}
	edit(c, hpaKey("nothing"), func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Spec.ScaleTargetRef = target; h.Spec.MaxReplicas = 9 })
	c.eventually("the other HPA", func(s *store.Snapshot) bool {
		return condition(s, "nothing", autoscalingv2.ScalingActive) == "False AmbiguousSelector"
	})
}
