package httpapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"murmur/crdt"
)

// TestTokensOfOneThatIsNoIssuer: what a member that is no issuer signs is believed for the pods that run on it, of the account that they run as, and
// for nothing else; and it signs nothing else, and says so.
func TestTokensOfOneThatIsNoIssuer(t *testing.T) {
	ctx := context.Background()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(t, err)
		return k
	}
	issuers, edge := key(), key()
	public := func() []TokenKey {
		return []TokenKey{{Key: issuers.Public(), Node: "n1", Anywhere: true}, {Key: edge.Public(), Node: "edge"}}
	}
	n := newNode(t, func(c *Config) {
		c.ServiceAccountKey = nil
		c.TokenKeys = TokenKeys{Sign: func() *ecdsa.PrivateKey { return issuers }, Public: public}
	})
	c := n.clientset(false)
	for _, name := range []string{"app", "other"} {
		_, err := c.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		check(t, err)
	}
	pod := func(name, node, account string) {
		_, err := c.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: account, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
		check(t, err)
	}
	pod("here", "edge", "app")
	pod("there", "n1", "app")
	_, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge"}}, metav1.CreateOptions{})
	check(t, err)
	uid := func(resource, namespace, name string) types.UID {
		t.Helper()
		e, ok := n.store.Snapshot().Get(crdt.Key{Resource: resource, Namespace: namespace, Name: name})
		if !ok {
			t.Fatalf("no %s %s", resource, name)
		}
		var o metav1.PartialObjectMetadata
		check(t, e.Into(&o))
		return o.UID
	}
	// signed is a token that edge has signed, whatever its own API would say.
	signed := func(name, podName string, podUID types.UID, node string) string {
		t.Helper()
		generator, err := serviceaccount.JWTTokenGenerator(n.cfg.Issuer, edge)
		check(t, err)
		sa := core.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: uid("serviceaccounts", "default", name)}}
		var p *core.Pod
		var at *core.Node
		if podName != "" {
			p = &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: podName, UID: podUID}}
		}
		if node != "" {
			at = &core.Node{ObjectMeta: metav1.ObjectMeta{Name: node, UID: uid("nodes", "", "edge")}}
		}
		claims, private, err := serviceaccount.Claims(sa, p, nil, at, nil, nil, 600, 0, []string{n.cfg.Issuer}, nil)
		check(t, err)
		out, err := generator.GenerateToken(ctx, claims, private)
		check(t, err)
		return out
	}
	here, there := uid("pods", "default", "here"), uid("pods", "default", "there")
	for _, tt := range []struct {
		name  string
		token string
		good  bool
	}{
		{"a pod's that runs on it", signed("app", "here", here, ""), true},
		{"such a pod's, with its node", signed("app", "here", here, "edge"), true},
		{"such a pod's, with another node", signed("app", "here", here, "n1"), false},
		{"a pod's that runs elsewhere", signed("app", "there", there, ""), false},
		{"a pod's of before, of that name", signed("app", "here", there, ""), false},
		{"its pod's, of another account", signed("other", "here", here, ""), false},
		{"nothing's", signed("app", "", "", ""), false},
		{"nothing's, of the node", signed("app", "", "", "edge"), false},
	} {
		out, err := c.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: tt.token}}, metav1.CreateOptions{})
		check(t, err)
		if out.Status.Authenticated != tt.good {
			t.Errorf("a token for %s: authenticated %v, %s", tt.name, out.Status.Authenticated, out.Status.Error)
		}
		req, err := http.NewRequest("GET", n.url+"/api", nil)
		check(t, err)
		req.Header.Set("Authorization", "Bearer "+tt.token)
		resp, err := n.client("").Do(req)
		check(t, err)
		resp.Body.Close()
		if want := map[bool]int{true: 200, false: 401}[tt.good]; resp.StatusCode != want {
			t.Errorf("a request with a token for %s: %d, want %d", tt.name, resp.StatusCode, want)
		}
	}
	// Others than this API cannot ask where a pod runs, and are not told of its key.
	if b, err := c.CoreV1().RESTClient().Get().AbsPath("/openid/v1/jwks").DoRaw(ctx); err != nil || strings.Count(string(b), `"kid"`) != 1 {
		t.Errorf("discovery has %s, %v; want the issuer's key only", b, err)
	}

	// The API of edge itself.
	e := newNode(t, func(c *Config) {
		c.Node, c.ServiceAccountKey = "edge", nil
		c.TokenKeys = TokenKeys{Sign: func() *ecdsa.PrivateKey { return edge }, Public: public}
	})
	c = e.clientset(false)
	_, err = c.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "app"}}, metav1.CreateOptions{})
	check(t, err)
	pod("here", "edge", "app")
	pod("there", "n1", "app")
	for _, tt := range []struct {
		bound string
		code  int
	}{{"", 403}, {"there", 403}, {"none", 403}, {"here", 201}} {
		spec := "{}"
		if tt.bound != "" {
			spec = fmt.Sprintf(`{"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":%q}}`, tt.bound)
		}
		code, answer, _ := e.send(http.MethodPost, "/api/v1/namespaces/default/serviceaccounts/app/token", "application/json",
			`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":`+spec+`}`)
		if code != tt.code || code != 201 && (answer["kind"] != "Status" || answer["reason"] != "Forbidden" || !strings.Contains(fmt.Sprint(answer["message"]), "it is no issuer of the cluster")) {
			t.Errorf("a token bound to %q: %d %v, want %d", tt.bound, code, answer, tt.code)
		}
	}
	if out, err := e.kubectl(kubectls(t)[0], "", "create", "token", "app"); err == nil || !strings.Contains(out, "ask the API of a member that is") {
		t.Errorf("kubectl create token: %v %s", err, out)
	}
}
