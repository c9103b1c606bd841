package control

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestOtherVersionsAgree: nodes of all versions must name the same controller of record for an owner, or it is nobody's
// while a fleet is of two versions; and order the pods of an owner alike, or two nodes withdraw two where one is too many.
// What is here was recorded from the first version.
func TestOtherVersionsAgree(t *testing.T) {
	three := []string{"n1", "n2", "n3"}
	ten := []string{"n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9", "n10"}
	for _, c := range []struct {
		uid   types.UID
		alive []string
		want  string
	}{
		{"3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b05", three, "n1"},
		{"3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b05", ten, "n1"},
		{"3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b06", three, "n3"},
		{"3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b06", ten, "n8"},
		{"set", three, "n2"},
		{"set", ten, "n5"},
	} {
		for _, self := range c.alive {
			if w := (&world{alive: c.alive, self: self}); w.mine(c.uid) != (self == c.want) {
				t.Errorf("%s in %v is %s's: %v, want %s's", c.uid, c.alive, self, w.mine(c.uid), c.want)
			}
		}
	}

	rs := &appsv1.ReplicaSet{}
	rs.UID = "3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b06"
	var pods []*corev1.Pod
	for _, uid := range []types.UID{"edge-zürich-01.example.org", "n2", "n1"} {
		p := &corev1.Pod{}
		p.UID = uid
		pods = append(pods, p)
	}
	for i, s := range ranked(rs, pods, nil, nil) {
		if want := []types.UID{"n1", "n2", "edge-zürich-01.example.org"}[i]; s.pod.UID != want {
			t.Errorf("%d of the pods is %s, want %s", i, s.pod.UID, want)
		}
	}
}
