package node

import (
	"slices"

	"murmur/crdt"
	"murmur/gossip"
)

// speaks tells whether a peer's word is the best to be had on how many commits an origin has made: see store.Config. A node that is still
// learning the state of the cluster has only its teacher's.
func (n *Node) speaks(peer string, o crdt.Origin) bool {
	if n.joining.Load() != nil || n.store.Behind() {
		return true
	}
	return bestWord(peer, registered.Of(n.store.Snapshot()).origins[o.String()], n.agent.Peers())
}

// bestWord is speaks about an origin that some nodes say is theirs. Whoever says so does not silence another that says so too.
func bestWord(peer string, nodes []string, connected []gossip.Peer) bool {
	for _, node := range nodes {
		if node != peer && slices.ContainsFunc(connected, func(p gossip.Peer) bool { return p.Name == node }) {
			return false
		}
	}
	return true
}
