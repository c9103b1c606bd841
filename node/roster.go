package node

import (
	"iter"
	"net/netip"

	"murmur/crdt/store"
)

// roster is who is registered, as the Node objects say, in the order of their names.
type roster struct {
	nodes []registrant
	// names are the nodes' by their members' IDs.
	names map[string]string
	// origins are the nodes by the origin of their commits.
	origins map[string][]string
}

// registrant is a node that is registered.
type registrant struct {
	name string
	// id is the member's; the node's name if none is known.
	id string
	// serf is where it is to be met; not valid if it does not say.
	serf netip.AddrPort
}

// registered is the roster of a snapshot.
var registered = store.NewMemo("nodes", func(all iter.Seq[*store.Entry]) *roster {
	r := &roster{names: map[string]string{}, origins: map[string][]string{}}
	for e := range all {
		n := registrant{name: e.Key.Name, id: e.Text("metadata", "annotations", annotationID)}
		if n.id == "" {
			n.id = n.name
		}
		if at, err := netip.ParseAddrPort(e.Text("metadata", "annotations", annotationSerf)); err == nil {
			n.serf = at
		}
		if origin := e.Text("metadata", "annotations", annotationOrigin); origin != "" {
			r.origins[origin] = append(r.origins[origin], n.name)
		}
		r.names[n.id] = n.name
		r.nodes = append(r.nodes, n)
	}
	return r
})

// ids lists the members' IDs.
func (r *roster) ids() []string {
	out := make([]string, 0, len(r.nodes))
	for _, n := range r.nodes {
		out = append(out, n.id)
	}
	return out
}

// addresses lists where the members are to be found.
func (r *roster) addresses() (out []netip.AddrPort) {
	for _, n := range r.nodes {
		if n.serf.IsValid() {
			out = append(out, n.serf)
		}
	}
	return out
}
