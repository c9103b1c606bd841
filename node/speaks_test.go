package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/gossip"
)

func TestBestWord(t *testing.T) {
	node := func(name string, o crdt.Origin) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{annotationOrigin: o.String()}}}
	}
	nodes := []*corev1.Node{node("a", 1), node("b", 2), node("away", 3), node("liar", 2)}
	connected := []gossip.Peer{{Name: "a"}, {Name: "b"}, {Name: "liar"}}
	for _, c := range []struct {
		peer string
		o    crdt.Origin
		want bool
	}{
		{"a", 1, true},     // of itself
		{"b", 1, false},    // of one that can be asked
		{"liar", 2, false}, // of one that can be asked, although it says that it is that one
		{"b", 3, true},     // of one that cannot
		{"b", 4, true},     // of one that nobody is
	} {
		if got := bestWord(c.peer, nodes, c.o, connected); got != c.want {
			t.Errorf("the word of %s on %s is the best: %v, want %v", c.peer, c.o, got, c.want)
		}
	}
}
