package network

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// tunnelShare is what VXLAN over IPv4 takes from each packet.
const tunnelShare = 50

// Uplink is what the plan must know about this machine.
type Uplink struct {
	OnLink []netip.Prefix // the networks of its own links, without pods and tunnels
	MTU    int            // of the link that has the node's address
}

// Route leads to one peer's pods.
type Route struct {
	Node   string
	Dst    netip.Prefix // the peer's block
	Via    netip.Addr   // its address; through the tunnel, that of its end of it
	Tunnel bool
}

// Neighbour is a peer at the other end of the tunnel.
type Neighbour struct {
	Node     string
	Addr     netip.Addr       // of its end of the tunnel
	Hardware net.HardwareAddr // likewise
	Outer    netip.Addr       // where the tunnel's packets for it go
}

// Plan is the network this node should have.
type Plan struct {
	Block      netip.Prefix // this node's podCIDR; invalid when it has none yet
	MTU        int          // of pods
	Routes     []Route
	Neighbours []Neighbour
}

// Make plans from the nodes, in the order of their names. Peers without an IPv4 block or address are left out; so is a peer
// whose block overlaps ours or an earlier node's, until one of the two has another (see Loser).
func Make(nodes []*corev1.Node, cfg Config, up Uplink) Plan {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b *corev1.Node) int {
		// Who keeps a contested block comes first.
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	var p Plan
	for _, n := range nodes {
		if n.Name == cfg.Node {
			p.Block = block(n)
		}
	}
	taken := []netip.Prefix{}
	for _, n := range nodes {
		b, addr := block(n), address(n)
		if n.Name == cfg.Node || !b.IsValid() || !addr.IsValid() || addr == cfg.NodeIP ||
			p.Block.IsValid() && b.Overlaps(p.Block) || slices.ContainsFunc(taken, b.Overlaps) {
			continue
		}
		taken = append(taken, b)
		onLink := slices.ContainsFunc(up.OnLink, func(l netip.Prefix) bool { return l.Contains(addr) })
		if cfg.Mode == HostGW || cfg.Mode != VXLAN && onLink {
			p.Routes = append(p.Routes, Route{Node: n.Name, Dst: b, Via: addr})
			continue
		}
		end := b.Addr()
		p.Routes = append(p.Routes, Route{Node: n.Name, Dst: b, Via: end, Tunnel: true})
		p.Neighbours = append(p.Neighbours, Neighbour{Node: n.Name, Addr: end, Hardware: hardware(addr), Outer: addr})
	}
	slices.SortFunc(p.Routes, func(a, b Route) int { return cmp.Compare(a.Node, b.Node) })
	slices.SortFunc(p.Neighbours, func(a, b Neighbour) int { return cmp.Compare(a.Node, b.Node) })
	p.MTU = cfg.MTU
	if p.MTU == 0 {
		p.MTU = up.MTU
		if cfg.Mode == VXLAN || len(p.Neighbours) > 0 {
			p.MTU -= tunnelShare
		}
	}
	return p
}

func block(n *corev1.Node) netip.Prefix {
	p, err := netip.ParsePrefix(n.Spec.PodCIDR)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}
	}
	return p.Masked()
}

func address(n *corev1.Node) netip.Addr {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			if addr, err := netip.ParseAddr(a.Address); err == nil && addr.Is4() {
				return addr
			}
		}
	}
	return netip.Addr{}
}

// hardware is the address of a node's end of the tunnel, known to all from its IP.
func hardware(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x0a, 0x6d, b[0], b[1], b[2], b[3]}
}
