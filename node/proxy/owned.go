package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// owned are the addresses and ports that no service takes, whatever it says.
type owned struct {
	cfg   Config
	nodes []netip.Addr // of all nodes, this one's first
	is    map[netip.Addr]bool
	pods  []netip.Prefix // blocks of pod addresses, the cluster's range among them
}

func newOwned(v View, cfg Config) owned {
	o := owned{cfg: cfg, is: map[netip.Addr]bool{}}
	add := func(a netip.Addr) {
		// A node whose address were a Service's would take it from everybody.
		if a.Is4() && !o.is[a] && !(cfg.ServiceCIDR.IsValid() && cfg.ServiceCIDR.Contains(a)) {
			o.is[a] = true
			o.nodes = append(o.nodes, a)
		}
	}
	if cfg.ClusterCIDR.IsValid() {
		o.pods = append(o.pods, cfg.ClusterCIDR)
	}
	for _, n := range v.Nodes {
		for _, a := range n.Status.Addresses {
			if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
				continue
			}
			if ip, err := netip.ParseAddr(a.Address); err == nil {
				add(ip)
			}
		}
		p, err := netip.ParsePrefix(n.Spec.PodCIDR)
		if err == nil && !(cfg.ServiceCIDR.IsValid() && cfg.ServiceCIDR.Overlaps(p)) && !(cfg.ClusterCIDR.IsValid() && (cfg.ClusterCIDR.Contains(p.Addr()) || p.Bits() < cfg.ClusterCIDR.Bits())) {
			o.pods = append(o.pods, p)
		}
	}
	slices.SortFunc(o.nodes, netip.Addr.Compare)
	if cfg.NodeIP.Is4() {
		o.nodes = slices.DeleteFunc(o.nodes, func(a netip.Addr) bool { return a == cfg.NodeIP })
		o.nodes = slices.Insert(o.nodes, 0, cfg.NodeIP)
		o.is[cfg.NodeIP] = true
	}
	return o
}

// closed tells of an address that no service answers at, not even as its cluster address: a node's, the cluster
// DNS's, a pod's, or one that is no single machine's.
func (o owned) closed(a netip.Addr) bool {
	return !a.IsGlobalUnicast() || o.is[a] || a == o.cfg.ClusterDNS ||
		slices.ContainsFunc(o.pods, func(p netip.Prefix) bool { return p.Contains(a) })
}

// has tells of an address that is not for a service to choose: what is closed, and the cluster addresses, of which
// each service has the one that it was given.
func (o owned) has(a netip.Addr) bool {
	return o.closed(a) || o.cfg.ServiceCIDR.IsValid() && o.cfg.ServiceCIDR.Contains(a)
}

// port tells of a port of the daemon itself.
func (o owned) port(proto corev1.Protocol, n int32) bool {
	switch proto {
	case corev1.ProtocolTCP:
		return n == int32(o.cfg.APIPort) || n == int32(o.cfg.GossipPort) || n == int32(o.cfg.StreamPort)
	case corev1.ProtocolUDP:
		return n == int32(o.cfg.GossipPort) || n == int32(o.cfg.TunnelPort)
	}
	return false
}

// translation are the first rules that a packet meets in the nat table: what they accept is translated by nobody, not by
// host ports either.
func (o owned) translation() []string {
	var rules []string
	if o.cfg.ClusterDNS.IsValid() {
		rules = append(rules, fmt.Sprintf("-d %s/32 %s -j ACCEPT", o.cfg.ClusterDNS, comment("cluster DNS")))
	}
	return append(rules,
		fmt.Sprintf("-p tcp -m multiport --dports %d,%d,%d %s -j %sOWN", o.cfg.APIPort, o.cfg.GossipPort, o.cfg.StreamPort, comment("ports of the nodes"), Prefix),
		fmt.Sprintf("-p udp -m multiport --dports %d,%d %s -j %sOWN", o.cfg.GossipPort, o.cfg.TunnelPort, comment("ports of the nodes"), Prefix))
}

// places are rules for every address of a node.
func (o owned) places(target string) []string {
	rules := []string{"-m addrtype --dst-type LOCAL -j " + target}
	for _, a := range o.nodes {
		if a != o.cfg.NodeIP {
			rules = append(rules, fmt.Sprintf("-d %s/32 -j %s", a, target))
		}
	}
	return rules
}

// firewall keeps pods off the ports by which members speak to each other. The API is for pods, too.
func (o owned) firewall() []string {
	if !o.cfg.ClusterCIDR.IsValid() {
		return nil
	}
	return []string{
		fmt.Sprintf("-s %s -p tcp -m multiport --dports %d,%d %s -j %sMEMBERS", o.cfg.ClusterCIDR, o.cfg.GossipPort, o.cfg.StreamPort, comment("not for pods"), Prefix),
		fmt.Sprintf("-s %s -p udp -m multiport --dports %d,%d %s -j %sMEMBERS", o.cfg.ClusterCIDR, o.cfg.GossipPort, o.cfg.TunnelPort, comment("not for pods"), Prefix),
	}
}

// members refuses at every address of a node. A node whose own address is in the range of pods is none of them.
func (o owned) members() []string {
	var rules []string
	if !o.cfg.ClusterCIDR.IsValid() {
		return nil
	}
	for _, a := range o.nodes {
		if o.cfg.ClusterCIDR.Contains(a) {
			rules = append(rules, fmt.Sprintf("-s %s/32 -j RETURN", a))
		}
	}
	return append(rules, o.places("REJECT --reject-with icmp-port-unreachable")...)
}
