package control

import (
	"bytes"
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/rendezvous"
)

// Tokens makes the tokens that Secrets of type kubernetes.io/service-account-token hold.
type Tokens interface {
	// SecretToken is a new one, signed by this node, which must be one whose signature is believed anywhere.
	SecretToken(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) (string, error)
	// SecretTokenProven tells whether one is proven by a key that is believed anywhere now.
	SecretTokenProven(token string) bool
}

const accounts = "serviceaccounts"

// secretTokens is upstream's tokens controller: a Secret that names an account gets a token of it, goes with it, and what an account says of a
// Secret that has gone is taken away.
//
// The nodes whose keys are believed anywhere are the issuers, so one of those in sight does it. Keys are replaced here, and go with their
// nodes: a token that no key proves any more is made anew. An account that is absent may only be late, as in garbage.
type secretTokens struct {
	tokens  Tokens
	issuers func() []string
	caCert  func() []byte
	deleted func(store.Version) []types.UID

	looked store.Version
	// present are the accounts of the last look, gone those that were seen and are no more. Both follow the events, and are made anew when all
	// owners are decided.
	present, gone map[types.UID]bool
	// held are the Secrets of the last look that hold tokens, went those that an account still speaks of though they have gone.
	held, went map[crdt.Key]bool
	// concerned are the accounts that speak of a Secret that has gone.
	concerned []crdt.Key
	// signing are the issuers in sight, once they were asked for in this look.
	signing []string
	// absent is since when the account of a Secret has been looked for in vain, unproven since when no key proves its token.
	absent, unproven map[types.UID]time.Time
}

func newSecretTokens(cfg Config) *secretTokens {
	return &secretTokens{
		tokens: cfg.Tokens, issuers: cfg.Signer.Issuers, caCert: cfg.CACert, deleted: cfg.Store.Deleted,
		gone: map[types.UID]bool{}, went: map[crdt.Key]bool{}, absent: map[types.UID]time.Time{}, unproven: map[types.UID]time.Time{},
	}
}

// tokenSecret is the Secret of an entry if it holds a token of an account, or is to.
func tokenSecret(e *store.Entry) (*corev1.Secret, bool) {
	s, err := store.As[corev1.Secret](e)
	return s, err == nil && s.Type == corev1.SecretTypeServiceAccountToken && s.Annotations[corev1.ServiceAccountNameKey] != ""
}

func (t *secretTokens) prepare(w *world) {
	t.signing, t.concerned = nil, nil
	if len(t.gone) > maxGone {
		clear(t.gone)
	}
	if t.looked > 0 && !w.complete {
		for _, uid := range t.deleted(t.looked) {
			t.gone[uid] = true
		}
	}
	t.looked = w.snap.Version()
	for _, e := range w.events {
		t.follow(e)
	}
	if w.everything || !w.complete {
		t.rebuild(w)
	}
	t.letGo(w)
	if out(w.nodes) > 0 {
		clear(t.absent)
	}
}

// follow takes in one change.
func (t *secretTokens) follow(e store.Event) {
	k := e.Entry.Key
	switch {
	case k.Resource == accounts && e.Type == store.Deleted:
		t.gone[e.Entry.UID] = true
		delete(t.present, e.Entry.UID)
	case k.Resource == accounts && t.present != nil:
		t.present[e.Entry.UID] = true
	case k.Resource != "secrets":
	case e.Type == store.Deleted:
		delete(t.absent, e.Entry.UID)
		delete(t.unproven, e.Entry.UID)
		t.hold(k, false)
	default:
		_, holds := tokenSecret(e.Entry)
		t.hold(k, holds)
	}
}

// hold notes whether a Secret holds a token.
func (t *secretTokens) hold(k crdt.Key, holds bool) {
	switch {
	case holds && t.held != nil:
		t.held[k] = true
	case !holds && t.held[k]:
		delete(t.held, k)
		t.went[k] = true
	}
}

// rebuild reads which accounts there are, and which Secrets with tokens.
func (t *secretTokens) rebuild(w *world) {
	was, held := t.present, t.held
	t.present, t.held = map[types.UID]bool{}, map[crdt.Key]bool{}
	there := map[types.UID]bool{}
	for e := range w.snap.Indexed(store.ByType, string(corev1.SecretTypeServiceAccountToken), "secrets", "", "") {
		if _, ok := tokenSecret(e); ok {
			t.held[e.Key], there[e.UID] = true, true
		}
	}
	for k := range held {
		if !t.held[k] {
			t.went[k] = true
		}
	}
	for e := range w.snap.Range(accounts, "", "") {
		t.present[e.UID] = true
	}
	for uid := range was {
		if !t.present[uid] {
			t.gone[uid] = true
		}
	}
	dead := func(uid types.UID, _ time.Time) bool { return !there[uid] }
	maps.DeleteFunc(t.absent, dead)
	maps.DeleteFunc(t.unproven, dead)
}

// letGo forgets of the Secrets that have gone those that are there again, and those of which no account speaks.
func (t *secretTokens) letGo(w *world) {
	spoken := map[crdt.Key]bool{}
	for k := range t.went {
		for e := range w.snap.Range(accounts, k.Namespace, "") {
			if slices.Contains(t.speaksOf(e), k) {
				spoken[k] = true
				t.concerned = append(t.concerned, e.Key)
			}
		}
	}
	maps.DeleteFunc(t.went, func(k crdt.Key, _ bool) bool {
		_, again := w.snap.Get(k)
		return again || !spoken[k]
	})
}

// ofSecrets concerns the accounts that speak of Secrets that have gone.
func (t *secretTokens) ofSecrets(*world, store.Event) []crdt.Key {
	return t.concerned
}

// ofAccounts concerns the Secrets that hold tokens in the namespace of an account that has come, gone or changed.
func (t *secretTokens) ofAccounts(w *world, e store.Event) (out []crdt.Key) {
	for s := range w.snap.Indexed(store.ByType, string(corev1.SecretTypeServiceAccountToken), "secrets", e.Entry.Key.Namespace, "") {
		if s.Text("metadata", "annotations", corev1.ServiceAccountNameKey) == e.Entry.Key.Name {
			out = append(out, s.Key)
		}
	}
	return out
}

// among are the Secrets that hold tokens, and the accounts that speak of some that have gone.
func (t *secretTokens) among(w *world) iter.Seq[*store.Entry] {
	return func(yield func(*store.Entry) bool) {
		for e := range w.snap.Indexed(store.ByType, string(corev1.SecretTypeServiceAccountToken), "secrets", "", "") {
			if !yield(e) {
				return
			}
		}
		for _, k := range slices.Compact(slices.SortedFunc(slices.Values(t.concerned), func(a, b crdt.Key) int { return strings.Compare(a.String(), b.String()) })) {
			if e, ok := w.snap.Get(k); ok && !yield(e) {
				return
			}
		}
	}
}

// speaksOf lists the Secrets that have gone of which an account speaks still.
func (t *secretTokens) speaksOf(e *store.Entry) (out []crdt.Key) {
	if len(t.went) == 0 {
		return nil
	}
	sa, err := store.As[corev1.ServiceAccount](e)
	if err != nil {
		return nil
	}
	for _, ref := range sa.Secrets {
		if k := (crdt.Key{Resource: "secrets", Namespace: sa.Namespace, Name: ref.Name}); t.went[k] {
			out = append(out, k)
		}
	}
	return out
}

func (t *secretTokens) decide(w *world, e *store.Entry) plan {
	if e.Key.Resource == accounts {
		if went := t.speaksOf(e); len(went) > 0 && t.mine(w, e.UID) {
			return t.forget(e, went)
		}
		return plan{}
	}
	s, ok := tokenSecret(e)
	if !ok || s.DeletionTimestamp != nil || !t.mine(w, e.UID) {
		return plan{}
	}
	uid := types.UID(s.Annotations[corev1.ServiceAccountUIDKey])
	sa, ok := store.Get[corev1.ServiceAccount](w.snap, crdt.Key{Resource: accounts, Namespace: s.Namespace, Name: s.Annotations[corev1.ServiceAccountNameKey]})
	if ok && (uid == "" || uid == sa.UID) {
		delete(t.absent, e.UID)
		return t.fill(w, s, sa)
	}
	if uid == "" || !t.gone[uid] {
		if gone, at := later(w, t.absent, e.UID, out(w.nodes) == 0); !gone {
			return plan{wake: at}
		}
	}
	return plan{writes: []write{deletion(e.Key, e.UID)}}
}

// mine tells whether an object is this node's to see to. Who the issuers are is in every member's statement, so it is asked once a look, and only by
// those that have a Secret with a token to see to.
func (t *secretTokens) mine(w *world, uid types.UID) bool {
	if t.signing == nil { // none in sight is an answer, too, and is not nil
		t.signing = slices.DeleteFunc(append([]string{}, t.issuers()...), func(n string) bool { return !slices.Contains(w.alive, n) })
	}
	return len(t.signing) > 0 && rendezvous.First(rendezvous.OwnerKey(uid), t.signing) == w.self
}

// later tells whether something has been so for long enough to be believed; at is when it may be. While it is not to be believed there is no
// such time.
func later(w *world, since map[types.UID]time.Time, uid types.UID, believe bool) (so bool, at time.Time) {
	if !believe {
		return false, time.Time{}
	}
	from, ok := since[uid]
	if !ok {
		from = w.now
		since[uid] = from
	}
	at = w.unbroken(from).Add(unseen)
	return !w.now.Before(at), at
}

// fill gives a Secret what it lacks.
func (t *secretTokens) fill(w *world, s *corev1.Secret, sa *corev1.ServiceAccount) plan {
	var bundle []byte
	if t.caCert != nil {
		bundle = t.caCert()
	}
	token := string(s.Data[corev1.ServiceAccountTokenKey])
	fresh, wake := token == "", time.Time{}
	if !fresh && !t.tokens.SecretTokenProven(token) {
		// The key may be one that this node has not heard of yet, or that a rotation has just replaced: the new one is published before it signs.
		fresh, wake = later(w, t.unproven, s.UID, true)
	} else {
		delete(t.unproven, s.UID)
	}
	ca := len(bundle) > 0 && !bytes.Equal(s.Data[corev1.ServiceAccountRootCAKey], bundle)
	if !fresh && !ca && len(s.Data[corev1.ServiceAccountNamespaceKey]) > 0 {
		return plan{wake: wake}
	}
	next := s.DeepCopy()
	if next.Data == nil {
		next.Data = map[string][]byte{}
	}
	if ca {
		next.Data[corev1.ServiceAccountRootCAKey] = bundle
	}
	if len(next.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
		next.Data[corev1.ServiceAccountNamespaceKey] = []byte(s.Namespace)
	}
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.ServiceAccountNameKey, sa.Name)
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.ServiceAccountUIDKey, string(sa.UID))
	if fresh {
		return plan{writes: []write{{verb: entoken, obj: next, account: sa}}}
	}
	return plan{writes: []write{{verb: update, obj: next}}, wake: wake}
}

// forget takes away what an account says of Secrets with tokens that have gone.
func (t *secretTokens) forget(e *store.Entry, went []crdt.Key) plan {
	sa, err := store.As[corev1.ServiceAccount](e)
	if err != nil || sa.DeletionTimestamp != nil {
		return plan{}
	}
	next := sa.DeepCopy()
	next.Secrets = slices.DeleteFunc(next.Secrets, func(r corev1.ObjectReference) bool {
		return slices.ContainsFunc(went, func(k crdt.Key) bool { return k.Name == r.Name })
	})
	return plan{writes: []write{{verb: update, obj: next}}}
}

// entokened is a Secret with a token that was made now.
func entokened(ctx context.Context, t Tokens, w write) (*corev1.Secret, error) {
	s := w.obj.(*corev1.Secret).DeepCopy()
	token, err := t.SecretToken(ctx, w.account, s)
	if err != nil {
		return nil, err
	}
	s.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	return s, nil
}
