package webhook

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiwebhook "k8s.io/apiserver/pkg/util/webhook"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/informers"
)

// Services finds a pod behind the Service of a webhook. It asks the store and not the service's address: that is
// as near, and is there before the rules for the address are.
type Services struct{ Store *store.Store }

// ResolveEndpoint is an https URL of a ready endpoint of a Service's port.
func (w Services) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	service, ok := store.Get[corev1.Service](w.Store.Snapshot(), crdt.Key{Resource: "services", Namespace: namespace, Name: name})
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource("services"), name)
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(service.Spec.ExternalName, strconv.Itoa(int(port)))}, nil
	}
	var wanted *corev1.ServicePort
	for i := range service.Spec.Ports {
		if service.Spec.Ports[i].Port == port {
			wanted = &service.Spec.Ports[i]
		}
	}
	if wanted == nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("service %q in namespace %q has no port %d", name, namespace, port))
	}
	all, err := informers.EndpointSlices(w.Store).GetEndpointSlices(namespace, name)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, slice := range all {
		for _, p := range slice.Ports {
			if p.Port == nil || (p.Name == nil || *p.Name != wanted.Name) && !(p.Name == nil && wanted.Name == "") {
				continue
			}
			for _, e := range slice.Endpoints {
				if ready(e) && len(e.Addresses) > 0 {
					found = append(found, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
				}
			}
		}
	}
	if len(found) == 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q in namespace %q", name, namespace))
	}
	return &url.URL{Scheme: "https", Host: found[rand.IntN(len(found))]}, nil
}

func ready(e discoveryv1.Endpoint) bool { return e.Conditions.Ready == nil || *e.Conditions.Ready }

// Clients leaves the way to webhooks as upstream has it without a configuration: proven by the bundle that the
// webhook's client configuration brings, and without an identity of ours.
func Clients(r apiwebhook.AuthenticationInfoResolver) apiwebhook.AuthenticationInfoResolver {
	return r
}
