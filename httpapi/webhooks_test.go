package httpapi

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/httpapi/storage"
)

// hook is a webhook's server, and how a configuration names it.
func hook(t *testing.T, answer func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) registrationv1.WebhookClientConfig {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		uid := review.Request.UID
		review.Response, review.Request = answer(review.Request), nil
		review.Response.UID = uid
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(s.Close)
	return registrationv1.WebhookClientConfig{URL: new(s.URL + "/"), CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})}
}

// TestWebhooks: what is to be created is shown to webhooks, changed by one, refused by another, and none of it once they are gone or do
// not match.
func TestWebhooks(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c := n.typed()
	var asked atomic.Int32
	mutate := hook(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: new(admissionv1.PatchTypeJSONPatch),
			Patch: []byte(`[{"op":"add","path":"/data","value":{"from":"webhook","user":"` + r.UserInfo.Username + `"}}]`)}
	})
	refuse := hook(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		asked.Add(1)
		if strings.Contains(string(r.Object.Raw), `"from":"webhook"`) && r.Name == "bad" {
			return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "no bad ones"}}
		}
		return &admissionv1.AdmissionResponse{Allowed: true, Warnings: []string{"seen"}}
	})
	rules := []registrationv1.RuleWithOperations{{Operations: []registrationv1.OperationType{registrationv1.Create},
		Rule: registrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}}
	_, err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(ctx, &registrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Webhooks: []registrationv1.MutatingWebhook{{Name: "m.example.com", ClientConfig: mutate, Rules: rules, SideEffects: new(registrationv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"}, MatchConditions: []registrationv1.MatchCondition{{Name: "not-plain", Expression: `object.metadata.name != "plain"`}}}}}, metav1.CreateOptions{})
	check(t, err)
	_, err = c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &registrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "v"},
		Webhooks: []registrationv1.ValidatingWebhook{{Name: "v.example.com", ClientConfig: refuse, Rules: rules, SideEffects: new(registrationv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"}, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "default"}}}}}, metav1.CreateOptions{})
	check(t, err)
	create := func(namespace, name string) (*corev1.ConfigMap, error) {
		return c.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	}
	var last error // what was answered last
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("never: %s (%v)", what, last)
			}
		}
	}
	i := 0
	eventually("a webhook changes what is created", func() bool {
		i++
		m, err := create("kube-system", "probe"+strings.Repeat("x", i))
		check(t, err)
		return m.Data["from"] == "webhook" && m.Data["user"] == "admin"
	})
	eventually("another refuses what the first made of it", func() bool {
		_, err := create("default", "bad")
		if err == nil {
			check(t, c.CoreV1().ConfigMaps("default").Delete(ctx, "bad", metav1.DeleteOptions{}))
		}
		return apierrors.IsForbidden(err) || err != nil && strings.Contains(err.Error(), `admission webhook "v.example.com" denied the request: no bad ones`)
	})
	if m, err := create("default", "plain"); err != nil || len(m.Data) != 0 {
		t.Errorf("a webhook whose condition does not match was asked: %v %v", m, err)
	}
	before := asked.Load()
	if _, err := create("kube-system", "elsewhere"); err != nil || asked.Load() != before {
		t.Errorf("a webhook was asked about another namespace than it selects: %v", err)
	}
	patch := []byte(`[{"op":"replace","path":"/webhooks/0/rules/0/operations","value":["DELETE"]}]`)
	_, err = c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Patch(ctx, "v", types.JSONPatchType, patch, metav1.PatchOptions{})
	check(t, err)
	eventually("a changed configuration counts", func() bool {
		_, last = create("default", "bad")
		return last == nil
	})
	check(t, c.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, "m", metav1.DeleteOptions{}))
	eventually("one that is gone is not asked", func() bool {
		i++
		m, err := create("kube-system", "probe"+strings.Repeat("x", i))
		check(t, err)
		return len(m.Data) == 0
	})
	if kinds := n.Resources(); !slices.Contains(kinds, storage.MutatingWebhooks) || !slices.Contains(kinds, storage.ValidatingWebhooks) {
		t.Error("webhook configurations are stored under other names than admission reads")
	}
}

// TestWebhookThatDoesNotAnswer: its failure policy says what becomes of the request.
func TestWebhookThatDoesNotAnswer(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c := n.typed()
	rules := []registrationv1.RuleWithOperations{{Operations: []registrationv1.OperationType{registrationv1.Create},
		Rule: registrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}}
	made, err := c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &registrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "v"},
		Webhooks: []registrationv1.ValidatingWebhook{{Name: "v.example.com", Rules: rules, SideEffects: new(registrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
			ClientConfig: registrationv1.WebhookClientConfig{Service: &registrationv1.ServiceReference{Namespace: "default", Name: "none"}}}}}, metav1.CreateOptions{})
	check(t, err)
	works := func(want bool, name string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			_, err := c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: name}}, metav1.CreateOptions{})
			if (err == nil) == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("created is not %v: %v", want, err)
			}
		}
	}
	works(false, "fail-")
	made.Webhooks[0].FailurePolicy = new(registrationv1.Ignore)
	_, err = c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Update(ctx, made, metav1.UpdateOptions{})
	check(t, err)
	works(true, "ignore-")
}
