package proxy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Endpoint is one address that may serve a port of a service, with upstream's three conditions.
type Endpoint struct {
	Addr        netip.AddrPort
	Node        string // "" when unknown
	Ready       bool
	Serving     bool
	Terminating bool
}

// key names a namespaced object.
type key struct{ namespace, name string }

// label is one label of the pods of a namespace.
type label struct{ namespace, key, value string }

// index is a View arranged by what endpoints ask for.
type index struct {
	cfg       Config
	pods      map[label][]*corev1.Pod
	slices    map[key][]*discoveryv1.EndpointSlice
	endpoints map[key]*corev1.Endpoints
	zones     map[string]string // node -> zone
	podCIDR   netip.Prefix      // this node's
	// seen is which nodes could be reached when that was asked first: whoever is counted as one is to be taken away as the same.
	seen map[string]bool
	// backing finds what may say where a service is.
	backing func(*corev1.Service) Backing
}

func newIndex(v View, cfg Config) *index {
	x := &index{
		cfg:       cfg,
		pods:      map[label][]*corev1.Pod{},
		slices:    map[key][]*discoveryv1.EndpointSlice{},
		endpoints: map[key]*corev1.Endpoints{},
		zones:     map[string]string{},
		seen:      map[string]bool{},
		backing:   v.Backing,
	}
	if x.backing == nil {
		x.backing = x.among
		x.arrange(v)
	}
	for _, n := range v.Nodes {
		x.zones[n.Name] = n.Labels[corev1.LabelTopologyZone]
		if n.Name == cfg.Node {
			if p, err := netip.ParsePrefix(n.Spec.PodCIDR); err == nil {
				x.podCIDR = p
			}
		}
	}
	return x
}

// release lets go of the objects that it was made from.
func (x *index) release() {
	x.backing, x.pods, x.slices, x.endpoints = nil, nil, nil, nil
}

// arrange has what the view has by what among looks for.
func (x *index) arrange(v View) {
	for _, p := range v.Pods {
		if !Alive(p) {
			continue
		}
		for k, v := range p.Labels {
			l := label{p.Namespace, k, v}
			x.pods[l] = append(x.pods[l], p)
		}
	}
	for _, s := range v.Slices {
		if k := (key{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}); k.name != "" {
			x.slices[k] = append(x.slices[k], s)
		}
	}
	for _, e := range v.Endpoints {
		x.endpoints[key{e.Namespace, e.Name}] = e
	}
}

// candidates are the pods that have the rarest label of a service's selector.
func (x *index) candidates(svc *corev1.Service) []*corev1.Pod {
	var fewest []*corev1.Pod
	first := true
	for k, v := range svc.Spec.Selector {
		if pods := x.pods[label{svc.Namespace, k, v}]; first || len(pods) < len(fewest) {
			fewest, first = pods, false
		}
	}
	return fewest
}

func (x *index) reachable(node string) bool {
	if node == "" || node == x.cfg.Node || x.cfg.Reachable == nil {
		return true
	}
	reachable, known := x.seen[node]
	if !known {
		reachable = x.cfg.Reachable(node)
		x.seen[node] = reachable
	}
	return reachable
}

// isAPI reports whether the service is the API's own, which every node serves from itself.
func isAPI(svc *corev1.Service) bool {
	return svc.Namespace == corev1.NamespaceDefault && svc.Name == "kubernetes" && len(svc.Spec.Selector) == 0
}

// among finds in the view what may say where a service is.
func (x *index) among(svc *corev1.Service) Backing {
	k := key{svc.Namespace, svc.Name}
	return Backing{Pods: x.candidates(svc), Slices: x.slices[k], Endpoints: x.endpoints[k]}
}

// addresses lists the addresses of a service that can be reached from here.
func (x *index) addresses(svc *corev1.Service) []Address {
	if isAPI(svc) {
		port := x.cfg.APIPort
		return []Address{{Addr: x.cfg.NodeIP, Node: x.cfg.Node, Ports: slices.Repeat([]uint16{port}, len(svc.Spec.Ports)), Ready: true, Serving: true}}
	}
	return Addresses(svc, x.backing(svc), x.reachable)
}

// endpoints lists those of the addresses of a service that have one of its ports, each once, ordered by address.
func endpoints(all []Address, port int) []Endpoint {
	found := map[netip.AddrPort]Endpoint{}
	for _, a := range all {
		at := netip.AddrPortFrom(a.Addr, a.Ports[port])
		if have, twice := found[at]; at.Port() == 0 || twice && (have.Ready || !a.Ready) {
			continue
		}
		found[at] = Endpoint{Addr: at, Node: a.Node, Ready: a.Ready, Serving: a.Serving, Terminating: a.Terminating}
	}
	list := make([]Endpoint, 0, len(found))
	for _, e := range found {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
	return list
}

// choice is which endpoints a service port uses here, by policy.
type choice struct {
	cluster []Endpoint // for policy Cluster
	local   []Endpoint // for policy Local
	any     bool       // some endpoint is usable somewhere: not reached by policy is dropped, not refused
}

// choose applies readiness, then traffic distribution, then the two policies independently.
func (x *index) choose(svc *corev1.Service, all []Endpoint) choice {
	c := choice{cluster: usable(all)}
	c.any = len(c.cluster) > 0
	c.local = usable(where(all, func(e Endpoint) bool { return e.Node == x.cfg.Node }))
	if d := svc.Spec.TrafficDistribution; d != nil {
		c.cluster = x.near(*d, c.cluster)
	}
	return c
}

// usable returns the ready endpoints, or if there is none those that terminate but still serve. DNS has no such way out:
// see Published.
func usable(all []Endpoint) []Endpoint {
	if list := where(all, func(e Endpoint) bool { return e.Ready }); len(list) > 0 {
		return list
	}
	return where(all, func(e Endpoint) bool { return e.Serving && e.Terminating })
}

// near narrows to this node or this zone as far as that leaves anything.
func (x *index) near(distribution string, all []Endpoint) []Endpoint {
	switch distribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if list := where(all, func(e Endpoint) bool { return e.Node == x.cfg.Node }); len(list) > 0 {
			return list
		}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return all
	}
	zone := x.zones[x.cfg.Node]
	if zone == "" {
		return all
	}
	if list := where(all, func(e Endpoint) bool { return x.zones[e.Node] == zone }); len(list) > 0 {
		return list
	}
	return all
}

func where(all []Endpoint, keep func(Endpoint) bool) []Endpoint {
	var list []Endpoint
	for _, e := range all {
		if keep(e) {
			list = append(list, e)
		}
	}
	return list
}
