package proxy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// sliceController is the value of discoveryv1.LabelManagedBy on slices that repeat what pods say.
const sliceController = "endpointslice-controller.k8s.io"

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
}

func newIndex(v View, cfg Config) *index {
	x := &index{
		cfg:       cfg,
		pods:      map[label][]*corev1.Pod{},
		slices:    map[key][]*discoveryv1.EndpointSlice{},
		endpoints: map[key]*corev1.Endpoints{},
		zones:     map[string]string{},
	}
	for _, p := range v.Pods {
		if !alive(p) {
			continue
		}
		for k, v := range p.Labels {
			l := label{p.Namespace, k, v}
			x.pods[l] = append(x.pods[l], p)
		}
	}
	for _, s := range v.Slices {
		k := key{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}
		if k.name == "" || s.Labels[discoveryv1.LabelManagedBy] == sliceController {
			continue
		}
		x.slices[k] = append(x.slices[k], s)
	}
	for _, e := range v.Endpoints {
		x.endpoints[key{e.Namespace, e.Name}] = e
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
	return node == "" || node == x.cfg.Node || x.cfg.Reachable == nil || x.cfg.Reachable(node)
}

// isAPI reports whether the service is the API's own, which every node serves from itself.
func isAPI(svc *corev1.Service) bool {
	return svc.Namespace == corev1.NamespaceDefault && svc.Name == "kubernetes" && len(svc.Spec.Selector) == 0
}

// of lists the endpoints of one port of a service that can be reached from here, ordered by address.
func (x *index) of(svc *corev1.Service, port corev1.ServicePort) []Endpoint {
	if isAPI(svc) {
		return []Endpoint{{Addr: netip.AddrPortFrom(x.cfg.NodeIP, x.cfg.APIPort), Node: x.cfg.Node, Ready: true, Serving: true}}
	}
	found := map[netip.AddrPort]Endpoint{}
	add := func(ip string, number int32, e Endpoint) {
		addr, err := netip.ParseAddr(ip)
		if err != nil || !addr.Is4() || !addr.IsGlobalUnicast() || number < 1 || number > 65535 || !x.reachable(e.Node) {
			return
		}
		e.Addr = netip.AddrPortFrom(addr, uint16(number))
		if have, twice := found[e.Addr]; twice && (have.Ready || !e.Ready) {
			return
		}
		found[e.Addr] = e
	}
	k := key{svc.Namespace, svc.Name}
	if len(svc.Spec.Selector) > 0 {
		wanted := labels.SelectorFromSet(svc.Spec.Selector)
		for _, p := range x.candidates(svc) {
			if !wanted.Matches(labels.Set(p.Labels)) {
				continue
			}
			serving, terminating := ready(p), p.DeletionTimestamp != nil
			add(p.Status.PodIP, targetPort(p, port), Endpoint{
				Node:        p.Spec.NodeName,
				Ready:       svc.Spec.PublishNotReadyAddresses || serving && !terminating,
				Serving:     serving,
				Terminating: terminating,
			})
		}
	} else if e := x.endpoints[k]; e != nil {
		for _, sub := range e.Subsets {
			number := int32(0)
			for _, p := range sub.Ports {
				if p.Name == port.Name && protocol(p.Protocol) == protocol(port.Protocol) {
					number = p.Port
				}
			}
			for _, a := range sub.Addresses {
				add(a.IP, number, Endpoint{Node: deref(a.NodeName), Ready: true, Serving: true})
			}
			for _, a := range sub.NotReadyAddresses {
				add(a.IP, number, Endpoint{Node: deref(a.NodeName), Ready: svc.Spec.PublishNotReadyAddresses})
			}
		}
	}
	for _, s := range x.slices[k] {
		number := int32(0)
		for _, p := range s.Ports {
			if deref(p.Name) == port.Name && (p.Protocol == nil || *p.Protocol == protocol(port.Protocol)) {
				number = deref(p.Port)
			}
		}
		for _, e := range s.Endpoints {
			isReady := e.Conditions.Ready == nil || *e.Conditions.Ready
			serving := isReady
			if e.Conditions.Serving != nil {
				serving = *e.Conditions.Serving
			}
			for _, ip := range e.Addresses {
				add(ip, number, Endpoint{Node: deref(e.NodeName), Ready: isReady || svc.Spec.PublishNotReadyAddresses,
					Serving: serving, Terminating: deref(e.Conditions.Terminating)})
			}
		}
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

// usable returns the ready endpoints, or if there is none those that terminate but still serve.
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

// alive reports whether a pod may hold connections: it has an address and has not ended.
func alive(p *corev1.Pod) bool {
	return p.Status.PodIP != "" && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// targetPort is the port of this pod that the service port leads to, 0 when the pod does not have the name.
func targetPort(p *corev1.Pod, port corev1.ServicePort) int32 {
	if port.TargetPort.Type == intstr.Int {
		if port.TargetPort.IntVal == 0 {
			return port.Port
		}
		return port.TargetPort.IntVal
	}
	find := func(c corev1.Container) int32 {
		for _, cp := range c.Ports {
			if cp.Name == port.TargetPort.StrVal && protocol(cp.Protocol) == protocol(port.Protocol) {
				return cp.ContainerPort
			}
		}
		return 0
	}
	for _, c := range p.Spec.Containers {
		if n := find(c); n != 0 {
			return n
		}
	}
	for _, c := range p.Spec.InitContainers { // sidecars
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			if n := find(c); n != 0 {
				return n
			}
		}
	}
	return 0
}

func protocol(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
