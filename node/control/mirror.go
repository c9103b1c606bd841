package control

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// mirrorManager marks slices that are copies of Endpoints which somebody wrote by hand.
const mirrorManager = "endpointslicemirroring-controller.k8s.io"

// mirror decides the slices of an Endpoints object that no controller made: its Service has no selector.
func mirror(w *world, e *store.Entry) plan {
	ep, err := store.As[corev1.Endpoints](e)
	if err != nil || ep.DeletionTimestamp != nil {
		return plan{}
	}
	want := map[string]*discoveryv1.EndpointSlice{}
	svc, ok := store.Get[corev1.Service](w.snap, crdt.Key{Resource: "services", Namespace: ep.Namespace, Name: ep.Name})
	if ok && len(svc.Spec.Selector) == 0 && ep.Labels[managedBy] == "" && ep.Labels[discoveryv1.LabelSkipMirror] != "true" &&
		ep.Annotations["control-plane.alpha.kubernetes.io/leader"] == "" {
		want = mirrorsOf(ep)
	}
	p := plan{}
	for _, have := range controlled[discoveryv1.EndpointSlice](w, endpointSlices, ep.Namespace, ep.UID) {
		if have.Labels[discoveryv1.LabelManagedBy] != mirrorManager || have.DeletionTimestamp != nil {
			continue
		}
		next, ok := want[have.Name]
		delete(want, have.Name)
		switch {
		case !ok:
			p.writes = append(p.writes, deletion(crdt.Key{Resource: endpointSlices, Namespace: have.Namespace, Name: have.Name}, have.UID))
		case !equality.Semantic.DeepEqual(have.Endpoints, next.Endpoints) || !equality.Semantic.DeepEqual(have.Ports, next.Ports) || !maps.Equal(have.Labels, next.Labels):
			changed := have.DeepCopy()
			changed.Endpoints, changed.Ports, changed.Labels = next.Endpoints, next.Ports, next.Labels
			p.writes = append(p.writes, write{verb: update, obj: changed})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		p.writes = append(p.writes, write{verb: create, obj: want[name]})
	}
	return p
}

// mirrorsOf are the slices of an Endpoints object by name: one for each set of ports and family of addresses.
func mirrorsOf(ep *corev1.Endpoints) map[string]*discoveryv1.EndpointSlice {
	out := map[string]*discoveryv1.EndpointSlice{}
	for _, subset := range ep.Subsets {
		var ports []discoveryv1.EndpointPort
		for _, p := range subset.Ports {
			ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
		}
		key, err := json.Marshal(ports)
		if err != nil {
			continue
		}
		add := func(a corev1.EndpointAddress, ready bool) {
			ip, err := netip.ParseAddr(a.IP)
			if err != nil {
				return
			}
			family := discoveryv1.AddressTypeIPv4
			if !ip.Unmap().Is4() {
				family = discoveryv1.AddressTypeIPv6
			}
			// As many as fit go into the first slice, and what is over into the next.
			for i := 0; ; i++ {
				name := generated(ep.Name, string(ep.UID), string(family), string(key), strconv.Itoa(i))
				s := out[name]
				if s == nil {
					s = &discoveryv1.EndpointSlice{
						ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ep.Namespace, Labels: mirrorLabels(ep),
							OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ep, corev1.SchemeGroupVersion.WithKind("Endpoints"))}},
						AddressType: family, Ports: ports,
					}
					out[name] = s
				}
				if len(s.Endpoints) == maxSlice {
					continue
				}
				one := discoveryv1.Endpoint{Addresses: []string{a.IP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
					TargetRef: a.TargetRef, NodeName: a.NodeName}
				if a.Hostname != "" {
					one.Hostname = &a.Hostname
				}
				s.Endpoints = append(s.Endpoints, one)
				return
			}
		}
		for _, a := range subset.Addresses {
			add(a, true)
		}
		for _, a := range subset.NotReadyAddresses {
			add(a, false)
		}
	}
	for _, s := range out {
		slices.SortStableFunc(s.Endpoints, func(a, b discoveryv1.Endpoint) int { return strings.Compare(a.Addresses[0], b.Addresses[0]) })
	}
	return out
}

func mirrorLabels(ep *corev1.Endpoints) map[string]string {
	out := maps.Clone(ep.Labels)
	if out == nil {
		out = map[string]string{}
	}
	out[discoveryv1.LabelServiceName], out[discoveryv1.LabelManagedBy] = ep.Name, mirrorManager
	return out
}
