// Package crdt is what two replicas must come to in the same way: what an object is as a replicated value, and
// how two versions of it become one. It is pure. It knows no disk, no network and no clock; times are values that
// are handed in, and every function answers from its arguments alone. What stores documents is crdt/store, what
// decides the writes that may have one winner only is crdt/primary.
//
// # Documents
//
// A document is one object: its value as canonical JSON, the stamps that say who wrote which field last, and the
// causal context that says which commits it contains. If the context of one version contains the other's, the
// newer is taken whole and no field is looked at. Only when two writes were truly concurrent are the values
// walked, along the granularity that Kubernetes itself gives its types (structured-merge-diff schemas: maps by
// key, keyed lists by their keys, sets by element, everything else as one register), and in every register the
// larger stamp wins. What lost without having been known to the winner is remembered as a Loss. An object of a
// kind that is not built in says itself how it is merged (Shape), for a merge knows nothing but the two
// documents.
//
// Merge is commutative, associative and idempotent, on bytes. Replicas that have heard of the same commits
// therefore hold the same bytes, in whatever order they heard of them: that is the one law of this package.
//
// # Incarnations
//
// An object's incarnation begins after the deletion that ended the previous one under the same key, and its UID is
// derived from that deletion. Two sides of a partition that create the same name therefore create the same object.
// A deletion ends exactly one incarnation and is final for it: a tombstone beats every concurrent update.
//
// # Time and causality
//
// A Stamp is a reading of a hybrid logical clock and the Origin that read it; it orders writes to one register. An
// Origin is one incarnation of a store, and numbers its commits. A VersionVector says, per origin, up to which
// commit something is complete; Counters is the same for the few origins of one document.
//
// # Codec
//
// A document has one encoding, on the disk and between nodes. Decoder reads it, and what is built of it, from bytes
// that may be anybody's: counts allocate nothing that is not there, and the first error ends all reading. Formats
// that were ever written stay readable; testdata/format holds them.
package crdt
