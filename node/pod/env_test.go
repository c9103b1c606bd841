package pod

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// vault has one Secret and one ConfigMap.
type vault struct{ links }

func (vault) ConfigMap(_, name string) (*corev1.ConfigMap, bool) {
	return &corev1.ConfigMap{Data: map[string]string{"public": "known", "both": "known"}}, name == "map"
}

func (vault) Secret(_, name string) (*corev1.Secret, bool) {
	return &corev1.Secret{Data: map[string][]byte{"key": []byte("hush $(PLAIN)"), "both": []byte("hush")}}, name == "vault"
}

// TestProbeCommand: a probe's command names variables as upstream's may: those that the spec spells out, unexpanded, and no others.
func TestProbeCommand(t *testing.T) {
	c := &corev1.Container{Env: []corev1.EnvVar{{Name: "A", Value: "a"}, {Name: "B", Value: "<$(A)>"}, {Name: "S", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "key"}}}}}
	got := strings.Join(probeCommand(c, []string{"sh", "$(A)", "$(B)", "[$(S)]", "$(NOT)", "$$(A)"}), " ")
	if want := "sh a <$(A)> [] $(NOT) $(A)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestWhatIsSecret: each text that has a Secret's bytes is marked, by whatever way they came, and no other is.
func TestWhatIsSecret(t *testing.T) {
	no := false
	name := func(s string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: s} }
	fromSecret := func(variable string) corev1.EnvVar {
		return corev1.EnvVar{Name: variable, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: name("vault"), Key: "key"}}}
	}
	plain := corev1.EnvVar{Name: "PLAIN", Value: "plain"}
	allOf := func(secret bool) corev1.EnvFromSource {
		if secret {
			return corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: name("vault")}}
		}
		return corev1.EnvFromSource{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: name("map")}}
	}
	for what, c := range map[string]struct {
		c    corev1.Container
		want string // in [] what is marked
	}{
		"nothing":      {corev1.Container{Env: []corev1.EnvVar{plain}, Command: []string{"a"}, Args: []string{"$(PLAIN)"}}, "a plain | PLAIN=plain"},
		"a key":        {corev1.Container{Env: []corev1.EnvVar{plain, fromSecret("S")}}, "| PLAIN=plain S=[hush $(PLAIN)]"},
		"all of one":   {corev1.Container{EnvFrom: []corev1.EnvFromSource{allOf(true)}}, "| both=[hush] key=[hush $(PLAIN)]"},
		"of a map":     {corev1.Container{EnvFrom: []corev1.EnvFromSource{allOf(false)}}, "| both=known public=known"},
		"the last one": {corev1.Container{EnvFrom: []corev1.EnvFromSource{allOf(true), allOf(false)}}, "| both=known key=[hush $(PLAIN)] public=known"},
		"the last, turned round": {corev1.Container{EnvFrom: []corev1.EnvFromSource{allOf(false), allOf(true)}},
			"| both=[hush] public=known key=[hush $(PLAIN)]"},
		"set by hand": {corev1.Container{EnvFrom: []corev1.EnvFromSource{allOf(true)}, Env: []corev1.EnvVar{{Name: "key", Value: "mine"}}}, "| both=[hush] key=mine"},
		"by others": {corev1.Container{Env: []corev1.EnvVar{fromSecret("S"), {Name: "A", Value: "<$(S)>"}, {Name: "B", Value: "$(A)$(A)"}, {Name: "C", Value: "$$(S) $(NOT) $(C)"}}},
			"| S=[hush $(PLAIN)] A=[<hush $(PLAIN)>] B=[<hush $(PLAIN)><hush $(PLAIN)>] C=$(S) $(NOT) $(C)"},
		"named before it is set": {corev1.Container{Env: []corev1.EnvVar{{Name: "A", Value: "$(S)"}, fromSecret("S")}}, "| A=$(S) S=[hush $(PLAIN)]"},
		"by commands": {corev1.Container{Env: []corev1.EnvVar{fromSecret("S"), {Name: "A", Value: "$(S)"}, plain}, Command: []string{"sh", "-c", "echo $(A)"}, Args: []string{"$(PLAIN)", "--password=$(S)", "$$(S)"}},
			"sh -c [echo hush $(PLAIN)] plain [--password=hush $(PLAIN)] $(S) | S=[hush $(PLAIN)] A=[hush $(PLAIN)] PLAIN=plain"},
		"named by a key": {corev1.Container{EnvFrom: []corev1.EnvFromSource{allOf(true)}, Args: []string{"$(both)", "$(public)"}}, "[hush] $(public) | both=[hush] key=[hush $(PLAIN)]"},
	} {
		p := &corev1.Pod{Spec: corev1.PodSpec{EnableServiceLinks: &no}}
		env, err := environment(p, &c.c, vault{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		command, args := commandLine(&c.c, env)
		show := func(t Text) string {
			if t.Secret {
				return "[" + t.Value + "]"
			}
			return t.Value
		}
		var words []string
		for _, text := range append(command, args...) {
			words = append(words, show(text))
		}
		words = append(words, "|")
		for _, e := range env {
			if !strings.HasPrefix(e.Name, "KUBERNETES_") {
				words = append(words, fmt.Sprintf("%s=%s", e.Name, show(e.Text)))
			}
		}
		if got := strings.Join(words, " "); got != c.want {
			t.Errorf("%s:\n%s, want\n%s", what, got, c.want)
		}
	}
}
