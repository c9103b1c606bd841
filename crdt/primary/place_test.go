package primary

import (
	"testing"

	"murmur/crdt"
)

// TestPlacesAreThoseOfOtherVersions: nodes of all versions must name the same primary and backup for a key, or two of
// them decide its writes. What is here was recorded from the first version.
func TestPlacesAreThoseOfOtherVersions(t *testing.T) {
	views := [][]string{
		{"n1", "n2", "n3"},
		{"n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9", "n10"},
		{"edge-berlin-01.example.org", "edge-berlin-02.example.org", "edge-zürich-01.example.org", "n1"},
	}
	for _, c := range []struct {
		key crdt.Key
		// want has the primary and the backup in each view.
		want [3]string
	}{
		{crdt.Key{Resource: "apps/deployments", Namespace: "default", Name: "web"}, [3]string{"n1 n3", "n1 n7", "n1 edge-zürich-01.example.org"}},
		{crdt.Key{Resource: "apps/deployments", Namespace: "default", Name: "web2"}, [3]string{"n3 n2", "n3 n2", "edge-berlin-02.example.org edge-berlin-01.example.org"}},
		{crdt.Key{Resource: "nodes", Name: "n1"}, [3]string{"n1 n3", "n1 n7", "n1 edge-berlin-01.example.org"}},
		{crdt.Key{Resource: "coordination.k8s.io/leases", Namespace: "kube-system", Name: "lock"}, [3]string{"n2 n3", "n7 n2", "edge-berlin-01.example.org edge-berlin-02.example.org"}},
		{crdt.Key{Resource: "resourcequotas", Namespace: "team-a", Name: "quota"}, [3]string{"n2 n1", "n9 n2", "edge-zürich-01.example.org edge-berlin-01.example.org"}},
		{crdt.Key{Resource: "configmaps", Namespace: "a"}, [3]string{"n2 n1", "n7 n5", "edge-berlin-02.example.org edge-berlin-01.example.org"}},
		{crdt.Key{}, [3]string{"n1 n3", "n7 n4", "edge-berlin-02.example.org n1"}},
		{crdt.Key{Resource: "namespaces", Name: "größe"}, [3]string{"n3 n1", "n5 n8", "edge-berlin-02.example.org n1"}},
	} {
		for i, view := range views {
			p := placeOf(c.key, view)
			if got := p.primary + " " + p.backup; got != c.want[i] {
				t.Errorf("%v in %v: %q, want %q", c.key, view, got, c.want[i])
			}
		}
	}
}
