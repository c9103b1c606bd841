package control

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestAllowance: how many of four pods, of which one is not ready, one is out of sight and some are evicted, may go.
func TestAllowance(t *testing.T) {
	number := func(n int) *intstr.IntOrString { v := intstr.FromInt32(int32(n)); return &v }
	percent := func(s string) *intstr.IntOrString { v := intstr.FromString(s); return &v }
	for _, c := range []struct {
		what     string
		spec     policyv1.PodDisruptionBudgetSpec
		evicted  time.Time // when pod a was
		scale    int32
		healthy  int32
		desired  int32
		expected int32
		allowed  int32
	}{
		{what: "one must stay", spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: number(1)}, scale: 4, healthy: 2, desired: 1, expected: 4, allowed: 1},
		{what: "all must stay", spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: percent("100%")}, scale: 4, healthy: 2, desired: 4, expected: 4},
		{what: "a share must stay, rounded up", spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: percent("30%")}, scale: 4, healthy: 2, desired: 2, expected: 4},
		{what: "three may be missing, two are", spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number(3)}, scale: 4, healthy: 2, desired: 1, expected: 4, allowed: 1},
		{what: "an evicted pod is as good as gone", spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: number(1)}, evicted: second(10), scale: 4, healthy: 1, desired: 1, expected: 4},
		{what: "unless nobody deletes it", spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: number(1)}, evicted: second(10).Add(-evictionGrace), scale: 4, healthy: 2, desired: 1, expected: 4, allowed: 1},
		{what: "one of its name was made since", spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: number(1)}, evicted: second(-5), scale: 4, healthy: 2, desired: 1, expected: 4, allowed: 1},
	} {
		var pods []*corev1.Pod
		for _, name := range []string{"a", "b", "notready", "far"} {
			p := testPod(name, -1, "n1")
			setReady(p, name != "notready", epoch)
			pods = append(pods, p)
		}
		budget := &policyv1.PodDisruptionBudget{Spec: c.spec}
		if !c.evicted.IsZero() {
			budget.Status.DisruptedPods = map[string]metav1.Time{"a": {Time: c.evicted}}
		}
		var p plan
		st := allowance(&p, budget, pods, func(p *corev1.Pod) bool { return p.Name != "far" }, c.scale, second(20))
		if st.CurrentHealthy != c.healthy || st.DesiredHealthy != c.desired || st.ExpectedPods != c.expected || st.DisruptionsAllowed != c.allowed {
			t.Errorf("%s: %+v", c.what, st)
		}
		if c.evicted.Equal(second(10)) && !p.wake.Equal(second(10).Add(evictionGrace)) {
			t.Errorf("%s: looks again at %s", c.what, p.wake)
		}
	}
}
