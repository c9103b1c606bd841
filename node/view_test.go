package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a node says of itself and whether it can be reached decide what readers here see.
func TestShownNode(t *testing.T) {
	datadriven.RunTest(t, "testdata/view", func(t *testing.T, d *datadriven.TestData) string {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}
		for line := range strings.Lines(d.Input) {
			f := strings.Fields(line)
			switch f[0] {
			case "condition":
				n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
					Type: corev1.NodeConditionType(f[1]), Status: corev1.ConditionStatus(f[2]), Reason: "Kubelet",
					LastTransitionTime: metav1.Unix(1000, 0),
				})
			case "taint":
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: f[1], Effect: corev1.TaintEffect(f[2])})
			case "cordon":
				n.Spec.Unschedulable = true
			default:
				d.Fatalf(t, "unknown line %q", line)
			}
		}
		before := n.DeepCopy()
		got := shownNode(n, sight{reachable: !d.HasArg("unreachable"), since: time.Unix(2000, 5)}, "n1")
		if n.String() != before.String() {
			t.Error("the stored object was changed")
		}
		var b strings.Builder
		for _, c := range got.Status.Conditions {
			fmt.Fprintf(&b, "condition %s %s %s %d\n", c.Type, c.Status, c.Reason, c.LastTransitionTime.Unix())
		}
		for _, taint := range got.Spec.Taints {
			at := "-"
			if taint.TimeAdded != nil {
				at = fmt.Sprint(taint.TimeAdded.Unix())
			}
			fmt.Fprintf(&b, "taint %s %s %s\n", taint.Key, taint.Effect, at)
		}
		return b.String()
	})
}
