// Package crdt is the replicated object store that everything in murmur stands on.
//
// A store holds Kubernetes objects as documents. Every node has one, and every node may write to its own
// at any time, cut off or not. Stores that have heard of the same commits hold the same bytes: that is the
// one law of this package, and merge is where it is kept.
//
// # Documents
//
// A document is one object: its value as canonical JSON, the stamps that say who wrote which field last,
// and the causal context that says which commits it contains. If the context of one version contains the
// other's, the newer is taken whole and no field is looked at. Only when two writes were truly concurrent are
// the values walked, along the granularity that Kubernetes itself gives its types (structured-merge-diff
// schemas: maps by key, keyed lists by their keys, sets by element, everything else as one register), and in
// every register the larger stamp wins. What lost without having been known to the winner is remembered as a Loss. An object of
// a kind that is not built in says itself how it is merged (shape.go), for a merge knows nothing but the two documents.
//
// An object's life begins after the deletion that ended the previous one under the same key, and its UID is
// derived from that deletion. Two sides of a partition that create the same name therefore create the same
// object. A deletion ends exactly one life and is final for it.
//
// # The write path
//
// One goroutine, the apply loop in Run, owns the store: it takes what has queued up (commits from this node and
// deltas from peers) and decides it against the newest state. Another writes what was decided to a write-ahead log, with one sync, and only then
// shows it to readers, watchers and peers, and replies. While the disk is busy the loop decides the next group, against the state as it will be;
// if the disk refuses, what was decided on top of it is refused too. Readers never wait: a Snapshot is an immutable tree. Badger gets what is in
// the log half a log at a time, and is read when a store is opened.
//
// What is on disk is compared with a mark beside it when it is opened. A store whose disk has lost something goes on under another origin;
// one that may have lost it long ago, as a restored backup, is behind until it has compared itself with a member.
//
// # Replication
//
// Each commit has a dot: the origin (one store incarnation) and that origin's sequence number. The vector says,
// per origin, up to where this store has everything. Digest, Delta and Merge are the whole border to the network; all
// three speak bytes and are safe against messages lost, doubled, reordered and cut.
//
// # One winner
//
// Homes is for the writes that must not happen on two nodes at once: a create, a write with a precondition, a lease. One node decides
// them for all that see each other, and another holds what was decided before anybody is told.
//
// # What it does not do
//
// It does not validate, default or authorise: that is httpapi's. It opens no connection: that is gossip's. It
// has no leases, no sessions and no clock but the one given in Config.
//
// # How to look inside
//
// Store.Status tells sizes, vector, held writes and lost concurrent writes; the daemon serves it as /debug/store.
package crdt
