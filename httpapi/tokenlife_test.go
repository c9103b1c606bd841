package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestTokensOfAnEarlierAccountAreRefused: also if the account that took its place had the same UID.
func TestTokensOfAnEarlierAccountAreRefused(t *testing.T) {
	n := newNode(t, func(c *Config) { c.MaxTokenLife = 2 * time.Hour })
	code, answer, header := n.send(http.MethodPost, "/api/v1/namespaces/default/serviceaccounts/default/token", "application/json",
		`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":31536000}}`)
	if code != http.StatusCreated {
		t.Fatalf("%d %v", code, answer)
	}
	status := answer["status"].(map[string]any)
	if until, err := time.Parse(time.RFC3339, fmt.Sprint(status["expirationTimestamp"])); err != nil || time.Until(until) > 2*time.Hour {
		t.Errorf("a token of a year where two hours is most lives until %v, %v", until, err)
	}
	if header.Get("Warning") == "" {
		t.Error("no warning says that its life is shorter than was asked for")
	}
	review := func() bool {
		t.Helper()
		code, answer, _ := n.send(http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", "application/json",
			fmt.Sprintf(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":%q}}`, status["token"]))
		if code != http.StatusCreated {
			t.Fatalf("%d %v", code, answer)
		}
		return answer["status"].(map[string]any)["authenticated"] == true
	}
	if !review() {
		t.Fatal("a good token is refused")
	}
	k := crdt.Key{Resource: "serviceaccounts", Namespace: "default", Name: "default"}
	e, _ := n.store.Snapshot().Get(k)
	sa := &corev1.ServiceAccount{}
	check(t, e.Into(sa))
	sa.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}
	sa.CreationTimestamp = metav1.NewTime(time.Now().Add(time.Hour))
	_, err := n.store.Commit(context.Background(), store.Write{Key: k, Object: sa, Base: e})
	check(t, err)
	if review() {
		t.Error("a token that is older than its account is believed")
	}
}
