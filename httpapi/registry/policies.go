package registry

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiserver/pkg/registry/rest"
	mutatingpolicystore "k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicy/storage"
	mutatingbindingstore "k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicybinding/storage"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/resolver"
	validatingpolicystore "k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicy/storage"
	validatingbindingstore "k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicybinding/storage"

	"murmur/httpapi/storage"
)

// policyKinds are the rows of admission policies in CEL. Whoever binds a policy to parameters must be allowed to read these, which
// upstream's strategies ask.
func policyKinds() []*kind {
	version := admissionregistrationv1.SchemeGroupVersion
	resolve := func(r *Registry) (resolver.ResourceResolver, error) {
		return resolver.NewDiscoveryResourceResolver(r.cfg.Client.Discovery())
	}
	policyOf := func(r *Registry, resource string) rest.Getter { return r.versions[version][resource].(rest.Getter) }
	return []*kind{
		{Kind: storage.Typed[admissionregistrationv1.ValidatingAdmissionPolicy](admissionregistrationv1.Resource("validatingadmissionpolicies"), version),
			rest: func(r *Registry) (map[string]rest.Storage, error) {
				resources, err := resolve(r)
				if err != nil {
					return nil, err
				}
				s, status, err := validatingpolicystore.NewREST(r, r.cfg.Authorizer, resources)
				return map[string]rest.Storage{"": s, "status": status}, err
			}},
		{Kind: storage.Typed[admissionregistrationv1.ValidatingAdmissionPolicyBinding](admissionregistrationv1.Resource("validatingadmissionpolicybindings"), version),
			rest: func(r *Registry) (map[string]rest.Storage, error) {
				resources, err := resolve(r)
				if err != nil {
					return nil, err
				}
				s, err := validatingbindingstore.NewREST(r, r.cfg.Authorizer, &validatingbindingstore.DefaultPolicyGetter{Getter: policyOf(r, "validatingadmissionpolicies")}, resources)
				return map[string]rest.Storage{"": s}, err
			}},
		{Kind: storage.Typed[admissionregistrationv1.MutatingAdmissionPolicy](admissionregistrationv1.Resource("mutatingadmissionpolicies"), version),
			rest: func(r *Registry) (map[string]rest.Storage, error) {
				resources, err := resolve(r)
				if err != nil {
					return nil, err
				}
				s, err := mutatingpolicystore.NewREST(r, r.cfg.Authorizer, resources)
				return map[string]rest.Storage{"": s}, err
			}},
		{Kind: storage.Typed[admissionregistrationv1.MutatingAdmissionPolicyBinding](admissionregistrationv1.Resource("mutatingadmissionpolicybindings"), version),
			rest: func(r *Registry) (map[string]rest.Storage, error) {
				resources, err := resolve(r)
				if err != nil {
					return nil, err
				}
				s, err := mutatingbindingstore.NewREST(r, r.cfg.Authorizer, &mutatingbindingstore.DefaultPolicyGetter{Getter: policyOf(r, "mutatingadmissionpolicies")}, resources)
				return map[string]rest.Storage{"": s}, err
			}},
	}
}
