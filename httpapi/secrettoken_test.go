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
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestTokensInSecrets: a token that a Secret holds is its account's for as long as the Secret holds it, the account is there and nobody has marked it
// invalid; the day on which it was used is noted. One that was signed by a key that is not believed anywhere is nobody's.
func TestTokensInSecrets(t *testing.T) {
	mine, others := newSigner(t), newSigner(t)
	anywhere, retired := true, false
	n := newNode(t, func(c *Config) {
		c.ServiceAccountKey = nil
		c.TokenKeys = TokenKeys{
			Sign: func() *ecdsa.PrivateKey { return mine },
			Public: func() []TokenKey {
				return []TokenKey{{Key: mine.Public(), Node: c.Node, Anywhere: anywhere, Retired: retired}, {Key: others.Public(), Node: "another"}}
			},
		}
	})
	ctx := context.Background()
	c := n.typed()
	secrets, accounts := c.CoreV1().Secrets("default"), c.CoreV1().ServiceAccounts("default")
	sa, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	check(t, err)
	made := func(name string) *corev1.Secret {
		t.Helper()
		s, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: sa.Name}},
			Type: corev1.SecretTypeServiceAccountToken}, metav1.CreateOptions{})
		check(t, err)
		token, err := n.Server.SecretToken(ctx, sa, s)
		check(t, err)
		s.Data = map[string][]byte{"token": []byte(token)}
		s.Annotations[corev1.ServiceAccountUIDKey] = string(sa.UID)
		s, err = secrets.Update(ctx, s, metav1.UpdateOptions{})
		check(t, err)
		return s
	}
	who := func(token []byte) string {
		t.Helper()
		code, answer, _ := n.send(http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", "application/json",
			fmt.Sprintf(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":%q}}`, token))
		if code != http.StatusCreated {
			t.Fatalf("%d %v", code, answer)
		}
		status := answer["status"].(map[string]any)
		if status["authenticated"] != true {
			return ""
		}
		return fmt.Sprint(status["user"].(map[string]any)["username"])
	}
	const robot = "system:serviceaccount:default:robot"
	s := made("one")
	token := s.Data["token"]
	if got := who(token); got != robot {
		t.Fatalf("a token in a Secret is %q", got)
	}
	if !n.Server.SecretTokenProven(string(token)) || n.Server.SecretTokenProven("a.b.c") || n.Server.SecretTokenProven("") {
		t.Error("which tokens are proven")
	}
	s, err = secrets.Get(ctx, "one", metav1.GetOptions{})
	check(t, err)
	if day := s.Labels["kubernetes.io/legacy-token-last-used"]; day != time.Now().UTC().Format("2006-01-02") {
		t.Errorf("used last on %q", day)
	}

	s.Labels["kubernetes.io/legacy-token-invalid-since"] = "2026-01-01"
	s, err = secrets.Update(ctx, s, metav1.UpdateOptions{})
	check(t, err)
	if who(token) != "" {
		t.Error("one that is marked invalid is believed")
	}
	delete(s.Labels, "kubernetes.io/legacy-token-invalid-since")
	s.Data["token"] = []byte("another")
	s, err = secrets.Update(ctx, s, metav1.UpdateOptions{})
	check(t, err)
	if who(token) != "" {
		t.Error("one that the Secret does not hold any more is believed")
	}
	s.Data["token"] = token
	_, err = secrets.Update(ctx, s, metav1.UpdateOptions{})
	check(t, err)
	if who(token) != robot {
		t.Error("one that the Secret holds again is refused")
	}
	check(t, secrets.Delete(ctx, "one", metav1.DeleteOptions{}))
	if who(token) != "" {
		t.Error("the token of a Secret that is gone is believed")
	}

	two := made("two").Data["token"]
	check(t, accounts.Delete(ctx, "robot", metav1.DeleteOptions{}))
	if who(two) != "" {
		t.Error("the token of an account that is gone is believed")
	}
	sa, err = accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	check(t, err)
	if who(two) != "" {
		t.Error("the token of an account is that of the next one of its name")
	}

	three := made("three")
	if who(three.Data["token"]) != robot {
		t.Fatal("a token of the next account")
	}
	// The member has a newer key: the token is good, and is made anew before it is not.
	retired = true
	n.Server.TrustChanged()
	if who(three.Data["token"]) != robot || n.Server.SecretTokenProven(string(three.Data["token"])) {
		t.Error("a token of a key that its member has replaced")
	}
	// The member is no issuer from now on.
	anywhere = false
	n.Server.TrustChanged()
	if who(three.Data["token"]) != "" || n.Server.SecretTokenProven(string(three.Data["token"])) {
		t.Error("what was signed by a member that is no issuer is believed anywhere")
	}
	if _, err := n.Server.SecretToken(ctx, sa, three); err == nil || !strings.Contains(err.Error(), "no issuer") {
		t.Errorf("a member that is no issuer signs: %v", err)
	}
}

func newSigner(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return k
}
