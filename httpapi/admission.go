package httpapi

import (
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	"murmur/httpapi/admit"
)

// admission is the chain that every write goes through, with what its plugins ask for.
func (s *Server) admission() (admission.Interface, error) {
	return admit.New(admit.Config{
		TolerationSeconds: s.cfg.TolerationSeconds,
		Arbiter:           s.cfg.Arbiter,
		MutatingPolicies:  newMutatingPolicies(s), ValidatingPolicies: newValidatingPolicies(s), Quota: newQuotas(s),
		ExternalIPs: s.cfg.ExternalIPs,
		Initializers: admission.PluginInitializers{
			initializer.New(s.own, nil, snapshotInformers{store: s.cfg.Store, followers: &s.followers}, s.authz, utilfeature.DefaultFeatureGate,
				compatibility.DefaultBuildEffectiveVersion(), s.stopping, nil),
			webhookinit.NewPluginInitializer(webhookClients, webhookServices{s}),
		},
	})
}
