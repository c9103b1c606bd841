package httpapi

import (
	"context"
	"strings"
	"testing"
	"time"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// configMaps is what the policies of these tests are about.
var configMaps = &registrationv1.MatchResources{ResourceRules: []registrationv1.NamedRuleWithOperations{{RuleWithOperations: registrationv1.RuleWithOperations{
	Operations: []registrationv1.OperationType{registrationv1.Create},
	Rule:       registrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
}}}}

// TestPolicies: policies in CEL change and refuse what is written once they are bound, by parameters that change, and no longer when they
// are not; what evaluates them is there only meanwhile.
func TestPolicies(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c := n.typed()
	registration := c.AdmissionregistrationV1()
	create := func(name string) (*corev1.ConfigMap, error) {
		m, err := c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
		if err == nil {
			check(t, c.CoreV1().ConfigMaps("default").Delete(ctx, name, metav1.DeleteOptions{}))
		}
		return m, err
	}
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("never: " + what)
			}
		}
	}
	_, err := c.CoreV1().ConfigMaps("kube-system").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "words"}, Data: map[string]string{"no": "bad"}}, metav1.CreateOptions{})
	check(t, err)
	_, err = registration.ValidatingAdmissionPolicies().Create(ctx, &registrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "v"},
		Spec: registrationv1.ValidatingAdmissionPolicySpec{MatchConstraints: configMaps, ParamKind: &registrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
			Validations: []registrationv1.Validation{{Expression: "!object.metadata.name.startsWith(params.data.no)", Message: "no such names", Reason: new(metav1.StatusReasonForbidden)}}}}, metav1.CreateOptions{})
	check(t, err)
	if _, err := create("bad"); err != nil || n.policies.Evaluated() != 0 {
		t.Fatalf("a policy that nothing binds was asked: %v, %d evaluations", err, n.policies.Evaluated())
	}
	_, err = registration.ValidatingAdmissionPolicyBindings().Create(ctx, &registrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "v"},
		Spec: registrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "v", ValidationActions: []registrationv1.ValidationAction{registrationv1.Deny},
			ParamRef: &registrationv1.ParamRef{Name: "words", Namespace: "kube-system", ParameterNotFoundAction: new(registrationv1.DenyAction)}}}, metav1.CreateOptions{})
	check(t, err)
	eventually("what a bound policy forbids is refused", func() bool {
		_, err := create("bad")
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'v' with binding 'v' denied request: no such names")
	})
	if _, err := create("good"); err != nil {
		t.Errorf("what the policy allows: %v", err)
	}
	words, err := c.CoreV1().ConfigMaps("kube-system").Get(ctx, "words", metav1.GetOptions{})
	check(t, err)
	words.Data["no"] = "worse"
	_, err = c.CoreV1().ConfigMaps("kube-system").Update(ctx, words, metav1.UpdateOptions{})
	check(t, err)
	eventually("parameters that changed count", func() bool {
		_, bad := create("bad")
		_, worse := create("worse")
		return bad == nil && worse != nil
	})

	_, err = registration.MutatingAdmissionPolicies().Create(ctx, &registrationv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Spec: registrationv1.MutatingAdmissionPolicySpec{MatchConstraints: configMaps, ReinvocationPolicy: registrationv1.NeverReinvocationPolicy,
			Mutations: []registrationv1.Mutation{
				{PatchType: registrationv1.PatchTypeApplyConfiguration, ApplyConfiguration: &registrationv1.ApplyConfiguration{Expression: `Object{metadata: Object.metadata{labels: {"by": request.userInfo.username}}}`}},
				{PatchType: registrationv1.PatchTypeJSONPatch, JSONPatch: &registrationv1.JSONPatch{Expression: `[JSONPatch{op: "add", path: "/data/added", value: "x"}]`}},
			}}}, metav1.CreateOptions{})
	check(t, err)
	_, err = registration.MutatingAdmissionPolicyBindings().Create(ctx, &registrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Spec: registrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "m"}}, metav1.CreateOptions{})
	check(t, err)
	eventually("a bound policy changes what is written", func() bool {
		m, err := create("good")
		return err == nil && m.Labels["by"] == "admin" && m.Data["added"] == "x" && m.Data["k"] == "v"
	})

	check(t, registration.MutatingAdmissionPolicyBindings().Delete(ctx, "m", metav1.DeleteOptions{}))
	check(t, registration.ValidatingAdmissionPolicyBindings().Delete(ctx, "v", metav1.DeleteOptions{}))
	if m, err := create("worse"); err != nil || m.Data["added"] != "" || n.policies.Evaluated() != 0 {
		t.Errorf("policies that nothing binds any more were asked: %v, %v, %d evaluations", m, err, n.policies.Evaluated())
	}
}

// TestPolicyTypes: what is wrong with the types in a policy's expressions is in its status.
func TestPolicyTypes(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	policies := n.typed().AdmissionregistrationV1().ValidatingAdmissionPolicies()
	for name, expression := range map[string]string{"right": "object.data.size() > 0", "wrong": "object.data > 1"} {
		_, err := policies.Create(ctx, &registrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: registrationv1.ValidatingAdmissionPolicySpec{MatchConstraints: configMaps, Validations: []registrationv1.Validation{{Expression: expression}}}}, metav1.CreateOptions{})
		check(t, err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		right, err := policies.Get(ctx, "right", metav1.GetOptions{})
		check(t, err)
		wrong, err := policies.Get(ctx, "wrong", metav1.GetOptions{})
		check(t, err)
		if r, w := right.Status.TypeChecking, wrong.Status.TypeChecking; r != nil && w != nil && right.Status.ObservedGeneration == 1 {
			if len(r.ExpressionWarnings) != 0 || len(w.ExpressionWarnings) != 1 || w.ExpressionWarnings[0].FieldRef != "spec.validations[0].expression" {
				t.Errorf("warnings: %v of what is right, %v of what is wrong", r, w)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("types were never checked: %v, %v", right.Status, wrong.Status)
		}
	}
}
