// Package rendezvous ranks nodes for a key: highest random weight hashing. Each node weighs something for each key, by a
// hash of both, and the node that weighs most goes first. Who sees the same nodes ranks them alike, without a word to
// anybody; each node is first for about as many keys as any other; and a node that comes or goes moves only the keys that
// it is first for. Thaler and Ravishankar, Using name-based mappings to increase hit rates (1998).
//
// The package is pure. Its one law is that a ranking is a total order, made of the key and of the names of the nodes
// alone: two that weigh the same go by name, the smaller first. The same name twice in a list is one node, and "" is none.
//
// # Values
//
// The weights are an agreement between nodes, of different versions too. For as long as a fleet is mixed, nodes that weigh
// otherwise may both, or neither, think that something is theirs. So the values of a kind of key never change, and
// golden_test.go holds them. There are three kinds:
//
//   - Key, for all that is new. The primary and the backup of a key of the store (crdt/primary) are ranked by it, and what
//     few or nobody must agree on: who passes a message on (gossip), where nobody does the next exchange of seconds
//     later, and what one arbiter draws (sched).
//   - OwnerKey, for the controller of record of an owner and the order in which pods are withdrawn (node/control).
//   - PodKey, for who keeps a pod that several claim, and who takes over the pods of an arbiter that is gone (sched).
//
// The latter two are of a time when each package had a hash of its own. They stay because an older node must agree: with
// two opinions of who the controller of record is, an owner may be nobody's until the fleet is of one version; with two
// opinions of which pod goes first, two nodes withdraw two pods where one is too many.
package rendezvous

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// Weigher is a key, in one of the kinds below.
type Weigher interface {
	// Weight is what a node weighs for the key. The node that weighs most is first.
	Weight(node string) uint64
}

// First is the node that goes first for a key; "" among none.
func First[W Weigher](key W, nodes []string) string {
	first, _ := FirstTwo(key, nodes)
	return first
}

// FirstTwo are the node that goes first and the one that does if that is gone; "" where there is none.
func FirstTwo[W Weigher](key W, nodes []string) (first, second string) {
	var most, next uint64
	for _, node := range nodes {
		if node == "" || node == first || node == second {
			continue
		}
		switch w := key.Weight(node); {
		case first == "" || outranks(w, node, most, first):
			first, second, most, next = node, first, w, most
		case second == "" || outranks(w, node, next, second):
			second, next = node, w
		}
	}
	return first, second
}

// Rank orders nodes for a key, the first first.
func Rank[W Weigher](key W, nodes []string) []string {
	type ranked struct {
		node   string
		weight uint64
	}
	all := make([]ranked, 0, len(nodes))
	for _, node := range nodes {
		if node != "" {
			all = append(all, ranked{node, key.Weight(node)})
		}
	}
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.node, b.node))
	})
	out := make([]string, len(all))
	for i, r := range all {
		out[i] = r.node
	}
	return slices.Compact(out)
}

// Outranks tells whether a goes before b for a key, in every list that has both.
func Outranks[W Weigher](key W, a, b string) bool {
	return outranks(key.Weight(a), a, key.Weight(b), b)
}

func outranks(w uint64, node string, v uint64, other string) bool {
	return w > v || w == v && node < other
}

// Key is what nodes are ranked for: the state of FNV-1a after the key's parts, each ended by a zero.
type Key uint64

// FNV-1a of 64 bits.
const (
	offset Key = 14695981039346656037
	prime  Key = 1099511628211
)

// NewKey is the key of some parts in their order, none of which contains a zero byte.
func NewKey(parts ...string) Key {
	k := offset
	for _, p := range parts {
		k = k.write(p).end()
	}
	return k
}

func (k Key) write(part string) Key {
	for i := range len(part) {
		k = (k ^ Key(part[i])) * prime
	}
	return k
}

// end writes a zero.
func (k Key) end() Key { return k * prime }

// Weight is what a node weighs for the key.
func (k Key) Weight(node string) uint64 { return k.write(node).end().spread() }

// spread is murmur3's finaliser: FNV's bits are weak where the input ends, and nodes differ there.
func (k Key) spread() uint64 {
	x := uint64(k)
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// Draw is a number drawn by a name instead of by chance: as good as random, and the same for all. Numbers of Services are drawn by it: two
// sides of a partition that make the same Service give it the same number, of whatever versions they are.
func Draw(name string) uint64 { return offset.write(name).spread() }

// OwnerKey ranks nodes for an owner, by its UID, and an owner's pods, by theirs: SHA-256 of both with a zero between.
type OwnerKey string

// Weight is what a node weighs for the owner.
func (k OwnerKey) Weight(node string) uint64 {
	b := make([]byte, 0, 128)
	b = append(append(append(b, k...), 0), node...)
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:8])
}

// PodKey ranks nodes for a pod, by its UID, and for an arbiter, by its name: SHA-256 of FNV-1a of both with a zero between.
type PodKey string

// Weight is what a node weighs for the pod.
func (k PodKey) Weight(node string) uint64 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(NewKey(string(k)).write(node)))
	sum := sha256.Sum256(b[:])
	return binary.BigEndian.Uint64(sum[:8])
}
