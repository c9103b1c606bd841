package control

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	repack "k8s.io/kubernetes/pkg/api/v1/endpoints"

	"murmur/crdt/store"
)

// apiName is the name of the API's own Service.
const apiName = "kubernetes"

// apiService is the entry's Service if it is the API's own, whose endpoints are the nodes: every node serves the API. The
// proxy asks nobody for it, and leads to its own node; clients and programs that look for API servers read these.
func apiService(e *store.Entry) (*corev1.Service, bool) {
	if e.Key.Namespace != corev1.NamespaceDefault || e.Key.Name != apiName {
		return nil, false
	}
	svc, err := store.As[corev1.Service](e)
	return svc, err == nil && len(svc.Spec.Selector) == 0 && svc.DeletionTimestamp == nil
}

// apiAddresses are the nodes' addresses, in order.
func apiAddresses(nodes []*corev1.Node) []string {
	var out []string
	for _, n := range nodes {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP && !strings.Contains(a.Address, ":") {
				out = append(out, a.Address)
				break
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func apiSlice(svc *corev1.Service, nodes []*corev1.Node) *discoveryv1.EndpointSlice {
	ready := true
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: svc.Name, Namespace: svc.Namespace, Labels: sliceLabels(svc),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service"))}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{},
	}
	for _, port := range svc.Spec.Ports {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &port.Name, Port: &port.TargetPort.IntVal, Protocol: &port.Protocol})
	}
	for _, a := range apiAddresses(nodes) {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	return s
}

func apiEndpoints(svc *corev1.Service, nodes []*corev1.Node) *corev1.Endpoints {
	out := endpointsOf(svc, nil)
	var subset corev1.EndpointSubset
	for _, port := range svc.Spec.Ports {
		subset.Ports = append(subset.Ports, corev1.EndpointPort{Name: port.Name, Port: port.TargetPort.IntVal, Protocol: port.Protocol})
	}
	for _, a := range apiAddresses(nodes) {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: a})
	}
	if len(subset.Addresses) > 0 {
		out.Subsets = repack.RepackSubsets([]corev1.EndpointSubset{subset})
	}
	return out
}
