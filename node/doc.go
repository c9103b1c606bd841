// Package node is the daemon: it puts the parts together and owns the order in which they start and stop.
//
// # The law
//
// Never act on an empty world. A node that joins holds an identity but no state; until it has reached the state of one
// member that has the cluster's, it serves no address, runs no pod, makes no bid and deletes nothing. That member is the one
// that invited it, or any other if that one is gone; members that are behind this barrier themselves do not count: only
// those past it serve the stream service that tells a joiner the vector to reach. A node that restarts has its own disk
// and needs nobody.
//
// # The order
//
// Identity (who am I, from disk, from a token, or a new cluster), store, gossip, barrier, then everything that acts:
// API, network, runtime, service rules, DNS, placement, controllers, kubelet. It stops in the other direction: API, bids, pods
// handed over (they keep running: restarting the daemon restarts no container), gossip, disk last. A node that is alone in a
// cluster in which no user has made anything can be told to join another: it stops, throws that away, and Run returns ErrAgain
// for a new Node to be made of the same disk.
//
// # The parts of this package itself
//
// identity.go and token.go are the keys of a cluster; join.go is the door by which others come in, barrier.go what this node
// waits for behind another's, move.go and leave.go the ways out; registration.go keeps this node's Node object; view.go shows
// the nodes as they are seen from here; events.go writes events; preflight.go looks at the machine; admin.go answers the CLI
// on a socket, peers.go what members ask each other, client.go asks both.
//
// # What it does not do
//
// It decides nothing about pods, services or placement: it hands each part its configuration and its view.
//
// # How to look inside
//
// murmur status, reachability, conflicts and debug; and on the admin socket /debug/pprof.
package node
