// Package gossip is everything that passes between nodes: who is there, and what they have to tell each other.
//
// Serf carries membership and nothing else: who is alive, who is not heard of, how far away. State flows over our own
// streams: one TCP connection between two members, authenticated on both sides with certificates of the cluster CA, and
// multiplexed, so that any part of the daemon can Listen for a service by name and Dial it on another node.
//
// The one law: a node that cannot be reached is not a node that is gone. A failed member stays a member, keeps its
// place in every list, and is dialled again within seconds, for weeks. Only an explicit leave or forget ends it.
//
// # The state plane
//
// Commits made here are pushed at once to every connected peer. A push may be lost, and a queue that is full drops
// its oldest: every few seconds, at every new connection and whenever a gap shows, two nodes compare digests, then vectors,
// and send each other exactly what is missing. The border to the store is the State interface; all that crosses it is bytes.
//
// # What it does not do
//
// It does not look into deltas, decide what a silent node means for its pods, or keep anything on disk but Serf's keyring. The
// peers to dial again are asked of the caller, who knows the registered nodes.
//
// # How to look inside
//
// Agent.Members and Agent.Peers; the daemon serves both as /debug/gossip.
package gossip
