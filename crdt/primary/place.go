package primary

import (
	"hash/fnv"
	"murmur/crdt"
)

// place is who decides the writes of class H to a key, in one view.
type place struct {
	// primary decides, backup holds what was decided before anybody hears of it. A view of one node has no backup.
	primary, backup string
}

// placeOf ranks the nodes of a view by a hash of key and node, the highest first: a node that comes or goes moves only the
// keys that it is primary or backup of. Thaler and Ravishankar, Using name-based mappings to increase hit rates (1998).
func placeOf(k crdt.Key, view []string) place {
	var p place
	var first, second uint64
	for _, node := range view {
		switch w := weight(k, node); {
		case p.primary == "" || outweighs(w, node, first, p.primary):
			p.primary, p.backup, first, second = node, p.primary, w, first
		case p.backup == "" || outweighs(w, node, second, p.backup):
			p.backup, second = node, w
		}
	}
	return p
}

// outranks tells whether a goes before b for a key, in every view that has both.
func outranks(k crdt.Key, a, b string) bool { return outweighs(weight(k, a), a, weight(k, b), b) }

func outweighs(w uint64, node string, v uint64, other string) bool {
	return w > v || w == v && node < other
}

func weight(k crdt.Key, node string) uint64 {
	h := fnv.New64a()
	for _, s := range [...]string{k.Resource, k.Namespace, k.Name, node} {
		_, _ = h.Write([]byte(s))
		_, _ = h.Write([]byte{0})
	}
	// FNV's bits are weak where the input ends, and nodes differ there: murmur3's finaliser spreads them.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
