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
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/endpointslice"
	endpointutil "k8s.io/endpointslice/util"
	repack "k8s.io/kubernetes/pkg/api/v1/endpoints"

	"murmur/crdt"
	"murmur/crdt/store"
)

const (
	endpointSlices = "discovery.k8s.io/endpointslices"
	// sliceManager marks the slices that this controller writes; it is upstream's name, which programs look for.
	sliceManager     = "endpointslice-controller.k8s.io"
	endpointsManager = "endpoint-controller"
	managedBy        = "endpoints.kubernetes.io/managed-by"
	// maxSlice is how many endpoints go into a slice, maxEndpoints into an Endpoints object.
	maxSlice     = 100
	maxEndpoints = 1000
)

// selected are the pods of a service that have an address, in order of name; nil and false if the service does not
// select any.
func selected(w *world, e *store.Entry) (*corev1.Service, []*corev1.Pod, bool) {
	svc, err := store.As[corev1.Service](e)
	if err != nil || svc.Spec.Type == corev1.ServiceTypeExternalName || len(svc.Spec.Selector) == 0 || svc.DeletionTimestamp != nil {
		return nil, nil, false
	}
	selector := labels.Set(svc.Spec.Selector).AsSelectorPreValidated()
	var pods []*corev1.Pod
	for _, p := range store.Select[corev1.Pod](w.snap, "pods", svc.Namespace, selector) {
		if endpointutil.ShouldPodBeInEndpoints(p, true) && address(p) != "" {
			pods = append(pods, p)
		}
	}
	return svc, pods, true
}

// address is a pod's IPv4 address.
func address(p *corev1.Pod) string {
	ips := p.Status.PodIPs
	if len(ips) == 0 {
		ips = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip.IP); err == nil && a.Unmap().Is4() {
			return a.Unmap().String()
		}
	}
	return ""
}

// endpointSlice decides the slices of one service. They hold replicated facts alone: who is ready, not who can be
// reached from here.
func endpointSlice(w *world, e *store.Entry) plan {
	svc, pods, ok := selected(w, e)
	var want map[string]*discoveryv1.EndpointSlice
	if ok {
		want = slicesOf(svc, pods, func(node string) string {
			if n, ok := store.Get[corev1.Node](w.snap, crdt.Key{Resource: "nodes", Name: node}); ok {
				return n.Labels[corev1.LabelTopologyZone]
			}
			return ""
		})
	} else if svc, ok = apiService(e); ok {
		slice := apiSlice(svc, store.List[corev1.Node](w.snap, "nodes", ""))
		want = map[string]*discoveryv1.EndpointSlice{slice.Name: slice}
	} else {
		return plan{}
	}
	p := plan{}
	var stale []write
	for _, have := range controlled[discoveryv1.EndpointSlice](w, endpointSlices, svc.Namespace, svc.UID) {
		if have.Labels[discoveryv1.LabelManagedBy] != sliceManager || have.DeletionTimestamp != nil {
			continue
		}
		next, ok := want[have.Name]
		delete(want, have.Name)
		switch {
		case !ok:
			stale = append(stale, deletion(crdt.Key{Resource: endpointSlices, Namespace: have.Namespace, Name: have.Name}, have.UID))
		case !equality.Semantic.DeepEqual(have.Endpoints, next.Endpoints) || !equality.Semantic.DeepEqual(have.Ports, next.Ports) ||
			!maps.Equal(have.Labels, next.Labels):
			changed := have.DeepCopy()
			changed.Endpoints, changed.Ports, changed.Labels = next.Endpoints, next.Ports, next.Labels
			p.writes = append(p.writes, write{verb: update, obj: changed})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		p.writes = append(p.writes, write{verb: create, obj: want[name]})
	}
	p.writes = append(p.writes, stale...)
	return p
}

// slicesOf are a service's slices by name: pods that serve the same ports share slices. The order of everything is
// fixed, so that two nodes write the same.
func slicesOf(svc *corev1.Service, pods []*corev1.Pod, zone func(node string) string) map[string]*discoveryv1.EndpointSlice {
	type group struct {
		ports     []discoveryv1.EndpointPort
		endpoints []discoveryv1.Endpoint
	}
	groups := map[string]*group{}
	for _, p := range pods {
		ports := portsOf(svc, p)
		// Distinct ports are told apart by their encoding.
		key, err := json.Marshal(ports)
		if err != nil {
			continue
		}
		g := groups[string(key)]
		if g == nil {
			g = &group{ports: ports}
			groups[string(key)] = g
		}
		g.endpoints = append(g.endpoints, endpoint(svc, p, zone(p.Spec.NodeName)))
	}
	if len(groups) == 0 {
		// A service without pods has one empty slice, as upstream's does.
		groups[""] = &group{}
	}
	out := map[string]*discoveryv1.EndpointSlice{}
	for key, g := range groups {
		slices.SortFunc(g.endpoints, func(a, b discoveryv1.Endpoint) int { return strings.Compare(a.TargetRef.Name, b.TargetRef.Name) })
		// With one endpoint an empty slice would be called the same as the first full one; it is the same then.
		if key != "" && len(groups) == 1 {
			key = ""
		}
		for i := 0; i == 0 || i*maxSlice < len(g.endpoints); i++ {
			s := &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Name: generated(svc.Name, string(svc.UID), key, strconv.Itoa(i)), Namespace: svc.Namespace, Labels: sliceLabels(svc),
					OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service"))},
				},
				AddressType: discoveryv1.AddressTypeIPv4, Ports: g.ports,
				Endpoints: g.endpoints[min(i*maxSlice, len(g.endpoints)):min((i+1)*maxSlice, len(g.endpoints))],
			}
			if s.Endpoints == nil {
				s.Endpoints = []discoveryv1.Endpoint{}
			}
			out[s.Name] = s
		}
	}
	return out
}

func sliceLabels(svc *corev1.Service) map[string]string {
	out := map[string]string{}
	for k, v := range svc.Labels {
		if k != corev1.IsHeadlessService && k != discoveryv1.LabelServiceName && k != discoveryv1.LabelManagedBy {
			out[k] = v
		}
	}
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		out[corev1.IsHeadlessService] = ""
	}
	out[discoveryv1.LabelServiceName], out[discoveryv1.LabelManagedBy] = svc.Name, sliceManager
	return out
}

func portsOf(svc *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	var out []discoveryv1.EndpointPort
	for i := range svc.Spec.Ports {
		sp := &svc.Spec.Ports[i]
		n, err := endpointslice.FindPort(p, sp)
		if err != nil {
			continue // a named port that this pod does not have
		}
		number := int32(n)
		out = append(out, discoveryv1.EndpointPort{Name: &sp.Name, Port: &number, Protocol: &sp.Protocol, AppProtocol: sp.AppProtocol})
	}
	return out
}

func endpoint(svc *corev1.Service, p *corev1.Pod, zone string) discoveryv1.Endpoint {
	serving, terminating := endpointutil.IsPodReady(p), p.DeletionTimestamp != nil
	ready := svc.Spec.PublishNotReadyAddresses || serving && !terminating
	ep := discoveryv1.Endpoint{
		Addresses:  []string{address(p)},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
	}
	if p.Spec.NodeName != "" {
		ep.NodeName = &p.Spec.NodeName
	}
	if zone != "" {
		ep.Zone = &zone
	}
	if endpointutil.ShouldSetHostname(p, svc) {
		ep.Hostname = &p.Spec.Hostname
	}
	return ep
}

// endpoints decides the Endpoints object of one service, which older clients read.
func endpoints(w *world, e *store.Entry) plan {
	svc, pods, ok := selected(w, e)
	var want *corev1.Endpoints
	if ok {
		want = endpointsOf(svc, pods)
	} else if svc, ok = apiService(e); ok {
		want = apiEndpoints(svc, store.List[corev1.Node](w.snap, "nodes", ""))
	} else {
		return plan{}
	}
	have, ok := store.Get[corev1.Endpoints](w.snap, crdt.Key{Resource: "endpoints", Namespace: svc.Namespace, Name: svc.Name})
	if !ok {
		return plan{writes: []write{{verb: create, obj: want}}}
	}
	if equality.Semantic.DeepEqual(repack.RepackSubsets(have.Subsets), want.Subsets) && maps.Equal(have.Labels, want.Labels) &&
		metav1.IsControlledBy(have, svc) && have.Annotations[corev1.EndpointsOverCapacity] == want.Annotations[corev1.EndpointsOverCapacity] {
		return plan{}
	}
	next := have.DeepCopy()
	next.Subsets, next.Labels, next.OwnerReferences = want.Subsets, want.Labels, want.OwnerReferences
	delete(next.Annotations, corev1.EndpointsOverCapacity)
	for k, v := range want.Annotations {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, k, v)
	}
	return plan{writes: []write{{verb: update, obj: next}}}
}

func endpointsOf(svc *corev1.Service, pods []*corev1.Pod) *corev1.Endpoints {
	// Upstream deletes them when it sees no Service; here not to see one is no proof, and owners are looked for with care.
	out := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: svc.Name, Namespace: svc.Namespace, Labels: map[string]string{},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service"))}}}
	maps.Copy(out.Labels, svc.Labels)
	delete(out.Labels, corev1.IsHeadlessService)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == "" {
		out.Labels[corev1.IsHeadlessService] = ""
	}
	out.Labels[managedBy] = endpointsManager
	var subsets []corev1.EndpointSubset
	for _, p := range pods {
		if !endpointutil.ShouldPodBeInEndpoints(p, svc.Spec.PublishNotReadyAddresses) {
			continue
		}
		a := corev1.EndpointAddress{IP: address(p), TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
		if p.Spec.NodeName != "" {
			a.NodeName = &p.Spec.NodeName
		}
		if endpointutil.ShouldSetHostname(p, svc) {
			a.Hostname = p.Spec.Hostname
		}
		var ports []corev1.EndpointPort
		for _, ep := range portsOf(svc, p) {
			ports = append(ports, corev1.EndpointPort{Name: *ep.Name, Port: *ep.Port, Protocol: *ep.Protocol, AppProtocol: ep.AppProtocol})
		}
		if len(ports) == 0 && (len(svc.Spec.Ports) > 0 || svc.Spec.ClusterIP != corev1.ClusterIPNone) {
			continue
		}
		subset := corev1.EndpointSubset{Ports: ports}
		if svc.Spec.PublishNotReadyAddresses || endpointutil.IsPodReady(p) {
			subset.Addresses = []corev1.EndpointAddress{a}
		} else {
			subset.NotReadyAddresses = []corev1.EndpointAddress{a}
		}
		subsets = append(subsets, subset)
	}
	out.Subsets = repack.RepackSubsets(subsets)
	if truncate(out) {
		out.Annotations = map[string]string{corev1.EndpointsOverCapacity: "truncated"}
	}
	return out
}

// truncate keeps the object to its bound, ready addresses first.
func truncate(e *corev1.Endpoints) bool {
	left, cut := maxEndpoints, false
	take := func(a *[]corev1.EndpointAddress) {
		if len(*a) > left {
			*a, cut = (*a)[:left:left], true
		}
		left -= len(*a)
	}
	for i := range e.Subsets {
		take(&e.Subsets[i].Addresses)
	}
	for i := range e.Subsets {
		take(&e.Subsets[i].NotReadyAddresses)
	}
	e.Subsets = slices.DeleteFunc(e.Subsets, func(s corev1.EndpointSubset) bool { return len(s.Addresses)+len(s.NotReadyAddresses) == 0 })
	return cut
}
