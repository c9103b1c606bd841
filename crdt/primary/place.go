package primary

import (
	"murmur/crdt"
	"murmur/rendezvous"
)

// place is who decides the writes of class H to a key, in one view.
type place struct {
	// primary decides, backup holds what was decided before anybody hears of it. A view of one node has no backup.
	primary, backup string
}

// placeOf ranks the nodes of a view: a node that comes or goes moves only the keys that it is primary or backup of.
func placeOf(k crdt.Key, view []string) place {
	var p place
	p.primary, p.backup = rendezvous.FirstTwo(rank(k), view)
	return p
}

// outranks tells whether a goes before b for a key, in every view that has both.
func outranks(k crdt.Key, a, b string) bool { return rendezvous.Outranks(rank(k), a, b) }

func rank(k crdt.Key) rendezvous.Key { return rendezvous.NewKey(k.Resource, k.Namespace, k.Name) }
