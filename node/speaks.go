package node

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/gossip"
)

// speaks tells whether a peer's word is the best to be had on how many commits an origin has made: see store.Config. A node that is still
// learning the state of the cluster has only its teacher's.
func (n *Node) speaks(peer string, o crdt.Origin) bool {
	if n.joining.Load() != nil || n.store.Behind() {
		return true
	}
	return bestWord(peer, store.List[corev1.Node](n.store.Snapshot(), "nodes", ""), o, n.agent.Peers())
}

// bestWord is speaks. Whoever says that an origin is its own does not silence another that says so too.
func bestWord(peer string, nodes []*corev1.Node, o crdt.Origin, connected []gossip.Peer) bool {
	for _, node := range nodes {
		if node.Name == peer || node.Annotations[annotationOrigin] != o.String() {
			continue
		}
		if slices.ContainsFunc(connected, func(p gossip.Peer) bool { return p.Name == node.Name }) {
			return false
		}
	}
	return true
}
