package control

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestMinReady: a pod is available once it has been ready for as long as spec.minReadySeconds says, of whatever made it.
func TestMinReady(t *testing.T) {
	const wait = 30
	ready := func() *corev1.Pod {
		p := testPod("a", 0, "n1")
		setReady(p, true, epoch)
		return p
	}
	seen := map[string]sight{"n1": {reachable: true, ready: true, since: epoch.Add(-time.Hour)}}
	set := testSet(1)
	set.Spec.MinReadySeconds = wait
	one := int32(1)
	rc := &corev1.ReplicationController{ObjectMeta: set.ObjectMeta, Spec: corev1.ReplicationControllerSpec{Replicas: &one, MinReadySeconds: wait, Selector: map[string]string{"app": "web"}}}
	for _, c := range []struct {
		after     int
		available int32
	}{{wait - 1, 0}, {wait + 1, 1}} {
		for what, s := range map[string]*appsv1.ReplicaSet{"ReplicaSet": set, "ReplicationController": replicaSetOf(rc)} {
			r := &replicas{set: s, pods: []*corev1.Pod{ready()}, nodes: seen, brake: Available, self: "n1", neighbours: func() map[string]int { return nil }, kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
				now: second(c.after), taken: func(string) bool { return false }}
			p, st := r.decide()
			if st.ReadyReplicas != 1 || st.AvailableReplicas != c.available {
				t.Errorf("%s after %d s: %d ready, %d available, want %d", what, c.after, st.ReadyReplicas, st.AvailableReplicas, c.available)
			}
			if c.available == 0 && (p.wake.IsZero() || p.wake.After(second(wait+1))) {
				t.Errorf("%s: nobody looks again when it is time: %v", what, p.wake)
			}
		}
		o := &ordered{set: &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: appsv1.StatefulSetSpec{Replicas: &one, MinReadySeconds: wait}}, pods: map[int]*corev1.Pod{0: ready()},
			nodes: seen, now: second(c.after), claimed: func(string) bool { return true }}
		if _, st := o.decide(); st.ReadyReplicas != 1 || st.AvailableReplicas != c.available {
			t.Errorf("StatefulSet after %d s: %d ready, %d available, want %d", c.after, st.ReadyReplicas, st.AvailableReplicas, c.available)
		}
	}

	// A Deployment has its ReplicaSet do it, also when the word changes.
	dep := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "dep"}, Spec: appsv1.DeploymentSpec{Replicas: &one, MinReadySeconds: wait,
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}}}}
	var have []*appsv1.ReplicaSet
	for _, seconds := range []int32{wait, wait + 5} {
		dep.Spec.MinReadySeconds = seconds
		p := (&rolling{d: dep.DeepCopy(), sets: have, now: epoch, taken: func(string) bool { return false }}).decide()
		have = nil
		for _, w := range p.writes {
			if rs, ok := w.obj.(*appsv1.ReplicaSet); ok {
				have = []*appsv1.ReplicaSet{rs.DeepCopy()}
			}
		}
		if len(have) != 1 || have[0].Spec.MinReadySeconds != seconds {
			t.Fatalf("a Deployment of %d s makes %s", seconds, fmt.Sprint(have))
		}
		have[0].UID = "rs"
	}
}
