package httpapi

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	authenticationapi "k8s.io/kubernetes/pkg/apis/authentication"
	coordinationapi "k8s.io/kubernetes/pkg/apis/coordination"
	core "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/auth/nodeidentifier"
	"k8s.io/kubernetes/plugin/pkg/admission/defaulttolerationseconds"
	"k8s.io/kubernetes/plugin/pkg/admission/limitranger"
	"k8s.io/kubernetes/plugin/pkg/admission/priority"
	"k8s.io/kubernetes/plugin/pkg/admission/runtimeclass"
	"k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"

	"murmur/crdt"
)

// admission is the chain every write goes through after it is allowed and before it is validated: upstream's
// plugins over the snapshot, in upstream's order, node restriction, and the placement record of a new pod.
func (s *Server) admission() (admission.Interface, error) {
	plugins := admission.NewPlugins()
	var names []string
	add := func(name string, make func() (admission.Interface, error)) {
		plugins.Register(name, func(io.Reader) (admission.Interface, error) { return make() })
		names = append(names, name)
	}
	add(lifecycle.PluginName, func() (admission.Interface, error) {
		return lifecycle.NewLifecycle(sets.New("default", "kube-system", "kube-public"))
	})
	add("NodeRestriction", func() (admission.Interface, error) {
		return nodeRestriction{admission.NewHandler(admission.Create, admission.Update, admission.Delete), s.cfg.Store}, nil
	})
	add(limitranger.PluginName, func() (admission.Interface, error) { return limitranger.NewLimitRanger(nil) })
	add(serviceaccount.PluginName, func() (admission.Interface, error) { return serviceaccount.NewServiceAccount(), nil })
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	defaulttolerationseconds.RegisterFlags(flags)
	for _, name := range []string{"default-not-ready-toleration-seconds", "default-unreachable-toleration-seconds"} {
		if err := flags.Set(name, strconv.FormatInt(s.cfg.TolerationSeconds, 10)); err != nil {
			return nil, err
		}
	}
	add(defaulttolerationseconds.PluginName, func() (admission.Interface, error) {
		return defaulttolerationseconds.NewDefaultTolerationSeconds(), nil
	})
	add(priority.PluginName, func() (admission.Interface, error) { return priority.NewPlugin(), nil })
	add(runtimeclass.PluginName, func() (admission.Interface, error) { return runtimeclass.NewRuntimeClass(), nil })
	if s.cfg.Arbiter != nil {
		add("PlacementRecord", func() (admission.Interface, error) {
			return placementRecord{admission.NewHandler(admission.Create), s.cfg.Arbiter}, nil
		})
	}
	add(mutatingpolicy.PluginName, func() (admission.Interface, error) { return newMutatingPolicies(s), nil })
	add(mutating.PluginName, func() (admission.Interface, error) { return mutating.NewMutatingWebhook(nil) })
	add(validatingpolicy.PluginName, func() (admission.Interface, error) { return newValidatingPolicies(s), nil })
	add(validating.PluginName, func() (admission.Interface, error) { return validating.NewValidatingAdmissionWebhook(nil) })
	add("ResourceQuota", func() (admission.Interface, error) { return newQuotas(s), nil }) // last: what it charges, nobody else refuses

	chain, err := plugins.NewFromPlugins(names, unconfigured{}, admission.PluginInitializers{
		initializer.New(s.own, nil, snapshotInformers{store: s.cfg.Store, followers: &s.followers}, s.authz, utilfeature.DefaultFeatureGate,
			compatibility.DefaultBuildEffectiveVersion(), s.stopping, nil),
		webhookinit.NewPluginInitializer(webhookClients, webhookServices{s}),
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("admission: %w", err)
	}
	return chain, nil
}

// unconfigured gives admission plugins no configuration of their own.
type unconfigured struct{}

func (unconfigured) ConfigFor(string) (io.Reader, error) { return nil, nil }

// placementRecord writes into a new pod who places it.
type placementRecord struct {
	*admission.Handler
	arbiter func() map[string]string
}

func (p placementRecord) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*core.Pod)
	if !ok || a.GetSubresource() != "" {
		return nil
	}
	for k, v := range p.arbiter() {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		if _, ok := pod.Annotations[k]; !ok {
			pod.Annotations[k] = v
		}
	}
	return nil
}

func nodeName(u user.Info) (string, bool) {
	if u == nil {
		return "", false
	}
	return nodeidentifier.NewDefaultNodeIdentifier().NodeIdentity(u)
}

// nodeRestriction keeps a node to its own: its Node, its Lease, the status and end of pods bound to it, and tokens for
// them.
type nodeRestriction struct {
	*admission.Handler
	store *crdt.Store
}

func (n nodeRestriction) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, ok := nodeName(a.GetUserInfo())
	if !ok {
		return nil
	}
	refuse := func(why string) error { return admission.NewForbidden(a, fmt.Errorf("node %q %s", node, why)) }
	switch a.GetResource().GroupResource() {
	case core.Resource("nodes"):
		name := a.GetName()
		if n, ok := a.GetObject().(*core.Node); ok && name == "" {
			name = n.Name
		}
		if name != node {
			return refuse(fmt.Sprintf("is not allowed to modify node %q", name))
		}
	case core.Resource("serviceaccounts"):
		request, ok := a.GetObject().(*authenticationapi.TokenRequest)
		if !ok || a.GetSubresource() != "token" {
			return refuse("can only request tokens of service accounts")
		}
		ref := request.Spec.BoundObjectRef
		if ref == nil || ref.Kind != "Pod" || ref.Name == "" {
			return refuse("requested a token not bound to a pod")
		}
		pod, ok := crdt.Get[corev1.Pod](n.store.Snapshot(), crdt.Key{Resource: "pods", Namespace: a.GetNamespace(), Name: ref.Name})
		if !ok || ref.UID != pod.UID || pod.Spec.NodeName != node || pod.Spec.ServiceAccountName != a.GetName() {
			return refuse("requested a token bound to a pod that is not its own")
		}
	case coordinationapi.Resource("leases"):
		name := a.GetName()
		if l, ok := a.GetObject().(*coordinationapi.Lease); ok && name == "" {
			name = l.Name
		}
		if a.GetNamespace() != "kube-node-lease" || name != node {
			return refuse("can only access node lease with the same name as the requesting node")
		}
	case core.Resource("pods"):
		pod, _ := a.GetOldObject().(*core.Pod)
		if a.GetOperation() == admission.Create && a.GetSubresource() == "" {
			pod, _ = a.GetObject().(*core.Pod)
			if pod != nil && pod.Annotations[core.MirrorPodAnnotationKey] == "" {
				return refuse("can only create mirror pods")
			}
		}
		if pod != nil && pod.Spec.NodeName != node {
			return refuse("can only change pods with spec.nodeName set to itself")
		}
	}
	return nil
}
