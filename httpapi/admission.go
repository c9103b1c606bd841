package httpapi

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	"murmur/crdt"
	"murmur/httpapi/admit"
)

// admission is the chain that every write goes through, with what its plugins ask for.
func (s *Server) admission() (admission.Interface, error) {
	return admit.New(admit.Config{
		TolerationSeconds: s.cfg.TolerationSeconds,
		Arbiter:           s.cfg.Arbiter,
		MutatingPolicies:  newMutatingPolicies(s), ValidatingPolicies: newValidatingPolicies(s), Quota: newQuotas(s),
		Pod: func(namespace, name string) (*corev1.Pod, bool) {
			return crdt.Get[corev1.Pod](s.cfg.Store.Snapshot(), crdt.Key{Resource: "pods", Namespace: namespace, Name: name})
		},
		Initializers: admission.PluginInitializers{
			initializer.New(s.own, nil, snapshotInformers{store: s.cfg.Store, followers: &s.followers}, s.authz, utilfeature.DefaultFeatureGate,
				compatibility.DefaultBuildEffectiveVersion(), s.stopping, nil),
			webhookinit.NewPluginInitializer(webhookClients, webhookServices{s}),
		},
	})
}
