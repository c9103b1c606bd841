package sched

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestOtherVersionsAgree: nodes of all versions must name the same successor of an arbiter that is gone, or its pods are
// nobody's while a fleet is of two versions; and the same winner of a pod that several claim, or none of them keeps it.
// What is here was recorded from the first version.
func TestOtherVersionsAgree(t *testing.T) {
	three := []string{"n1", "n2", "n3"}
	ten := []string{"n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9", "n10"}
	for _, c := range []struct {
		gone  string
		alive []string
		want  string
	}{
		{"edge-zürich-01.example.org", three, "n3"},
		{"edge-zürich-01.example.org", ten, "n8"},
		{"", three, "n2"},
		{"", ten, "n10"},
	} {
		f := fencer{Exchange: &Exchange{world: &World{Alive: c.alive}}}
		if got := f.fencerOf(Identity{Node: c.gone, Incarnation: 1}); got != c.want {
			t.Errorf("of %v %s takes over from %q, want %s", c.alive, got, c.gone, c.want)
		}
	}

	pod := &corev1.Pod{}
	pod.UID = "3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b05"
	for i, want := range []string{"edge-zürich-01.example.org", "n1", "n2"} { // the weights rise in this order
		Claim{Node: want, Pod: pod.UID, At: time.Unix(1_700_000_000, 0)}.annotate(pod)
		if got := Winner(pod, nil); got != want {
			t.Errorf("of %d claims that of %s wins, want %s", i+1, got, want)
		}
	}
}
