// Package node is the daemon: it puts the parts together and owns the order in which they start and stop.
//
// # The law
//
// Never act on an empty world. A node that joins holds an identity but no state; until it has reached the state
// of the member that invited it, it serves no address, runs no pod, makes no bid and deletes nothing. A node that restarts
// has its own disk and needs nobody.
//
// # The order
//
// Identity (who am I, from disk, from a token, or a new cluster), store, gossip, barrier, then everything that acts:
// API, network, runtime, service rules, DNS, placement, controllers, kubelet. It stops in the other direction: API, bids, pods
// handed over (they keep running: restarting the daemon restarts no container), gossip, disk last.
//
// # The parts of this package itself
//
// identity.go and token.go are the keys of a cluster; join.go is the door by which others come in; registration.go keeps
// this node's Node object; view.go shows the nodes as they are seen from here; events.go writes events; admin.go
// answers the CLI on a socket.
//
// # What it does not do
//
// It decides nothing about pods, services or placement: it hands each part its configuration and its view.
//
// # How to look inside
//
// murmur status; and on the admin socket /debug/store, /debug/gossip, /debug/bids and /debug/pprof.
package node
