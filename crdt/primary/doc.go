// Package primary makes the writes that must not happen on two nodes at once: a create, a write with a
// precondition, a Lease, a quota. They are compare-and-swap on one key, and linearizable among the nodes that see
// each other, without an elected leader.
//
// # Who decides
//
// Each key has a primary, the node that a rendezvous hash of key and node ranks first among those that are there,
// and a backup, the one ranked second. Whichever node is asked hands the write to the primary. That one compares
// it with its own document, commits it, has the backup hold it on disk, and answers with the document, which the
// asker takes in before it answers in turn: so who wrote reads what was written.
//
// # Leases
//
// A primary decides only under a lease from its backup, which it gets by exchanging everything with it. The backup
// has the primary in its own view then, and so decides none of these keys itself; and it lets the primary stamp
// only a little ahead of its own clock, so that what a next primary decides is stamped later than all that the
// last one may have. leases (lease.go) is this machine: it has no clock, no lock and no goroutine, and its law is
// in its comment. Coordinator runs it.
//
// # Partitions
//
// Sides that do not see each other have primaries of their own, and what they decided merges like all else when they
// meet: this package makes no promise across a cut. An answer may be ErrUnsettled (nothing was written) or
// ErrUnknown (it may have been): the two are never mixed up.
//
// # Calls
//
// Each call between nodes is a stream of its own (message.go), and is passed on by a third node where the direct
// link is cut. Streams to a node that leaves the view are cut, so that nothing waits for it.
package primary
