package admit

import (
	"context"
	"testing"

	"k8s.io/apiserver/pkg/admission"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
)

type counted struct {
	*admission.Handler
	admitted, validated *int
}

func (c counted) Admit(context.Context, admission.Attributes, admission.ObjectInterfaces) error {
	*c.admitted++
	return nil
}

func (c counted) Validate(context.Context, admission.Attributes, admission.ObjectInterfaces) error {
	*c.validated++
	return nil
}

// TestNothingStored: webhooks are asked as soon as there is one, and again not when there is none; the other plugins know themselves.
func TestNothingStored(t *testing.T) {
	there := false
	for name, knows := range map[string]bool{mutating.PluginName: false, validating.PluginName: false, validatingpolicy.PluginName: true, "PodSecurity": true} {
		var admitted, validated int
		p := exempt(nil, func(plugin string) bool { return there && plugin == name })(counted{admission.NewHandler(admission.Create), &admitted, &validated}, name)
		want := 0
		for _, there = range []bool{false, true, false} {
			if there || knows {
				want++
			}
			if err := p.(admission.MutationInterface).Admit(t.Context(), nil, nil); err != nil || admitted != want {
				t.Errorf("%s, stored %v: asked %d times, want %d (%v)", name, there, admitted, want, err)
			}
		}
		for _, there = range []bool{false, true} {
			wanted := 0
			if there || knows {
				wanted = 1
			}
			validated = 0
			if err := p.(admission.ValidationInterface).Validate(t.Context(), nil, nil); err != nil || validated != wanted {
				t.Errorf("%s, stored %v: validates %d times (%v)", name, there, validated, err)
			}
		}
		if own := Own(t.Context()); name == mutating.PluginName {
			there = true
			if err := p.(admission.MutationInterface).Admit(own, nil, nil); err != nil || admitted != want {
				t.Errorf("asked about what the daemon writes for itself: %v", err)
			}
		}
	}
}
