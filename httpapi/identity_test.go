package httpapi

import (
	"context"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestServiceAccountToken: a token of the API is one to the API, until its account is gone.
func TestServiceAccountToken(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c := n.clientset(false)
	_, err := c.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "sa"}}, metav1.CreateOptions{})
	check(t, err)
	out := n.must(kubectls(t)[0], "", "create", "token", "sa")
	who := func() int {
		req, err := http.NewRequest("GET", n.url+"/api", nil)
		check(t, err)
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(out))
		resp, err := n.client("").Do(req)
		check(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := who(); code != 200 {
		t.Errorf("with a token: %d", code)
	}
	for path, want := range map[string]string{"/.well-known/openid-configuration": `"jwks_uri":"https://kubernetes.default.svc.cluster.local/openid/v1/jwks"`, "/openid/v1/jwks": `"use":"sig"`} {
		if b, err := c.CoreV1().RESTClient().Get().AbsPath(path).DoRaw(ctx); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %s, %v", path, b, err)
		}
	}
	check(t, c.CoreV1().ServiceAccounts("default").Delete(ctx, "sa", metav1.DeleteOptions{}))
	if code := who(); code != 401 {
		t.Errorf("with the token of a deleted account: %d", code)
	}
}
