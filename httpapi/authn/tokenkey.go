package authn

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"gopkg.in/go-jose/go-jose.v2/jwt"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	apiserverserviceaccount "k8s.io/apiserver/pkg/authentication/serviceaccount"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/apis/authentication"
	serviceaccountstore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/standing"
)

// TokenKeys are the keys of ServiceAccount tokens where every node has its own.
type TokenKeys struct {
	// Sign is the key that signs the tokens which this node gives out.
	Sign func() *ecdsa.PrivateKey
	// Public are all keys that are believed now. TrustChanged says that it answers otherwise than before.
	Public func() []TokenKey
}

// TokenKey is one that is believed.
type TokenKey struct {
	Key crypto.PublicKey
	// Node is who signs with it. Unless Anywhere is true, its tokens are believed only for pods that run there.
	Node     string
	Anywhere bool
	// Retired tells that Node signs with another by now.
	Retired bool
	// Proven tells that Node has shown that it holds the private half.
	Proven bool
	// id is its name in tokens.
	id string
}

// belief is how much is given on a claim to a key, against another's to the same.
func (k TokenKey) belief() int {
	switch {
	case k.Anywhere:
		return 2
	case k.Proven:
		return 1
	}
	return 0
}

// serviceAccountTokens proves the tokens of ServiceAccounts, and makes the generator and the discovery of the keys. Nil: there are no keys.
func (a *Authenticator) serviceAccountTokens() (authenticator.Token, error) {
	keys := a.cfg.TokenKeys
	if keys.Sign == nil {
		if a.cfg.ServiceAccountKey == nil {
			return nil, nil
		}
		signer, ok := a.cfg.ServiceAccountKey.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("httpapi: ServiceAccountKey is a %T, want an RSA or ECDSA private key", a.cfg.ServiceAccountKey)
		}
		generator, err := serviceaccount.JWTTokenGenerator(a.cfg.Issuer, a.cfg.ServiceAccountKey)
		if err != nil {
			return nil, fmt.Errorf("ServiceAccount tokens: %w", err)
		}
		a.Tokens = generator
		if a.secretTokens, err = serviceaccount.JWTTokenGenerator(serviceaccount.LegacyIssuer, a.cfg.ServiceAccountKey); err != nil {
			return nil, fmt.Errorf("ServiceAccount tokens: %w", err)
		}
		keys.Public = func() []TokenKey { return []TokenKey{{Key: signer.Public(), Anywhere: true}} }
	} else {
		a.Tokens = &generator{keys: keys, issuer: a.cfg.Issuer, node: a.cfg.Node, store: a.cfg.Store}
		a.secretTokens = &generator{keys: keys, issuer: serviceaccount.LegacyIssuer, node: a.cfg.Node, store: a.cfg.Store}
	}
	a.keys = &publicKeys{read: keys.Public}
	if err := a.keys.update(); err != nil {
		return nil, fmt.Errorf("ServiceAccount tokens: %w", err)
	}
	// Whoever is to believe these tokens finds the keys here: OpenID Connect Discovery 1.0. An issuer that is not a https URL cannot
	// be discovered, and its tokens are as good here. Nor can one of which no key is known yet that is believed anywhere.
	var err error
	found := &tokenDiscovery{}
	found.make = func() error {
		p, err := serviceaccount.NewOpenIDMetadataProvider(a.cfg.Issuer, a.cfg.Issuer+serviceaccount.JWKSPath, "", a.keys)
		if err == nil {
			found.made.Store(&p)
		}
		return err
	}
	if err = found.make(); err == nil || len(a.keys.now.Load().anywhere) == 0 {
		a.OpenID = found
	} else {
		a.cfg.Log.Warn("the issuer of ServiceAccount tokens cannot be discovered", "issuer", a.cfg.Issuer, "err", err)
	}
	inSecrets, err := a.secretTokenAuthenticator()
	if err != nil {
		return nil, fmt.Errorf("tokens in Secrets: %w", err)
	}
	return tokenunion.NewFailOnError(inSecrets, &believed{
		Token: serviceaccount.JWTTokenAuthenticator([]string{a.cfg.Issuer}, a.keys, a.Audiences, serviceaccount.NewValidator(tokenSubjects{a.cfg.Store})),
		store: a.cfg.Store,
	}), nil
}

// tokenKeysChanged has it believe what Config.TokenKeys says now.
func (a *Authenticator) tokenKeysChanged() {
	if a.keys == nil {
		return
	}
	if err := a.keys.update(); err != nil {
		a.cfg.Log.Error("keys of ServiceAccount tokens", "err", err)
	}
	if d, ok := a.OpenID.(*tokenDiscovery); ok && d.made.Load() == nil {
		_ = d.make() // until there is a key
	}
}

// tokenDiscovery is upstream's, once there is something to discover.
type tokenDiscovery struct {
	make func() error
	made atomic.Pointer[serviceaccount.OpenIDMetadataProvider]
}

func (d *tokenDiscovery) GetConfigJSON() ([]byte, int) {
	if p := d.made.Load(); p != nil {
		return (*p).GetConfigJSON()
	}
	return []byte("{}"), 0
}

func (d *tokenDiscovery) GetKeysetJSON() ([]byte, int) {
	if p := d.made.Load(); p != nil {
		return (*p).GetKeysetJSON()
	}
	return []byte(`{"keys":[]}`), 0
}

// publicKeys are the keys that are believed, as upstream asks for them.
type publicKeys struct {
	read func() []TokenKey
	now  atomic.Pointer[keySet]

	// mu guards what follows.
	mu        sync.Mutex
	listeners []serviceaccount.Listener
}

// keySet is those that are believed anywhere, which is what others than this API may go by, and all by the name in a token.
type keySet struct {
	anywhere []serviceaccount.PublicKey
	of       map[string]TokenKey
}

var _ serviceaccount.PublicKeysGetter = (*publicKeys)(nil)

func (p *publicKeys) update() error {
	set, disputed := &keySet{of: map[string]TokenKey{}}, map[string]bool{}
	for _, k := range p.read() {
		named, err := serviceaccount.StaticPublicKeysGetter([]any{k.Key})
		if err != nil {
			continue // one that no token can name keeps no other from being known
		}
		key := named.GetPublicKeys(context.Background(), "")[0]
		k.id = key.KeyID
		// A key that several claim is that of who is believed anywhere, else of who has shown that it holds the private half, and of nobody if they are
		// believed alike: who was heard first must not decide. Public halves are there for all to copy.
		switch old, ok := set.of[k.id]; {
		case !ok, k.belief() > old.belief():
			delete(disputed, k.id)
		case k.belief() < old.belief() || old.Anywhere || old.Node == k.Node:
			continue
		default:
			disputed[k.id] = true
			continue
		}
		set.of[k.id] = k
		if k.Anywhere {
			set.anywhere = append(set.anywhere, key)
		}
	}
	for id := range disputed {
		delete(set.of, id)
	}
	slices.SortFunc(set.anywhere, func(a, b serviceaccount.PublicKey) int { return cmp.Compare(a.KeyID, b.KeyID) })
	p.now.Store(set)
	p.mu.Lock()
	listeners := slices.Clone(p.listeners)
	p.mu.Unlock()
	for _, l := range listeners {
		l.Enqueue()
	}
	return nil
}

// AddListener has l told of changes.
func (p *publicKeys) AddListener(l serviceaccount.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listeners = append(p.listeners, l)
}

// GetCacheAgeMaxSeconds is short: a member that joins signs at once.
func (p *publicKeys) GetCacheAgeMaxSeconds() int { return 60 }

// provenBy is, in the context of a token that is looked at, where the key goes that proved it.
type provenBy struct{}

// has tells whether a key is believed, by its name.
func (p *publicKeys) has(name string) bool {
	_, ok := p.now.Load().of[name]
	return ok
}

// signs tells whether any key of a node is believed.
func (p *publicKeys) signs(node string) bool {
	if node == "" {
		return false
	}
	for _, k := range p.now.Load().of {
		if k.Node == node {
			return true
		}
	}
	return false
}

// GetPublicKeys is the key of a name. A token without one is proven by none.
func (p *publicKeys) GetPublicKeys(ctx context.Context, name string) []serviceaccount.PublicKey {
	set := p.now.Load()
	by, asked := ctx.Value(provenBy{}).(*TokenKey)
	if name == "" && !asked {
		return set.anywhere
	}
	k, ok := set.of[name]
	if !ok {
		return nil
	}
	if asked {
		*by = k
	}
	return []serviceaccount.PublicKey{{KeyID: name, PublicKey: k.Key}}
}

// believed is upstream's authenticator with one more question: whether the node that signed a token may speak for whom it names.
type believed struct {
	authenticator.Token
	store *store.Store
}

var errKeyGone = errors.New("the key that signed its token is not believed any more")

var errNotThere = errors.New("the token was signed by a node that is believed only for the pods that run on it")

func (b *believed) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	by := &TokenKey{}
	who, ok, err := b.Token.AuthenticateToken(context.WithValue(ctx, provenBy{}, by), token)
	if err != nil || !ok {
		return who, ok, err
	}
	namespace, account, err := apiserverserviceaccount.SplitUsername(who.User.GetName())
	if err != nil {
		return nil, false, err
	}
	if sa, err := (tokenSubjects{b.store}).GetServiceAccount(ctx, namespace, account); err != nil || issuedBefore(token, sa.CreationTimestamp.Time) {
		return nil, false, errOlder
	}
	proof := standing.Of(ctx)
	proof.Key, proof.Node = by.id, by.Node
	if by.Anywhere {
		return who, true, nil
	}
	said := func(key string) string {
		if v := who.User.GetExtra()[key]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
	if node := said(apiserverserviceaccount.NodeNameKey); node != "" && node != by.Node {
		return nil, false, errNotThere
	}
	if !runs(b.store, by.Node, namespace, account, said(apiserverserviceaccount.PodNameKey), said(apiserverserviceaccount.PodUIDKey)) {
		return nil, false, errNotThere
	}
	return who, true, nil
}

// runs tells whether a pod of an account is on a node.
func runs(replica *store.Store, node, namespace, account, name, uid string) bool {
	p, ok := store.Get[corev1.Pod](replica.Snapshot(), crdt.Key{Resource: "pods", Namespace: namespace, Name: name})
	return ok && uid != "" && string(p.UID) == uid && p.Spec.NodeName == node && node != "" &&
		cmp.Or(p.Spec.ServiceAccountName, "default") == account
}

// TokenStorage is the storage of tokens in place of upstream's.
func (a *Authenticator) TokenStorage(upstream *serviceaccountstore.TokenREST) rest.Storage {
	return &tokens{upstream, a.Tokens}
}

// tokens is upstream's registry of tokens, which asks the generator when all else is decided, and takes its error for one of ours. Where a node must
// not sign what is asked for, that is said before.
type tokens struct {
	*serviceaccountstore.TokenREST
	issuer serviceaccount.TokenGenerator
}

func (t *tokens) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	return t.TokenREST.Create(ctx, name, obj, func(ctx context.Context, obj runtime.Object) error {
		if validate != nil {
			if err := validate(ctx, obj); err != nil {
				return err
			}
		}
		g, ok := t.issuer.(*generator)
		if !ok || g.anywhere(g.keys.Sign()) {
			return nil
		}
		namespace, _ := request.NamespaceFrom(ctx)
		if req, ok := obj.(*authentication.TokenRequest); ok {
			if ref := req.Spec.BoundObjectRef; ref != nil && ref.Kind == "Pod" {
				pod, ok := store.Get[corev1.Pod](g.store.Snapshot(), crdt.Key{Resource: "pods", Namespace: namespace, Name: ref.Name})
				if ok && runs(g.store, g.node, namespace, name, ref.Name, string(pod.UID)) {
					return nil
				}
			}
		}
		return apierrors.NewForbidden(schema.GroupResource{Resource: "serviceaccounts/token"}, name, g.refused())
	}, options)
}

// generator signs with the key that this node has now.
type generator struct {
	keys         TokenKeys
	issuer, node string
	store        *store.Store
}

func (g *generator) GenerateToken(ctx context.Context, claims *jwt.Claims, private any) (string, error) {
	key := g.keys.Sign()
	if !g.anywhere(key) && !g.here(private) {
		return "", g.refused()
	}
	of, err := serviceaccount.JWTTokenGenerator(g.issuer, key)
	if err != nil {
		return "", err
	}
	return of.GenerateToken(ctx, claims, private)
}

// anywhere tells whether what a key of this node signs is believed whatever it is for.
func (g *generator) anywhere(key *ecdsa.PrivateKey) bool {
	return slices.ContainsFunc(g.keys.Public(), func(k TokenKey) bool { return k.Anywhere && key.PublicKey.Equal(k.Key) })
}

func (g *generator) refused() error {
	return fmt.Errorf("%s may sign the tokens of pods that run on it and no others, for it is no issuer of the cluster: ask the API of a member that is", g.node)
}

// here tells whether the claims are those of a pod on this node.
func (g *generator) here(private any) bool {
	b, err := json.Marshal(private)
	if err != nil {
		return false
	}
	type ref struct{ Name, UID string }
	var c struct {
		Of struct {
			Namespace      string
			ServiceAccount ref
			Pod            *ref
		} `json:"kubernetes.io"`
	}
	if json.Unmarshal(b, &c) != nil || c.Of.Pod == nil {
		return false
	}
	return runs(g.store, g.node, c.Of.Namespace, c.Of.ServiceAccount.Name, c.Of.Pod.Name, c.Of.Pod.UID)
}
