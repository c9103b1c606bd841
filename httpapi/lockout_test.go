package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// everything matches what can be written, subresources too.
var everything = []registrationv1.RuleWithOperations{{
	Operations: []registrationv1.OperationType{registrationv1.Create, registrationv1.Update, registrationv1.Delete, registrationv1.Connect},
	Rule:       registrationv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*/*"}}}}

// TestNobodyIsLockedOut: whatever webhooks and policies are stored, and whatever these do, a daemon makes what every
// cluster has, a pod gets its token, what is defined is served, a lost pod is covered if nobody refuses it, and they can be taken away again.
func TestNobodyIsLockedOut(t *testing.T) {
	refusing := func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "no"}}
	}
	nowhere := registrationv1.WebhookClientConfig{Service: &registrationv1.ServiceReference{Namespace: "default", Name: "gate"}}
	closed := registrationv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/")}
	webhook := func(config registrationv1.WebhookClientConfig, policy registrationv1.FailurePolicyType) func(*testing.T, *node) string {
		return func(t *testing.T, n *node) string {
			_, err := n.typed().AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(context.Background(), &registrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "all"},
				Webhooks: []registrationv1.ValidatingWebhook{{Name: "all.example.test", ClientConfig: config, Rules: everything, FailurePolicy: &policy,
					SideEffects: new(registrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}, TimeoutSeconds: new(int32(1))}}}, metav1.CreateOptions{})
			check(t, err)
			return "validatingwebhookconfigurations"
		}
	}
	mutating := func(config registrationv1.WebhookClientConfig, policy registrationv1.FailurePolicyType) func(*testing.T, *node) string {
		return func(t *testing.T, n *node) string {
			_, err := n.typed().AdmissionregistrationV1().MutatingWebhookConfigurations().Create(context.Background(), &registrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "all"},
				Webhooks: []registrationv1.MutatingWebhook{{Name: "all.example.test", ClientConfig: config, Rules: everything, FailurePolicy: &policy,
					SideEffects: new(registrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}, TimeoutSeconds: new(int32(1))}}}, metav1.CreateOptions{})
			check(t, err)
			return "mutatingwebhookconfigurations"
		}
	}
	policy := func(expression string, action registrationv1.ValidationAction) func(*testing.T, *node) string {
		return func(t *testing.T, n *node) string {
			ctx, c := context.Background(), n.typed().AdmissionregistrationV1()
			rules := []registrationv1.NamedRuleWithOperations{{RuleWithOperations: everything[0]}}
			_, err := c.ValidatingAdmissionPolicies().Create(ctx, &registrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: registrationv1.ValidatingAdmissionPolicySpec{
				FailurePolicy: new(registrationv1.Fail), MatchConstraints: &registrationv1.MatchResources{ResourceRules: rules},
				Validations: []registrationv1.Validation{{Expression: expression, Message: "no"}}}}, metav1.CreateOptions{})
			check(t, err)
			_, err = c.ValidatingAdmissionPolicyBindings().Create(ctx, &registrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "all"},
				Spec: registrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "all", ValidationActions: []registrationv1.ValidationAction{action}}}, metav1.CreateOptions{})
			check(t, err)
			return "validatingadmissionpolicybindings"
		}
	}
	for _, c := range []struct {
		name  string
		store func(*testing.T, *node) string
		// refused: what users create is; covered: a lost pod is.
		refused, covered bool
	}{
		{"a webhook without a backend", webhook(nowhere, registrationv1.Fail), true, true},
		{"one that nobody answers", webhook(closed, registrationv1.Fail), true, true},
		{"one that may fail", webhook(nowhere, registrationv1.Ignore), false, true},
		{"one that refuses", webhook(hook(t, refusing), registrationv1.Fail), true, false},
		{"one that refuses and may fail", webhook(hook(t, refusing), registrationv1.Ignore), true, false},
		{"one that changes, without a backend", mutating(nowhere, registrationv1.Fail), true, true},
		{"one that would change and refuses", mutating(hook(t, refusing), registrationv1.Fail), true, false},
		{"a policy that refuses", policy("false", registrationv1.Deny), true, false},
		{"a policy that breaks", policy("object.spec.nothing.like.it == 1", registrationv1.Deny), true, false},
		{"a policy that warns", policy("false", registrationv1.Warn), false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, nil)
			ctx := context.Background()
			created, err := n.typed().CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "runs"},
				Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "default", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
			check(t, err)
			resource := c.store(t, n)
			create := func() error {
				_, err := n.typed().CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "x"}}, metav1.CreateOptions{})
				return err
			}
			if c.refused {
				eventually(t, func() error {
					if err := create(); err == nil {
						return fmt.Errorf("what users create is not refused")
					}
					return nil
				})
			} else {
				time.Sleep(1500 * time.Millisecond) // policies are read anew each second; a warning shows in no error
				check(t, create())
			}

			for _, k := range []crdt.Key{{Resource: "rbac.authorization.k8s.io/clusterroles", Name: "system:discovery"}, {Resource: "rbac.authorization.k8s.io/rolebindings", Namespace: "kube-system", Name: "system::leader-locking-kube-scheduler"}} {
				e, ok := n.store.Snapshot().Get(k)
				if !ok {
					t.Fatalf("no %s", k)
				}
				_, err := n.store.Commit(ctx, store.Write{Key: k, Base: e})
				check(t, err)
			}
			if err := n.Bootstrap(ctx); err != nil {
				t.Errorf("a daemon that starts: %v", err)
			}
			bound := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
				BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: created.Name, UID: created.UID}}}
			if _, err := n.Own("system:node:n1", "system:nodes").Token(ctx, "default", "default", bound); err != nil {
				t.Errorf("the token of a pod: %v", err)
			}
			_, err = n.As("system:serviceaccount:kube-system:replicaset-controller", "system:masters").Cover(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "cover", Namespace: "default"},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
			if (err == nil) != c.covered {
				t.Errorf("a cover: %v", err)
			}
			code, got, _ := n.send("DELETE", "/apis/admissionregistration.k8s.io/v1/"+resource+"/all", "", "null")
			if code != http.StatusOK {
				t.Errorf("to take it away: %d %v", code, got)
			}
			eventually(t, create)
		})
	}
}

// TestCoverIsShownToThoseWhoAnswer: of several webhooks, those that answer change a cover and may refuse it, whichever others
// cannot be called; anything else needs them all.
func TestCoverIsShownToThoseWhoAnswer(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c := n.typed().AdmissionregistrationV1()
	nowhere := registrationv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/")}
	marks := hook(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: new(admissionv1.PatchTypeJSONPatch), Patch: []byte(`[{"op":"add","path":"/metadata/labels","value":{"seen":"yes"}}]`)}
	})
	refuses := hook(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		if strings.Contains(r.Name, "bad") {
			return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "no bad ones"}}
		}
		return &admissionv1.AdmissionResponse{Allowed: true}
	})
	rules := []registrationv1.RuleWithOperations{{Operations: []registrationv1.OperationType{registrationv1.Create},
		Rule: registrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}}
	mutating := func(name string, config registrationv1.WebhookClientConfig) registrationv1.MutatingWebhook {
		return registrationv1.MutatingWebhook{Name: name + ".example.test", ClientConfig: config, Rules: rules, SideEffects: new(registrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}}
	}
	validating := func(name string, config registrationv1.WebhookClientConfig) registrationv1.ValidatingWebhook {
		return registrationv1.ValidatingWebhook{Name: name + ".example.test", ClientConfig: config, Rules: rules, SideEffects: new(registrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}}
	}
	_, err := c.MutatingWebhookConfigurations().Create(ctx, &registrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Webhooks: []registrationv1.MutatingWebhook{mutating("a", nowhere), mutating("b", marks), mutating("c", nowhere)}}, metav1.CreateOptions{})
	check(t, err)
	_, err = c.ValidatingWebhookConfigurations().Create(ctx, &registrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "v"},
		Webhooks: []registrationv1.ValidatingWebhook{validating("a", nowhere), validating("b", refuses), validating("c", nowhere)}}, metav1.CreateOptions{})
	check(t, err)
	as := n.As("system:serviceaccount:kube-system:replicaset-controller", "system:masters")
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	}
	eventually(t, func() error {
		if _, err := as.Create(ctx, pod("usual")); err == nil {
			check(t, as.Delete(ctx, crdt.Key{Resource: "pods", Namespace: "default", Name: "usual"}, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
			return fmt.Errorf("a pod is made past webhooks that cannot be called")
		}
		return nil
	})
	// The plugins for covers hear of the webhooks as the others do.
	eventually(t, func() error {
		obj, err := as.Cover(ctx, pod("good"))
		if err != nil {
			return err
		}
		check(t, as.Delete(ctx, crdt.Key{Resource: "pods", Namespace: "default", Name: "good"}, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
		if obj.(*corev1.Pod).Labels["seen"] != "yes" {
			return fmt.Errorf("what a webhook changes in a cover is lost: %v", obj.(*corev1.Pod).Labels)
		}
		return nil
	})
	for range 10 {
		if _, err := as.Cover(ctx, pod("bad")); err == nil || !strings.Contains(err.Error(), "no bad ones") {
			t.Fatalf("a cover that a webhook refuses: %v", err)
		}
	}
}

// TestDefinedBehindAWebhook: what is defined comes to be served although a webhook that nobody answers is asked about all that is written after.
func TestDefinedBehindAWebhook(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	rules := slices.Clone(everything)
	rules[0].Operations = []registrationv1.OperationType{registrationv1.Update}
	_, err := n.typed().AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &registrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "all"},
		Webhooks: []registrationv1.ValidatingWebhook{{Name: "all.example.test", ClientConfig: registrationv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/")}, Rules: rules,
			SideEffects: new(registrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}}}}, metav1.CreateOptions{})
	check(t, err)
	define := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "things.example.com"}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: "example.com", Scope: apiextensionsv1.NamespaceScoped, Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Singular: "thing", Kind: "Thing", ListKind: "ThingList"},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
			OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: new(true)}}}}}}
	_, err = n.As("admin", "system:masters").Create(ctx, define)
	check(t, err)
	eventually(t, func() error {
		if code, _, _ := n.send("GET", "/apis/example.com/v1/things", "", "null"); code != http.StatusOK {
			return fmt.Errorf("things: %d", code)
		}
		return nil
	})
}

// TestKindsInProcess: what is written in this process shows webhooks the kind that it would show over HTTP, for each path
// there is.
func TestKindsInProcess(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	var mu sync.Mutex
	var seen []string
	watching := hook(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		mu.Lock()
		defer mu.Unlock()
		var obj struct{ Kind string }
		_ = json.Unmarshal(r.Object.Raw, &obj)
		seen = append(seen, strings.TrimSpace(fmt.Sprint(r.Operation, " ", r.Resource.Resource, "/", r.SubResource, " ", r.Kind.Group, " ", r.Kind.Kind, " ", obj.Kind)))
		return &admissionv1.AdmissionResponse{Allowed: true}
	})
	_, err := n.typed().AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &registrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "all"},
		Webhooks: []registrationv1.ValidatingWebhook{{Name: "all.example.test", ClientConfig: watching, Rules: everything, FailurePolicy: new(registrationv1.Fail),
			SideEffects: new(registrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}}}}, metav1.CreateOptions{})
	check(t, err)
	shown := func(do func() error) []string {
		t.Helper()
		mu.Lock()
		seen = nil
		mu.Unlock()
		check(t, do())
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
	c := n.typed()
	eventually(t, func() error {
		if got := shown(func() error {
			_, err := c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "x"}}, metav1.CreateOptions{})
			return err
		}); len(got) == 0 {
			return fmt.Errorf("the webhook is not asked yet")
		}
		return nil
	})
	as := n.As("admin", "system:masters")
	var pod *corev1.Pod
	rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "rc", Namespace: "default"}, Spec: corev1.ReplicationControllerSpec{Replicas: new(int32(0)),
		Selector: map[string]string{"a": "b"}, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}
	steps := map[string]struct {
		want string
		do   func() error
	}{
		"1 create": {"CREATE pods/  Pod Pod", func() error {
			obj, err := as.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
			if err == nil {
				pod = obj.(*corev1.Pod)
			}
			return err
		}},
		"2 status": {"UPDATE pods/status  Pod Pod", func() error {
			obj, err := as.UpdateStatus(ctx, pod)
			if err == nil {
				pod = obj.(*corev1.Pod)
			}
			return err
		}},
		"3 token": {"CREATE serviceaccounts/token authentication.k8s.io TokenRequest TokenRequest", func() error {
			_, err := as.Token(ctx, "default", "default", &authenticationv1.TokenRequest{})
			return err
		}},
		"4 scale": {"UPDATE replicationcontrollers/scale autoscaling Scale Scale", func() error {
			if _, err := n.System().Create(ctx, rc); err != nil {
				return err
			}
			ref := autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "ReplicationController", Name: "rc"}
			scale, err := as.Scale(ctx, "default", ref)
			if err != nil {
				return err
			}
			scale.Spec.Replicas = 3
			return as.UpdateScale(ctx, "default", ref, scale)
		}},
		"5 finalize": {"UPDATE namespaces/finalize  Namespace Namespace", func() error {
			obj, err := n.System().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ends"}})
			if err != nil {
				return err
			}
			_, err = as.Finalize(ctx, obj.(*corev1.Namespace))
			return err
		}},
		"6 delete": {"DELETE pods/  Pod", func() error {
			return as.Delete(ctx, crdt.Key{Resource: "pods", Namespace: "default", Name: "p"}, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
		}},
	}
	for _, name := range slices.Sorted(maps.Keys(steps)) {
		// A deletion may be shown more than once, over HTTP too.
		if got := slices.Compact(shown(steps[name].do)); !slices.Equal(got, []string{steps[name].want}) {
			t.Errorf("%s showed %q, want %q", name, got, steps[name].want)
		}
	}
	if got := shown(func() error {
		_, err := n.System().Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "own", Namespace: "default"}})
		return err
	}); len(got) != 0 {
		t.Errorf("what the API writes for itself was shown: %q", got)
	}
	if _, err := n.As("nobody").Token(ctx, "default", "default", &authenticationv1.TokenRequest{}); !apierrors.IsForbidden(err) {
		t.Errorf("a token for nobody: %v", err)
	}
}
