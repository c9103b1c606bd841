package pod

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestGrants: who asks while another's grant is being written is answered at once, and does not get the same room.
func TestGrants(t *testing.T) {
	var g grants
	one := func(_ *corev1.Pod, granted map[types.UID]*corev1.Pod) (string, string) {
		if len(granted) > 0 {
			return corev1.PodReasonDeferred, "full"
		}
		return "", ""
	}
	named := func(uid types.UID) *corev1.Pod { return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}} }
	if reason, _ := g.ask(named("a"), one); reason != "" {
		t.Fatalf("the first is refused: %s", reason)
	}
	if reason, _ := g.ask(named("b"), one); reason != corev1.PodReasonDeferred {
		t.Errorf("the second got the first's room: %q", reason)
	}
	g.settle("b") // it has none
	if reason, _ := g.ask(named("b"), one); reason != corev1.PodReasonDeferred {
		t.Errorf("a grant ended with another's: %q", reason)
	}
	g.settle("a")
	if reason, _ := g.ask(named("b"), one); reason != "" {
		t.Errorf("there is room again, and it is not granted: %s", reason)
	}
}
