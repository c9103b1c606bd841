package httpapi

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	"murmur/httpapi/admit"
	"murmur/httpapi/informers"
	"murmur/httpapi/policy"
	"murmur/httpapi/quota"
	"murmur/httpapi/registry"
	"murmur/httpapi/storage"
	"murmur/httpapi/webhook"
)

// admission is the chain that every write goes through, with what its plugins ask for.
func (s *Server) admission() (admission.Interface, error) {
	system := s.System()
	s.policies = policy.New(policy.Config{Store: s.cfg.Store, Node: s.cfg.Node, Client: s.own, ClientConfig: s.ownConfig(),
		Authorizer: s.authz, UpdateStatus: system.UpdateStatus, Log: s.cfg.Log})
	s.quotas = quota.New(quota.Config{Store: s.cfg.Store, Stored: registry.Stored(), Kind: s.kind, UpdateStatus: system.UpdateStatus})
	return admit.New(admit.Config{
		TolerationSeconds: s.cfg.TolerationSeconds,
		Arbiter:           s.cfg.Arbiter,
		MutatingPolicies:  s.policies.Mutating(), ValidatingPolicies: s.policies.Validating(), Quota: s.quotas,
		Accepted:    s.fields.Plugin(),
		ExternalIPs: s.cfg.ExternalIPs,
		Webhooks: func(plugin string) bool {
			resource := storage.ValidatingWebhooks
			if plugin == mutating.PluginName {
				resource = storage.MutatingWebhooks
			}
			n, _ := s.cfg.Store.Snapshot().Count(resource)
			return n > 0
		},
		Initializers: s.initializers(false), CoverInitializers: s.initializers(true),
	})
}

// initializers give upstream's plugins what they ask for. The informers of forgiving ones show each webhook as one that may fail.
func (s *Server) initializers(forgiving bool) admission.PluginInitializers {
	return admission.PluginInitializers{
		initializer.New(s.own, nil, informers.Factory{Store: s.cfg.Store, Followers: &s.followers, Forgiving: forgiving}, s.authz,
			utilfeature.DefaultFeatureGate, compatibility.DefaultBuildEffectiveVersion(), s.stopping, nil),
		webhookinit.NewPluginInitializer(webhook.Clients, webhook.Services{Store: s.cfg.Store}),
	}
}

// tell has Events written for new pods with fields that nothing acts on: once they are stored, and so have a UID to be found by.
func (s *Server) tell(pods *genericregistry.Store) {
	if s.cfg.Event == nil {
		return
	}
	events, then := s.fields.Events(s.cfg.Event), pods.AfterCreate
	pods.AfterCreate = func(obj runtime.Object, opts *metav1.CreateOptions) {
		if then != nil {
			then(obj, opts)
		}
		if len(opts.DryRun) == 0 {
			events.Created(obj)
		}
	}
}
