package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestPolicyMatching: which writes a policy is asked of is what its constraints and its binding say, and what becomes of those that it cannot judge is what its
// failurePolicy says. Each policy that is asked of a write warns of it.
func TestPolicyMatching(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c := n.typed()
	registration := c.AdmissionregistrationV1()
	_, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "live", Labels: map[string]string{"tier": "live"}}}, metav1.CreateOptions{})
	check(t, err)
	rule := func(group, version, resource string, scope registrationv1.ScopeType, names ...string) []registrationv1.NamedRuleWithOperations {
		return []registrationv1.NamedRuleWithOperations{{ResourceNames: names, RuleWithOperations: registrationv1.RuleWithOperations{
			Operations: []registrationv1.OperationType{registrationv1.Create}, Rule: registrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{version}, Resources: []string{resource}, Scope: &scope}}}}
	}
	const every, namespaced, clusterwide = registrationv1.AllScopes, registrationv1.NamespacedScope, registrationv1.ClusterScope
	maps := func(more func(*registrationv1.MatchResources)) *registrationv1.MatchResources {
		m := &registrationv1.MatchResources{ResourceRules: rule("", "v1", "configmaps", every)}
		if more != nil {
			more(m)
		}
		return m
	}
	live := &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "live"}}
	exact, equivalent := registrationv1.Exact, registrationv1.Equivalent
	for name, p := range map[string]struct {
		constraints, binding *registrationv1.MatchResources
	}{
		"all":           {maps(nil), nil},
		"of-namespaces": {maps(func(m *registrationv1.MatchResources) { m.NamespaceSelector = live }), nil},
		"of-objects":    {maps(func(m *registrationv1.MatchResources) { m.ObjectSelector = live }), nil},
		"of-a-name":     {&registrationv1.MatchResources{ResourceRules: rule("", "v1", "configmaps", every, "chosen")}, nil},
		"but-a-name": {maps(func(m *registrationv1.MatchResources) {
			m.ExcludeResourceRules = rule("", "v1", "configmaps", every, "chosen")
		}), nil},
		"namespaced": {&registrationv1.MatchResources{ResourceRules: rule("", "v1", "*", namespaced)}, nil},
		"but-namespaced": {maps(func(m *registrationv1.MatchResources) {
			m.ExcludeResourceRules = rule("", "v1", "configmaps", namespaced)
		}), nil},
		"clusterwide":           {&registrationv1.MatchResources{ResourceRules: rule("", "v1", "*", clusterwide)}, nil},
		"bound-to-namespaces":   {maps(nil), &registrationv1.MatchResources{NamespaceSelector: live}},
		"bound-to-objects":      {maps(nil), &registrationv1.MatchResources{ObjectSelector: live}},
		"bound-to-a-name":       {maps(nil), &registrationv1.MatchResources{ResourceRules: rule("", "v1", "configmaps", every, "chosen")}},
		"bound-but-to-a-name":   {maps(nil), &registrationv1.MatchResources{ExcludeResourceRules: rule("", "v1", "configmaps", every, "chosen")}},
		"of-another-version":    {&registrationv1.MatchResources{MatchPolicy: &equivalent, ResourceRules: rule("autoscaling", "v2", "horizontalpodautoscalers", every)}, nil},
		"of-that-version-alone": {&registrationv1.MatchResources{MatchPolicy: &exact, ResourceRules: rule("autoscaling", "v2", "horizontalpodautoscalers", every)}, nil},
	} {
		_, err := registration.ValidatingAdmissionPolicies().Create(ctx, &registrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: registrationv1.ValidatingAdmissionPolicySpec{MatchConstraints: p.constraints, Validations: []registrationv1.Validation{{Expression: "false", Message: "asked"}}}}, metav1.CreateOptions{})
		check(t, err)
		_, err = registration.ValidatingAdmissionPolicyBindings().Create(ctx, &registrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: registrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []registrationv1.ValidationAction{registrationv1.Warn}, MatchResources: p.binding}}, metav1.CreateOptions{})
		check(t, err)
	}
	asked := func(path, body string) (out []string) {
		t.Helper()
		code, answer, header := n.send("POST", path+"?dryRun=All", "", body)
		if code != http.StatusCreated {
			t.Fatalf("%s: %d %v", body, code, answer)
		}
		for _, w := range header.Values("Warning") {
			if _, after, ok := strings.Cut(w, "ValidatingAdmissionPolicy '"); ok {
				name, _, _ := strings.Cut(after, "'")
				out = append(out, name)
			}
		}
		slices.Sort(out)
		return out
	}
	configmap := func(labels, name string) string { return "{metadata: {name: " + name + ", labels: {" + labels + "}}}" }
	const here, there, hpas = "/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/live/configmaps", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
	for _, w := range []struct{ path, body, want string }{
		{here, configmap("", "plain"), "all bound-but-to-a-name but-a-name namespaced"},
		{here, configmap("tier: live", "plain"), "all bound-but-to-a-name bound-to-objects but-a-name namespaced of-objects"},
		{here, configmap("", "chosen"), "all bound-to-a-name namespaced of-a-name"},
		{there, configmap("", "plain"), "all bound-but-to-a-name bound-to-namespaces but-a-name namespaced of-namespaces"},
		{"/api/v1/namespaces", "{metadata: {name: fresh}}", "clusterwide"},
		{hpas, "{metadata: {name: h}, spec: {maxReplicas: 2, scaleTargetRef: {kind: Deployment, name: d, apiVersion: apps/v1}}}", "of-another-version"},
	} {
		want := strings.Fields(w.want)
		var got []string
		for deadline := time.Now().Add(20 * time.Second); !slices.Equal(got, want) && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			got = asked(w.path, w.body)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s of %s asks %v, want %v", w.body, w.path, got, want)
		}
	}

	// A policy that cannot be judged by.
	fail, ignore := registrationv1.Fail, registrationv1.Ignore
	forbidden := metav1.StatusReasonForbidden
	for name, policy := range map[string]*registrationv1.FailurePolicyType{"strict": &fail, "lenient": &ignore, "because": &fail} {
		validation := registrationv1.Validation{Expression: "object.data.absent == 'x'"}
		if name == "because" {
			validation = registrationv1.Validation{Expression: "false", Reason: &forbidden}
		}
		_, err := registration.ValidatingAdmissionPolicies().Create(ctx, &registrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: registrationv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: policy, MatchConstraints: &registrationv1.MatchResources{ResourceRules: rule("", "v1", "configmaps", every, name)},
			Validations: []registrationv1.Validation{validation}}}, metav1.CreateOptions{})
		check(t, err)
		_, err = registration.ValidatingAdmissionPolicyBindings().Create(ctx, &registrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: registrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []registrationv1.ValidationAction{registrationv1.Deny}}}, metav1.CreateOptions{})
		check(t, err)
	}
	eventually(t, func() error {
		strict, _, _ := n.send("POST", here+"?dryRun=All", "", configmap("", "strict"))
		lenient, _, _ := n.send("POST", here+"?dryRun=All", "", configmap("", "lenient"))
		because, _, _ := n.send("POST", here+"?dryRun=All", "", configmap("", "because"))
		if strict != http.StatusUnprocessableEntity || lenient != http.StatusCreated || because != http.StatusForbidden {
			return fmt.Errorf("failurePolicy Fail: %d, Ignore: %d; a reason of its own: %d", strict, lenient, because)
		}
		return nil
	})
}
