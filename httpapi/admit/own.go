package admit

import (
	"context"

	"k8s.io/apiserver/pkg/admission"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
)

// Policies and webhooks are stored, and so is what they say: any of them can refuse everything, or never answer. What
// a daemon needs to come up and to run the pods that it has must not depend on them, or nobody could take them away
// again. So:
//
//   - What a daemon writes for itself goes past them: the objects that every cluster has, the status of what the API
//     serves, and the tokens of pods that run here. The built-in plugins are asked all the same.
//   - A cover, the pod that stands in for one out of sight, goes past webhooks that cannot be called: the one out of
//     sight may be what answers them. A webhook that answers, and a policy, may refuse it.
//   - All else is asked as it is in upstream, controllers' writes too, and a node's requests for the certificates of its pods: their
//     signers' answers go through the same, and which pod asks which signer is for policies to say.
//
// That webhooks and policies themselves are never shown to webhooks and policies is upstream's own rule.

type (
	ownKey   struct{}
	coverKey struct{}
)

// Own marks what a daemon writes for itself.
func Own(ctx context.Context) context.Context { return context.WithValue(ctx, ownKey{}, true) }

// Common takes the marks away: what a request leads to is not what it was itself.
func Common(ctx context.Context) context.Context {
	return context.WithValue(context.WithValue(ctx, ownKey{}, nil), coverKey{}, nil)
}

// Cover marks the creation of a cover.
func Cover(ctx context.Context) context.Context { return context.WithValue(ctx, coverKey{}, true) }

// stored are the plugins that do what somebody has stored.
var stored = map[string]bool{
	mutatingpolicy.PluginName: true, mutating.PluginName: true, validatingpolicy.PluginName: true, validating.PluginName: true,
}

// unlessOwn is a plugin of policies or webhooks.
type unlessOwn struct {
	admission.Interface
	// cover is asked about covers instead; nil: the plugin itself is.
	cover admission.Interface
	// stored tells whether anything is stored that it would ask; nil: it knows itself. Upstream's plugins of webhooks do much also if there is
	// none: each sets a timer, and that of mutating ones remembers each object, a copy of it, for when it is asked again.
	stored func() bool
}

// exempt gives the plugins that do what somebody has stored their exceptions.
func exempt(covers map[string]admission.Interface, webhooks func(plugin string) bool) admission.DecoratorFunc {
	return func(p admission.Interface, name string) admission.Interface {
		if !stored[name] {
			return p
		}
		u := unlessOwn{Interface: p, cover: covers[name]}
		if webhooks != nil && (name == mutating.PluginName || name == validating.PluginName) {
			u.stored = func() bool { return webhooks(name) }
		}
		return u
	}
}

// of is what is asked about a request; nil if nothing is.
func (u unlessOwn) of(ctx context.Context) admission.Interface {
	switch {
	case u.stored != nil && !u.stored(), ctx.Value(ownKey{}) != nil:
		return nil
	case ctx.Value(coverKey{}) != nil && u.cover != nil:
		return u.cover
	}
	return u.Interface
}

func (u unlessOwn) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if m, ok := u.of(ctx).(admission.MutationInterface); ok {
		return m.Admit(ctx, a, o)
	}
	return nil
}

func (u unlessOwn) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if v, ok := u.of(ctx).(admission.ValidationInterface); ok {
		return v.Validate(ctx, a, o)
	}
	return nil
}

// forCovers are the plugins of webhooks once more, given informers that show each webhook as one that may fail. So
// webhooks that answer are heard about a cover, and what they change is kept, whichever others do not answer.
func forCovers(initializers admission.PluginInitializers) (map[string]admission.Interface, error) {
	if initializers == nil {
		return nil, nil
	}
	all, out := admission.NewPlugins(), map[string]admission.Interface{}
	mutating.Register(all)
	validating.Register(all)
	for _, name := range []string{mutating.PluginName, validating.PluginName} {
		p, err := all.InitPlugin(name, nil, initializers)
		if err != nil {
			return nil, err
		}
		out[name] = p
	}
	return out, nil
}
