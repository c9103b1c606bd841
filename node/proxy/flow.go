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

// Flows says which existing connections the rules still stand for.
type Flows struct {
	Backends map[Frontend]map[netip.AddrPort]bool // who may answer for an address, terminating pods included
	Alive    map[netip.Addr]bool                  // addresses of pods on reachable nodes, terminating ones included
	Dead     map[netip.Addr]bool                  // addresses of pods on nodes that cannot be reached
	cfg      Config
}

func newFlows(v View, x *index) Flows {
	f := Flows{Backends: map[Frontend]map[netip.AddrPort]bool{}, Alive: map[netip.Addr]bool{}, Dead: map[netip.Addr]bool{}, cfg: x.cfg}
	for _, p := range v.Pods {
		addr, err := netip.ParseAddr(p.Status.PodIP)
		if err != nil || !Alive(p) {
			continue
		}
		if x.reachable(p.Spec.NodeName) {
			f.Alive[addr] = true
		} else {
			f.Dead[addr] = true
		}
	}
	return f
}

func (f Flows) add(front Frontend, endpoints []Endpoint) {
	set := f.Backends[front]
	if set == nil {
		set = map[netip.AddrPort]bool{}
		f.Backends[front] = set
	}
	for _, e := range endpoints {
		set[e.Addr] = true
	}
}

// Stale reports whether a flow must be forgotten by conntrack. UDP has no end, so a flow whose backend is
// no longer chosen would go there for ever: it is stale at once. A TCP flow is stale only when its backend cannot
// answer any more (the pod is gone, or its node is not reachable): forgotten, the client's next packet finds another backend
// or none, gets a reset, and the client fails in milliseconds instead of minutes. A terminating pod keeps its TCP flows.
func (f Flows) Stale(flow Flow) bool {
	set, ours := f.Backends[Frontend{flow.Protocol, flow.Dst.Addr(), flow.Dst.Port()}]
	if !ours && f.cfg.ServiceCIDR.IsValid() && f.cfg.ServiceCIDR.Contains(flow.Dst.Addr()) && flow.Dst.Addr() != f.cfg.ClusterDNS {
		ours = true // a service that is gone
	}
	if !ours && (flow.Dst != flow.Backend || flow.Dst.Addr() == f.cfg.NodeIP) {
		set, ours = f.Backends[Frontend{Protocol: flow.Protocol, Port: flow.Dst.Port()}]
	}
	if !ours || set[flow.Backend] {
		return false
	}
	if flow.Protocol == corev1.ProtocolUDP {
		return true
	}
	addr := flow.Backend.Addr()
	if f.Alive[addr] || flow.Dst == flow.Backend {
		return false
	}
	return f.Dead[addr] || f.cfg.ClusterCIDR.IsValid() && f.cfg.ClusterCIDR.Contains(addr)
}
