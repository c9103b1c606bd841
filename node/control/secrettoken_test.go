package control_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestSecretTokens: a Secret whose type is kubernetes.io/service-account-token gets a token of the account that it names, and what else pods mount with it;
// one issuer does it. It goes with the account, and an account does not speak of one that has gone.
func TestSecretTokens(t *testing.T) {
	c := start(t, "n1", "n2")
	key := func(resource, name string) crdt.Key {
		return crdt.Key{Resource: resource, Namespace: "default", Name: name}
	}
	secret := func(name, account string, kind corev1.SecretType) {
		t.Helper()
		_, err := c.admin.Create(c.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Annotations: map[string]string{corev1.ServiceAccountNameKey: account}}, Type: kind})
		check(t, err)
	}
	read := func(s *store.Snapshot, name string) *corev1.Secret {
		got, _ := store.Get[corev1.Secret](s, key("secrets", name))
		return got
	}
	_, err := c.admin.Create(c.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot", Namespace: "default"}, Secrets: []corev1.ObjectReference{{Name: "one"}, {Name: "other"}}})
	check(t, err)
	secret("plain", "robot", corev1.SecretTypeOpaque)
	secret("one", "robot", corev1.SecretTypeServiceAccountToken)
	secret("two", "robot", corev1.SecretTypeServiceAccountToken)
	full := func(name string) func(*store.Snapshot) bool {
		return func(s *store.Snapshot) bool {
			got := read(s, name)
			return got != nil && len(got.Data["token"]) > 0
		}
	}
	c.eventually("a token", full("one"))
	c.eventually("another token", full("two"))
	one := read(c.store.Snapshot(), "one")
	sa, _ := store.Get[corev1.ServiceAccount](c.store.Snapshot(), key("serviceaccounts", "robot"))
	if string(one.Data["namespace"]) != "default" || string(one.Data["ca.crt"]) != "bundle" || one.Annotations[corev1.ServiceAccountUIDKey] != string(sa.UID) {
		t.Errorf("%v %q %q", one.Annotations, one.Data["namespace"], one.Data["ca.crt"])
	}
	if !c.api.SecretTokenProven(string(one.Data["token"])) {
		t.Error("no key proves the token")
	}
	time.Sleep(300 * time.Millisecond)
	if again := read(c.store.Snapshot(), "one"); string(again.Data["token"]) != string(one.Data["token"]) {
		t.Error("a good token was made anew")
	}
	if len(read(c.store.Snapshot(), "plain").Data) > 0 {
		t.Error("a Secret of another type got a token")
	}

	// What is taken out comes back.
	edit(c, key("secrets", "two"), func(s *corev1.Secret) { delete(s.Data, "token"); s.Data["namespace"] = nil })
	c.eventually("a token again", full("two"))

	check(t, c.admin.Delete(c.ctx, key("secrets", "one"), metav1.DeleteOptions{}))
	c.eventually("the account does not speak of it", func(s *store.Snapshot) bool {
		sa, ok := store.Get[corev1.ServiceAccount](s, key("serviceaccounts", "robot"))
		return ok && len(sa.Secrets) == 1 && sa.Secrets[0].Name == "other"
	})
	check(t, c.admin.Delete(c.ctx, key("serviceaccounts", "robot"), metav1.DeleteOptions{}))
	c.eventually("it goes with the account", func(s *store.Snapshot) bool { return read(s, "two") == nil })
	if read(c.store.Snapshot(), "plain") == nil {
		t.Error("a Secret of another type went with the account")
	}
}
