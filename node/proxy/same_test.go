package proxy

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSame: whatever of a pod changes an address, or whether it is one, is a change; all else is none.
func TestSame(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "u", Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{NodeName: "n1"},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.42.0.7", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		}
		change(p)
		return p
	}
	for what, c := range map[string]struct {
		change func(*corev1.Pod)
		same   bool
	}{
		"nothing":    {func(*corev1.Pod) {}, true},
		"restarts":   {func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}} }, true},
		"annotation": {func(p *corev1.Pod) { p.Annotations = map[string]string{"a": "b"} }, true},
		"unready":    {func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }, false},
		"label":      {func(p *corev1.Pod) { p.Labels = nil }, false},
		"address":    {func(p *corev1.Pod) { p.Status.PodIP = "10.42.0.8" }, false},
		"node":       {func(p *corev1.Pod) { p.Spec.NodeName = "n2" }, false},
		"terminates": {func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }, false},
		"ended":      {func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, false},
		"another":    {func(p *corev1.Pod) { p.UID = "v" }, false},
	} {
		if same := Same(pod(func(*corev1.Pod) {}), pod(c.change)); same != c.same {
			t.Errorf("%s: %v, want %v", what, same, c.same)
		}
	}
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	alive := pod(func(*corev1.Pod) {})
	if !Same(nil, nil) || !Same(nil, pod(ended)) || !Same(pod(ended), pod(ended)) || Same(nil, alive) || Same(alive, nil) || Same(pod(ended), alive) {
		t.Error("pods that are no address")
	}
}
