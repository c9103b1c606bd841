// Package allocator gives Services their cluster addresses and node ports: upstream's two allocators, over the store.
//
// Its one law: no two Services get the same number among nodes that see each other, whichever node is asked.
//
// # What is taken
//
// Nothing is kept in a table of its own: what the Services in the snapshot say, and what is claimed, is what is taken. A
// Service draws by the hash of its name, never the first free number: two sides of a cut network that allocate at the same
// time must not collide as a rule, and if they create the same Service they should agree. So does who asks twice.
//
// # Claims
//
// A number belongs to a Service by a claim (claim.go): an object under the name of the number, created as all that must
// not be created twice. The claim of an address is upstream's IPAddress; that of a port is an object of the store alone.
//
// # How a Service gets its numbers
//
// Upstream's allocators are not told for which Service they allocate. So a Service draws under a lock, in memory: it names what
// it is to get, upstream allocates what is named, and the numbers are noted. Then, without the lock, they are claimed, which
// may take as long as other nodes take to answer. A number that turns out to be another's is drawn again. Claims are dropped
// outside the lock too.
//
// # After a cut
//
// Two sides may have given one number to two Services. Which one keeps it node/control decides; Claim and Renumber do it.
package allocator
