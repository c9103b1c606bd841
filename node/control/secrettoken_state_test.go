package control

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
)

type proven bool

func (p proven) SecretToken(context.Context, *corev1.ServiceAccount, *corev1.Secret) (string, error) {
	return "new", nil
}
func (p proven) SecretTokenProven(string) bool { return bool(p) }

// TestSecretTokensThatMayBeLate: an account that is absent may only be late, and a key that is not known too; whoever is no issuer decides nothing.
func TestSecretTokensThatMayBeLate(t *testing.T) {
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- replica.Run(ctx) }()
	defer func() { cancel(); <-done; replica.Close() }()
	put := func(name string, data map[string][]byte, uid string) *store.Entry {
		t.Helper()
		k := crdt.Key{Resource: "secrets", Namespace: "a", Name: name}
		e, err := replica.Commit(ctx, store.Write{Key: k, Object: &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: "robot", corev1.ServiceAccountUIDKey: uid}},
			Type:       corev1.SecretTypeServiceAccountToken, Data: data}})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := put("one", map[string][]byte{"token": []byte("old"), "namespace": []byte("a")}, "")
	issuers := []string{"n1"}
	p := proven(true)
	held := &secretTokens{issuers: func() []string { return issuers }, deleted: replica.Deleted, gone: map[types.UID]bool{}, went: map[crdt.Key]bool{},
		absent: map[types.UID]time.Time{}, unproven: map[types.UID]time.Time{}}
	began := time.Unix(1_000_000, 0)
	at := func(after time.Duration, nodes map[string]sight) plan {
		t.Helper()
		held.tokens = p
		w := &world{snap: replica.Snapshot(), now: began.Add(after), self: "n1", alive: []string{"n1", "n2"}, nodes: nodes}
		held.prepare(w)
		return held.decide(w, e)
	}
	seen := map[string]sight{"n1": {reachable: true}, "n2": {reachable: true}}
	cut := map[string]sight{"n1": {reachable: true}, "n2": {}}

	if got := at(0, seen); len(got.writes) > 0 || !got.wake.Equal(began.Add(unseen)) {
		t.Errorf("an account that may be late: %+v", got)
	}
	if got := at(unseen, cut); len(got.writes) > 0 {
		t.Errorf("while a node is out of sight, which may have the account: %+v", got)
	}
	if got := at(unseen+time.Second, seen); len(got.writes) > 0 {
		t.Errorf("the time begins anew: %+v", got)
	}
	issuers = []string{"n2"}
	if got := at(3*unseen, seen); len(got.writes) > 0 {
		t.Errorf("one that is no issuer: %+v", got)
	}
	issuers = []string{"n1"}
	if got := at(3*unseen, seen); len(got.writes) != 1 || got.writes[0].verb != remove {
		t.Errorf("an account that is not there: %+v", got)
	}

	account, err := replica.Commit(ctx, store.Write{Key: crdt.Key{Resource: "serviceaccounts", Namespace: "a", Name: "robot"},
		Object: &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "robot"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := at(4*unseen, seen); len(got.writes) > 0 {
		t.Errorf("it came late: %+v", got)
	}
	p = false
	if got := at(5*unseen, seen); len(got.writes) > 0 || !got.wake.Equal(began.Add(6*unseen)) {
		t.Errorf("a key that may be late: %+v", got)
	}
	if got := at(6*unseen, seen); len(got.writes) != 1 || got.writes[0].verb != entoken || got.writes[0].account.UID != account.UID {
		t.Errorf("a key that is gone: %+v", got)
	}
	p = true
	if got := at(7*unseen, seen); len(got.writes) > 0 {
		t.Errorf("a key that came late: %+v", got)
	}

	// Seen to go, it is gone.
	if _, err := replica.Commit(ctx, store.Write{Key: account.Key, Base: account}); err != nil {
		t.Fatal(err)
	}
	e = put("two", map[string][]byte{"token": []byte("old"), "namespace": []byte("a")}, string(account.UID))
	if got := at(7*unseen, cut); len(got.writes) != 1 || got.writes[0].verb != remove {
		t.Errorf("an account that was seen to go: %+v", got)
	}
}
