package control

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestStatefulSetOrder: one after the other, or all at once if the set says so; from the ordinal that it says, with a claim for each.
func TestStatefulSetOrder(t *testing.T) {
	three := int32(3)
	for _, c := range []struct {
		policy appsv1.PodManagementPolicyType
		want   string
	}{
		{"", "[data-db-5 db-5]"},
		{appsv1.OrderedReadyPodManagement, "[data-db-5 db-5]"},
		{appsv1.ParallelPodManagement, "[data-db-5 db-5 data-db-6 db-6 data-db-7 db-7]"},
	} {
		set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "default", UID: "db"}, Spec: appsv1.StatefulSetSpec{Replicas: &three, PodManagementPolicy: c.policy,
			Ordinals: &appsv1.StatefulSetOrdinals{Start: 5}, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}}}
		p, _ := (&ordered{set: set, pods: map[int]*corev1.Pod{}, now: time.Unix(0, 0), claimed: func(string) bool { return false }}).decide()
		var made []string
		for _, w := range p.writes {
			switch w.obj.(type) {
			case *corev1.Pod, *corev1.PersistentVolumeClaim:
				made = append(made, w.name())
			}
		}
		if fmt.Sprint(made) != c.want {
			t.Errorf("%q makes %v, want %s", c.policy, made, c.want)
		}
	}
}
