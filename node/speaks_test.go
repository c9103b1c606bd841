package node

import (
	"testing"

	"murmur/crdt"
	"murmur/gossip"
)

func TestBestWord(t *testing.T) {
	nodes := map[crdt.Origin][]string{1: {"a"}, 2: {"b", "liar"}, 3: {"away"}}
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
		if got := bestWord(c.peer, nodes[c.o], connected); got != c.want {
			t.Errorf("the word of %s on %s is the best: %v, want %v", c.peer, c.o, got, c.want)
		}
	}
}
