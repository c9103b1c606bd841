package admit

import (
	"context"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// Cover marks the creation of a cover.
func Cover(ctx context.Context) context.Context { return context.WithValue(ctx, coverKey{}, true) }

// stored are the plugins that do what somebody has stored.
var stored = map[string]bool{
	mutatingpolicy.PluginName: true, mutating.PluginName: true, validatingpolicy.PluginName: true, validating.PluginName: true,
}

// unlessOwn is a plugin of policies or webhooks.
type unlessOwn struct{ admission.Interface }

// exempt gives the plugins that do what somebody has stored their exceptions.
func exempt(p admission.Interface, name string) admission.Interface {
	if stored[name] {
		return unlessOwn{p}
	}
	return p
}

func (u unlessOwn) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	m, ok := u.Interface.(admission.MutationInterface)
	if !ok || ctx.Value(ownKey{}) != nil {
		return nil
	}
	return forgive(ctx, m.Admit(ctx, a, o))
}

func (u unlessOwn) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	v, ok := u.Interface.(admission.ValidationInterface)
	if !ok || ctx.Value(ownKey{}) != nil {
		return nil
	}
	return forgive(ctx, v.Validate(ctx, a, o))
}

// forgive drops the error of a webhook that could not be called about a cover. Upstream tells it by its text only.
func forgive(ctx context.Context, err error) error {
	if ctx.Value(coverKey{}) != nil && apierrors.IsInternalError(err) && strings.Contains(err.Error(), "failed calling webhook") {
		return nil
	}
	return err
}
