package dns

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"murmur/crdt"
	"murmur/crdt/store"
)

// endpoint is one record of a headless service.
type endpoint struct {
	addr  netip.Addr
	host  string  // the label before the service's name
	ports []int32 // beside the service's ports; 0 where it has none
}

// endpoints lists those of a service that are ready, on nodes reachable from here, ordered by address. Pods are asked
// directly; slices and Endpoints count where a user made them (see node/proxy).
func (v View) endpoints(svc *corev1.Service) []endpoint {
	var list []endpoint
	add := func(ip, host, node string, ready bool, ports []int32) {
		addr, err := netip.ParseAddr(ip)
		if err != nil || !addr.Is4() || !ready && !svc.Spec.PublishNotReadyAddresses || node != "" && v.Reachable != nil && !v.Reachable(node) {
			return
		}
		if host == "" {
			host = dashed(addr)
		}
		e := endpoint{addr, host, ports}
		if !slices.ContainsFunc(list, func(o endpoint) bool { return o.addr == e.addr && o.host == e.host && slices.Equal(o.ports, e.ports) }) {
			list = append(list, e)
		}
	}
	if len(svc.Spec.Selector) > 0 {
		wanted := labels.SelectorFromSet(svc.Spec.Selector)
		for _, p := range store.List[corev1.Pod](v.Snapshot, "pods", svc.Namespace) {
			if !alive(p) || !wanted.Matches(labels.Set(p.Labels)) {
				continue
			}
			host := ""
			if p.Spec.Subdomain == svc.Name {
				host = p.Spec.Hostname
			}
			ports := make([]int32, len(svc.Spec.Ports))
			for i, port := range svc.Spec.Ports {
				ports[i] = targetPort(p, port)
			}
			add(p.Status.PodIP, host, p.Spec.NodeName, p.DeletionTimestamp == nil && ready(p), ports)
		}
	} else if e, ok := store.Get[corev1.Endpoints](v.Snapshot, crdt.Key{Resource: "endpoints", Namespace: svc.Namespace, Name: svc.Name}); ok {
		for _, sub := range e.Subsets {
			ports := make([]int32, len(svc.Spec.Ports))
			for i, port := range svc.Spec.Ports {
				for _, p := range sub.Ports {
					if p.Name == port.Name && protocol(p.Protocol) == protocol(port.Protocol) {
						ports[i] = p.Port
					}
				}
			}
			for _, a := range sub.Addresses {
				add(a.IP, a.Hostname, deref(a.NodeName), true, ports)
			}
			for _, a := range sub.NotReadyAddresses {
				add(a.IP, a.Hostname, deref(a.NodeName), false, ports)
			}
		}
	}
	for _, s := range store.List[discoveryv1.EndpointSlice](v.Snapshot, "discovery.k8s.io/endpointslices", svc.Namespace) {
		if s.Labels[discoveryv1.LabelServiceName] != svc.Name || s.Labels[discoveryv1.LabelManagedBy] == "endpointslice-controller.k8s.io" {
			continue
		}
		ports := make([]int32, len(svc.Spec.Ports))
		for i, port := range svc.Spec.Ports {
			for _, p := range s.Ports {
				if deref(p.Name) == port.Name && (p.Protocol == nil || *p.Protocol == protocol(port.Protocol)) {
					ports[i] = deref(p.Port)
				}
			}
		}
		for _, e := range s.Endpoints {
			for _, ip := range e.Addresses {
				add(ip, deref(e.Hostname), deref(e.NodeName), e.Conditions.Ready == nil || *e.Conditions.Ready, ports)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	return list
}

func alive(p *corev1.Pod) bool {
	return p.Status.PodIP != "" && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// targetPort is the pod's port behind a service's, 0 when it has none of that name.
func targetPort(p *corev1.Pod, port corev1.ServicePort) int32 {
	if port.TargetPort.Type == intstr.Int {
		if port.TargetPort.IntVal == 0 {
			return port.Port
		}
		return port.TargetPort.IntVal
	}
	containers := slices.Clone(p.Spec.Containers)
	for _, c := range p.Spec.InitContainers {
		if deref(c.RestartPolicy) == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, cp := range c.Ports {
			if cp.Name == port.TargetPort.StrVal && protocol(cp.Protocol) == protocol(port.Protocol) {
				return cp.ContainerPort
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
