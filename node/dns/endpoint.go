package dns

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/node/proxy"
)

// endpoint is one record of a headless service.
type endpoint struct {
	proxy.Address
	host string // the label before the service's name
}

// endpoints lists those of a service that DNS tells of, ordered by address. Where a service is, node/proxy says.
func (v View) endpoints(svc *corev1.Service) []endpoint {
	var from proxy.Backing
	if len(svc.Spec.Selector) > 0 {
		from.Pods = store.Select[corev1.Pod](v.Snapshot, "pods", svc.Namespace, labels.SelectorFromSet(svc.Spec.Selector))
	} else if e, ok := store.Get[corev1.Endpoints](v.Snapshot, crdt.Key{Resource: "endpoints", Namespace: svc.Namespace, Name: svc.Name}); ok {
		from.Endpoints = e
	}
	from.Slices = store.Find[discoveryv1.EndpointSlice](v.Snapshot, store.ByLabel, store.LabelTerm(discoveryv1.LabelServiceName, svc.Name),
		"discovery.k8s.io/endpointslices", svc.Namespace)
	var list []endpoint
	for _, a := range proxy.Published(proxy.Addresses(svc, from, v.Reachable)) {
		e := endpoint{a, a.Hostname}
		if e.host == "" {
			e.host = dashed(a.Addr)
		}
		list = append(list, e)
	}
	return list
}
