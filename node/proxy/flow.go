package proxy

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Frontend is an address a service answers on. An invalid Addr with a port is a node port: any local address.
type Frontend struct {
	Protocol corev1.Protocol
	Addr     netip.Addr
	Port     uint16
}

// Flow is a connection as conntrack holds it: where the client sent it, and who answers.
type Flow struct {
	Protocol corev1.Protocol
	Dst      netip.AddrPort // destination before translation
	Backend  netip.AddrPort // source of the replies
}

// Flows says which existing connections the rules still stand for. Those of a Keeper change with its next rules.
type Flows struct {
	cfg Config
	// backends are who may answer for an address, terminating pods included.
	backends map[Frontend]*backends
	// alive are the addresses of pods on reachable nodes, terminating ones included, and dead those of pods on nodes that cannot be reached, each
	// with how many pods have it.
	alive, dead map[netip.Addr]int
}

// backends are those of one address: of how many ports of services it is, and who answers for how many of these.
type backends struct {
	ports int
	of    map[netip.AddrPort]int
}

func newFlows(cfg Config) Flows {
	return Flows{cfg: cfg, backends: map[Frontend]*backends{}, alive: map[netip.Addr]int{}, dead: map[netip.Addr]int{}}
}

// front is an address of a service with those who may answer for it.
type front struct {
	at        Frontend
	endpoints []Endpoint
}

// count adds an address of a service, or with -1 takes it away.
func (f Flows) count(of front, n int) {
	b := f.backends[of.at]
	if b == nil {
		b = &backends{of: map[netip.AddrPort]int{}}
		f.backends[of.at] = b
	}
	if b.ports += n; b.ports == 0 {
		delete(f.backends, of.at)
	}
	for _, e := range of.endpoints {
		if b.of[e.Addr] += n; b.of[e.Addr] == 0 {
			delete(b.of, e.Addr)
		}
	}
}

// countPod adds a pod's address, or with -1 takes it away.
func (f Flows) countPod(addr netip.Addr, reachable bool, n int) {
	pods := f.alive
	if !reachable {
		pods = f.dead
	}
	if pods[addr] += n; pods[addr] == 0 {
		delete(pods, addr)
	}
}

// set are who may answer for an address.
func (f Flows) set(at Frontend) map[netip.AddrPort]int {
	if b := f.backends[at]; b != nil {
		return b.of
	}
	return nil
}

// losesAt tells whether connections to an address that were right may be stale: one who answered is gone, or it is the first time that somebody
// answers, until when UDP to it may have gone anywhere.
func losesAt(at Frontend, was, is map[netip.AddrPort]int) bool {
	for addr := range was {
		if is[addr] == 0 {
			return true
		}
	}
	return at.Protocol == corev1.ProtocolUDP && len(was) == 0 && len(is) > 0
}

// loses tells whether connections that were right under these flows may be stale under others.
func (f Flows) loses(now Flows) bool {
	if f.backends == nil {
		return true
	}
	for addr := range f.alive {
		if now.alive[addr] == 0 {
			return true
		}
	}
	for addr := range now.dead {
		if f.dead[addr] == 0 {
			return true
		}
	}
	for at, b := range f.backends {
		if losesAt(at, b.of, now.set(at)) {
			return true
		}
	}
	for at, b := range now.backends {
		if losesAt(at, f.set(at), b.of) {
			return true
		}
	}
	return false
}

// Stale reports whether a flow must be forgotten by conntrack. UDP has no end, so a flow whose backend is
// no longer chosen would go there for ever: it is stale at once. A TCP flow is stale only when its backend cannot
// answer any more (the pod is gone, or its node is not reachable): forgotten, the client's next packet finds another backend
// or none, gets a reset, and the client fails in milliseconds instead of minutes. A terminating pod keeps its TCP flows.
func (f Flows) Stale(flow Flow) bool {
	set, ours := f.backends[Frontend{flow.Protocol, flow.Dst.Addr(), flow.Dst.Port()}]
	if !ours && f.cfg.ServiceCIDR.IsValid() && f.cfg.ServiceCIDR.Contains(flow.Dst.Addr()) && flow.Dst.Addr() != f.cfg.ClusterDNS {
		ours = true // a service that is gone
	}
	if !ours && (flow.Dst != flow.Backend || flow.Dst.Addr() == f.cfg.NodeIP) {
		set, ours = f.backends[Frontend{Protocol: flow.Protocol, Port: flow.Dst.Port()}]
	}
	if !ours || set != nil && set.of[flow.Backend] > 0 {
		return false
	}
	if flow.Protocol == corev1.ProtocolUDP {
		return true
	}
	addr := flow.Backend.Addr()
	if f.alive[addr] > 0 || flow.Dst == flow.Backend {
		return false
	}
	return f.dead[addr] > 0 || f.cfg.ClusterCIDR.IsValid() && f.cfg.ClusterCIDR.Contains(addr)
}
