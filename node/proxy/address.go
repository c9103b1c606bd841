package proxy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// sliceController is the value of discoveryv1.LabelManagedBy on slices that repeat what pods say.
const sliceController = "endpointslice-controller.k8s.io"

// Repeats tells of a slice with some labels that it only repeats what pods say.
func Repeats(labels map[string]string) bool {
	return labels[discoveryv1.LabelManagedBy] == sliceController
}

// Address is one address of a service, with upstream's three conditions. Which of them are used is not said here: see
// Published, and the rules of packets.
type Address struct {
	Addr netip.Addr
	Node string // "" when unknown
	// Hostname is the name that it has chosen below the service's; "" if none.
	Hostname string
	// Ports are its numbers for the service's ports, in their order; 0 for one that it does not have.
	Ports       []uint16
	Ready       bool
	Serving     bool
	Terminating bool
}

// Backing is what may say where a service is: objects of its namespace, more than concern it perhaps. Nothing in it is
// changed.
type Backing struct {
	Pods      []*corev1.Pod
	Slices    []*discoveryv1.EndpointSlice
	Endpoints *corev1.Endpoints // of the service's name
}

// Addresses lists the addresses of a service on nodes that are reachable, ordered by address. A service with a selector has
// the pods that it selects, another what its Endpoints say; and either what slices say that not the endpointslice controller
// made, which repeats the pods as they are seen elsewhere.
func Addresses(svc *corev1.Service, from Backing, reachable func(node string) bool) []Address {
	list := &addresses{svc: svc, reachable: reachable, at: map[netip.Addr][]int{}}
	if len(svc.Spec.Selector) > 0 {
		list.addPods(from.Pods)
	} else if from.Endpoints != nil {
		list.addEndpoints(from.Endpoints)
	}
	for _, s := range from.Slices {
		if s.Labels[discoveryv1.LabelServiceName] == svc.Name && !Repeats(s.Labels) {
			list.addSlice(s)
		}
	}
	slices.SortStableFunc(list.found, func(a, b Address) int { return a.Addr.Compare(b.Addr) })
	return list.found
}

// Published are the addresses that DNS tells of. It is here that the two who ask about a service differ, as upstream's do:
// kube-proxy sends to endpoints that terminate but still serve when no ready one is left (KEP-1669), for its rules follow
// them at once; CoreDNS tells of ready ones only, for what it told is kept by who asked, and used after they have ended.
func Published(all []Address) []Address {
	return slices.DeleteFunc(slices.Clone(all), func(a Address) bool { return !a.Ready })
}

// Alive reports whether a pod may hold connections: it has an address and has not ended.
func Alive(p *corev1.Pod) bool {
	return p.Status.PodIP != "" && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// Same tells whether a change of a pod changes no address of any service. Its ports never change. nil is no pod.
func Same(a, b *corev1.Pod) bool {
	here, there := a != nil && Alive(a), b != nil && Alive(b)
	if !here || !there {
		return here == there
	}
	return a.UID == b.UID && a.Status.PodIP == b.Status.PodIP && a.Spec.NodeName == b.Spec.NodeName && ready(a) == ready(b) &&
		(a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && maps.Equal(a.Labels, b.Labels)
}

// addresses are those of one service while they are collected.
type addresses struct {
	svc       *corev1.Service
	reachable func(node string) bool
	found     []Address
	// at are the places in found that an address has.
	at map[netip.Addr][]int
}

// add adds an address unless it is unreachable, or there already; of two that say the same the ready one stays.
func (l *addresses) add(ip string, a Address) {
	addr, err := netip.ParseAddr(ip)
	if err != nil || !addr.Is4() || !addr.IsGlobalUnicast() || a.Node != "" && l.reachable != nil && !l.reachable(a.Node) {
		return
	}
	a.Addr = addr
	a.Ready = a.Ready || l.svc.Spec.PublishNotReadyAddresses
	for _, i := range l.at[addr] {
		if o := &l.found[i]; o.Hostname == a.Hostname && slices.Equal(o.Ports, a.Ports) {
			if a.Ready && !o.Ready {
				*o = a
			}
			return
		}
	}
	l.at[addr] = append(l.at[addr], len(l.found))
	l.found = append(l.found, a)
}

// ports asks for the number of each port of the service.
func (l *addresses) ports(number func(corev1.ServicePort) int32) []uint16 {
	list := make([]uint16, len(l.svc.Spec.Ports))
	for i, port := range l.svc.Spec.Ports {
		if n := number(port); n > 0 && n <= 65535 {
			list[i] = uint16(n)
		}
	}
	return list
}

func (l *addresses) addPods(pods []*corev1.Pod) {
	wanted := labels.SelectorFromSet(l.svc.Spec.Selector)
	for _, p := range pods {
		if p.Namespace != l.svc.Namespace || !Alive(p) || !wanted.Matches(labels.Set(p.Labels)) {
			continue
		}
		serving, terminating := ready(p), p.DeletionTimestamp != nil
		a := Address{Node: p.Spec.NodeName, Ready: serving && !terminating, Serving: serving, Terminating: terminating}
		if p.Spec.Subdomain == l.svc.Name {
			a.Hostname = p.Spec.Hostname
		}
		a.Ports = l.ports(func(port corev1.ServicePort) int32 { return targetPort(p, port) })
		l.add(p.Status.PodIP, a)
	}
}

func (l *addresses) addEndpoints(e *corev1.Endpoints) {
	for _, sub := range e.Subsets {
		numbers := l.ports(func(port corev1.ServicePort) (number int32) {
			for _, p := range sub.Ports {
				if p.Name == port.Name && protocol(p.Protocol) == protocol(port.Protocol) {
					number = p.Port
				}
			}
			return number
		})
		for _, a := range sub.Addresses {
			l.add(a.IP, Address{Node: deref(a.NodeName), Hostname: a.Hostname, Ports: numbers, Ready: true, Serving: true})
		}
		for _, a := range sub.NotReadyAddresses {
			l.add(a.IP, Address{Node: deref(a.NodeName), Hostname: a.Hostname, Ports: numbers})
		}
	}
}

func (l *addresses) addSlice(s *discoveryv1.EndpointSlice) {
	numbers := l.ports(func(port corev1.ServicePort) (number int32) {
		for _, p := range s.Ports {
			if deref(p.Name) == port.Name && (p.Protocol == nil || *p.Protocol == protocol(port.Protocol)) {
				number = deref(p.Port)
			}
		}
		return number
	})
	for _, e := range s.Endpoints {
		a := Address{Node: deref(e.NodeName), Hostname: deref(e.Hostname), Ports: numbers,
			Ready: e.Conditions.Ready == nil || *e.Conditions.Ready, Terminating: deref(e.Conditions.Terminating)}
		a.Serving = a.Ready
		if e.Conditions.Serving != nil {
			a.Serving = *e.Conditions.Serving
		}
		for _, ip := range e.Addresses {
			l.add(ip, a)
		}
	}
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

func protocol(p corev1.Protocol) corev1.Protocol { return cmp.Or(p, corev1.ProtocolTCP) }

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
