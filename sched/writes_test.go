package sched

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestLocate: a pod says where its node is, whatever its template said; of what the node does not say it keeps its own.
func TestLocate(t *testing.T) {
	for _, c := range []struct{ pod, node, want map[string]string }{
		{nil, nil, nil},
		{map[string]string{"app": "a"}, map[string]string{"zone": "x"}, map[string]string{"app": "a"}},
		{nil, map[string]string{corev1.LabelTopologyZone: "z1", "disk": "ssd"}, map[string]string{corev1.LabelTopologyZone: "z1"}},
		{map[string]string{corev1.LabelTopologyZone: "z9", corev1.LabelTopologyRegion: "r9"}, map[string]string{corev1.LabelTopologyZone: "z1"},
			map[string]string{corev1.LabelTopologyZone: "z1", corev1.LabelTopologyRegion: "r9"}},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: maps.Clone(c.pod)}}
		locate(pod, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: c.node}})
		if !maps.Equal(pod.Labels, c.want) {
			t.Errorf("a pod with %v on a node with %v: %v, want %v", c.pod, c.node, pod.Labels, c.want)
		}
	}
}
