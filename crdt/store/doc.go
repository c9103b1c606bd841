// Package store is one node's replica of all objects: the engine that commits, keeps, shows and exchanges the
// documents of package crdt. Every node has one, and every node may write to its own at any time, cut off or not.
//
// # The write path
//
// One goroutine, the apply loop in Run, owns the store: it takes what has queued up (commits from this node and
// deltas from peers) and decides it against the newest state. Another writes what was decided to a write-ahead
// log, with one sync, and only then shows it to readers, watchers and peers, and replies. While the disk is busy
// the loop decides the next group, against the state as it will be; if the disk refuses, what was decided on top
// of it is refused too. Badger gets what is in the log half a log at a time, and is read when a store is opened.
//
//	Commit, Merge, Decide ... > ops > apply loop: batch > seal: records and next state
//	                                     writer: log, sync > state and history > outbox, replies
//
// # Reading
//
// Readers never wait. A Snapshot is an immutable tree, and Entry is one object in it at one version. Watch reads
// the events behind a version; Subscribe only says that there is something to look at. What is asked of some objects is
// looked up (Index); what is asked of all of a resource together is known (Changed, Count) or made once per change (Memo). A Version is a
// resourceVersion: this node's own count of what it applied.
//
// # What is on the disk
//
// It is compared with a mark beside it when it is opened (mark.go). A store whose disk has lost something goes on
// under another origin; one that may have lost it long ago, as a restored backup, is behind until it has compared
// itself with a member. What is secret is sealed before it is written (seal.go). A quota bounds what is held
// (quota.go).
//
// # Replication
//
// Each commit has a dot: the origin and that origin's sequence number. The vector says, per origin, up to where
// this store has everything. Digest, Delta and Merge are the whole border to the network; all three speak bytes
// and are safe against messages lost, doubled, reordered and cut. A peer is believed as far as it can know what
// it says (hearsay.go); what cannot be applied now is put in quarantine and holds up nothing else. Check compares
// two stores by content, to find what a bug or a rotten disk has done. What every registered node has, for good,
// need not be told apart any more: settle.go lets go of it.
//
// # One winner
//
// Proposal, Decide, Hold and Adopt are what crdt/primary needs of the replica: they compare and swap in the apply
// loop, where all writes are, so that what a node may decide is asked in the same step in which it decides.
//
// # What it does not do
//
// It does not validate, default or authorise: that is httpapi's. It opens no connection: that is gossip's.
//
// # How to look inside
//
// Store.Status tells sizes, vector, quarantined writes and lost concurrent writes; the daemon serves it as
// /debug/store.
package store
