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
// What a node tells whom, and when, is decided by the Plane: a machine without goroutine, clock or socket. What happens goes
// in as method calls with the time, what is to be done comes out of Ready. The Agent runs it over streams (state.go); test/sim
// runs it in a time of its own.
//
// Up to 50 peers, what is committed here is pushed at once to every one of them, and one of those that have it passes it on to
// whom a cut link keeps from the sender (relay.go). Above that it crosses a tree (tree.go): Plumtree, with neighbours chosen by
// distance and at random. The first packet to a peer goes at once, what follows within two milliseconds is batched; a delta is
// compressed once, by the node that committed it. Every queue has a bound; when it is full the oldest is dropped and counted.
//
// What was dropped or lost is repaired (exchange.go): two nodes compare digests, then vectors, and send each other exactly what is
// missing, at every new connection, whenever a gap shows, and every few seconds with the one not met for longest, the near ones
// sooner. At most one exchange at a time brings deltas here, so nothing large comes twice. A delta whose merge fails or stalls is
// set aside and holds up nothing. Nodes that are equal check each other by range fingerprints now and then (check.go).
//
// The border to the store is the State interface; all that crosses it is bytes.
//
// # The wire
//
// A packet is a format byte and frames, each a kind, a length and that many bytes (frame.go). Kinds and formats that are not known
// are skipped and counted, so that a later version can add some. Packets go over the stream "state/1", bulk over "bulk/1".
//
// # What it does not do
//
// It does not look into deltas, decide what a silent node means for its pods, or keep anything on disk but Serf's keyring. The
// peers to dial again are asked of the caller, who knows the registered nodes.
//
// # How to look inside
//
// Agent.Members and Agent.Peers; the daemon serves both as /debug/gossip. Agent.Traffic counts what the plane did.
package gossip
