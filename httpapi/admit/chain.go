package admit

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	certapproval "k8s.io/kubernetes/plugin/pkg/admission/certificates/approval"
	"k8s.io/kubernetes/plugin/pkg/admission/certificates/ctbattest"
	certsigning "k8s.io/kubernetes/plugin/pkg/admission/certificates/signing"
	"k8s.io/kubernetes/plugin/pkg/admission/certificates/subjectrestriction"
	"k8s.io/kubernetes/plugin/pkg/admission/defaulttolerationseconds"
	"k8s.io/kubernetes/plugin/pkg/admission/limitranger"
	"k8s.io/kubernetes/plugin/pkg/admission/network/defaultingressclass"
	"k8s.io/kubernetes/plugin/pkg/admission/network/denyserviceexternalips"
	"k8s.io/kubernetes/plugin/pkg/admission/nodedeclaredfeatures"
	"k8s.io/kubernetes/plugin/pkg/admission/noderestriction"
	"k8s.io/kubernetes/plugin/pkg/admission/nodetaint"
	"k8s.io/kubernetes/plugin/pkg/admission/podresize"
	"k8s.io/kubernetes/plugin/pkg/admission/podtopologylabels"
	"k8s.io/kubernetes/plugin/pkg/admission/priority"
	"k8s.io/kubernetes/plugin/pkg/admission/runtimeclass"
	"k8s.io/kubernetes/plugin/pkg/admission/scheduling/podgroupprotection"
	"k8s.io/kubernetes/plugin/pkg/admission/security/podsecurity"
	"k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/persistentvolume/resize"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageclass/setdefault"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageobjectinuseprotection"
)

// Config is what the chain is made of.
type Config struct {
	// TolerationSeconds is how long a pod without a word on it stays bound to a node that is not ready or not reachable.
	TolerationSeconds int64
	// Arbiter gives the annotations that every new pod gets: its record of who places it. Nil: pods get none.
	Arbiter func() map[string]string
	// MutatingPolicies, ValidatingPolicies and Quota stand where upstream has its plugins of these names.
	MutatingPolicies, ValidatingPolicies, Quota admission.Interface
	// Accepted tells who sets a field that nothing acts on.
	Accepted admission.Interface
	// ExternalIPs lets Services have addresses of their makers' choice, to which every node then redirects.
	ExternalIPs bool
	// Initializers give upstream's plugins what they ask for: listers, clients, the authorizer, feature gates.
	Initializers admission.PluginInitializers
	// Webhooks tells whether any is stored that the plugin of this name would ask. Nil: upstream's plugins find out.
	Webhooks func(plugin string) bool
	// CoverInitializers are those of the webhooks that covers are shown to: every one may fail. Nil: covers are admitted
	// as all else.
	CoverInitializers admission.PluginInitializers
}

// acceptedName is that of the plugin of httpapi/accepted.
const acceptedName = "AcceptedFields"

// plugin is one member of the chain.
type plugin struct {
	name     string
	register func(*admission.Plugins)
}

// upstreams is a plugin that upstream's code registers itself.
func upstreams(name string, register func(*admission.Plugins)) plugin { return plugin{name, register} }

// made is a plugin that is made here.
func made(name string, make func() (admission.Interface, error)) plugin {
	return plugin{name, func(all *admission.Plugins) {
		all.Register(name, func(io.Reader) (admission.Interface, error) { return make() })
	}}
}

// given is a plugin that exists already.
func given(name string, p admission.Interface) plugin {
	return made(name, func() (admission.Interface, error) { return p, nil })
}

// chain lists the plugins in the order in which they are asked.
func chain(cfg Config) []plugin {
	out := []plugin{
		made(lifecycle.PluginName, func() (admission.Interface, error) {
			return lifecycle.NewLifecycle(sets.New("default", "kube-system", "kube-public"))
		}),
		upstreams(limitranger.PluginName, limitranger.Register),
		upstreams(serviceaccount.PluginName, serviceaccount.Register),
		upstreams(noderestriction.PluginName, noderestriction.Register),
		upstreams(nodetaint.PluginName, nodetaint.Register),
		upstreams(podsecurity.PluginName, podsecurity.Register),
		upstreams(priority.PluginName, priority.Register),
		made(defaulttolerationseconds.PluginName, cfg.tolerations),
		upstreams(setdefault.PluginName, setdefault.Register),
		upstreams(storageobjectinuseprotection.PluginName, storageobjectinuseprotection.Register),
		upstreams(podgroupprotection.PluginName, podgroupprotection.Register),
		upstreams(resize.PluginName, resize.Register),
		upstreams(runtimeclass.PluginName, runtimeclass.Register),
		upstreams(certapproval.PluginName, certapproval.Register),
		upstreams(certsigning.PluginName, certsigning.Register),
		upstreams(ctbattest.PluginName, ctbattest.Register),
		upstreams(subjectrestriction.PluginName, subjectrestriction.Register),
		upstreams(defaultingressclass.PluginName, defaultingressclass.Register),
	}
	if !cfg.ExternalIPs {
		out = append(out, upstreams(denyserviceexternalips.PluginName, denyserviceexternalips.Register))
	}
	out = append(out,
		upstreams(podtopologylabels.PluginName, podtopologylabels.Register),
		upstreams(nodedeclaredfeatures.PluginName, nodedeclaredfeatures.Register),
		upstreams(podresize.PluginName, podresize.Register),
		given(reservedName, reserved{admission.NewHandler(admission.Create, admission.Update), cfg.Arbiter}),
	)
	if cfg.Arbiter != nil {
		out = append(out, given(placementName, placementRecord{admission.NewHandler(admission.Create), cfg.Arbiter}))
	}
	return append(out,
		given(acceptedName, cfg.Accepted),
		given(mutatingpolicy.PluginName, cfg.MutatingPolicies),
		upstreams(mutating.PluginName, mutating.Register),
		given(validatingpolicy.PluginName, cfg.ValidatingPolicies),
		upstreams(validating.PluginName, validating.Register),
		given("ResourceQuota", cfg.Quota), // last: what it charges, nobody else refuses
	)
}

// tolerations makes upstream's plugin, which takes its numbers from flags.
func (c Config) tolerations() (admission.Interface, error) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	defaulttolerationseconds.RegisterFlags(flags)
	for _, name := range []string{"default-not-ready-toleration-seconds", "default-unreachable-toleration-seconds"} {
		if err := flags.Set(name, strconv.FormatInt(c.TolerationSeconds, 10)); err != nil {
			return nil, err
		}
	}
	return defaulttolerationseconds.NewDefaultTolerationSeconds(), nil
}

// New makes the chain.
func New(cfg Config) (admission.Interface, error) {
	plugins := admission.NewPlugins()
	var names []string
	for _, p := range chain(cfg) {
		p.register(plugins)
		names = append(names, p.name)
	}
	covers, err := forCovers(cfg.CoverInitializers)
	if err != nil {
		return nil, fmt.Errorf("admission of covers: %w", err)
	}
	out, err := plugins.NewFromPlugins(names, unconfigured{}, cfg.Initializers, exempt(covers, cfg.Webhooks))
	if err != nil {
		return nil, fmt.Errorf("admission: %w", err)
	}
	return out, nil
}

// unconfigured gives admission plugins no configuration of their own.
type unconfigured struct{}

func (unconfigured) ConfigFor(string) (io.Reader, error) { return nil, nil }
