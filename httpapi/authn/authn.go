package authn

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/caller"
	"murmur/httpapi/issuers"
	"murmur/httpapi/storage"
)

// Config is what proves who asks.
type Config struct {
	Store *store.Store
	// Node is this node's name.
	Node string
	// Issuer is the tokens' issuer and default audience.
	Issuer string
	// ServiceAccountKey signs and proves ServiceAccount tokens: *rsa.PrivateKey or *ecdsa.PrivateKey, the same on every
	// node. TokenKeys are there instead where every node has its own. Without either there are no such tokens.
	ServiceAccountKey any
	TokenKeys         TokenKeys
	// ClientCertificates says which are believed; ClientCAs are their roots where it has none. Nil: none are accepted.
	ClientCertificates ClientCertificates
	ClientCAs          *x509.CertPool
	// Issuers proves the tokens of other issuers. May be nil.
	Issuers *issuers.Issuers
	// Secrets writes the Secrets of a namespace, for upstream's note of the day on which a token in one was used last.
	Secrets func(namespace string) typedcorev1.SecretInterface
	Log     *slog.Logger
}

// Authenticator tells who asks.
type Authenticator struct {
	cfg Config
	// Request tells who asks; Known only of what a caller shows, which may be reviewed.
	Request, Known authenticator.Request
	Audiences      authenticator.Audiences
	// Tokens signs the tokens of ServiceAccounts, and OpenID says by which keys they are proven. Nil: there are none.
	Tokens serviceaccount.TokenGenerator
	OpenID serviceaccount.OpenIDMetadataProvider

	keys *publicKeys
	// secretTokens makes the tokens that Secrets hold; nil: there are none.
	secretTokens serviceaccount.TokenGenerator
	// proven are the certificates of clients; nil if none are accepted.
	proven *proven
}

// New proves who asks: a client certificate of the cluster CA, a ServiceAccount token, another token, each
// shown here or to the peer that relays the request; and nobody, for the few paths open to all.
func New(cfg Config) (*Authenticator, error) {
	a := &Authenticator{cfg: cfg, Audiences: authenticator.Audiences{cfg.Issuer}}
	named := []authenticator.Request{}
	if certificates := a.certificates(); certificates != nil {
		named = append(named, certificates)
	}
	tokens := []authenticator.Token{}
	if own, err := a.serviceAccountTokens(); err != nil {
		return nil, err
	} else if own != nil {
		tokens = append(tokens, own)
	}
	if a.cfg.Issuers != nil {
		tokens = append(tokens, a.cfg.Issuers)
	}
	if len(tokens) > 0 {
		all := tokenunion.NewFailOnError(tokens...)
		named = append(named, bearertoken.New(all), websocket.NewProtocolAuthenticator(all))
	}
	// A credential that is wrong is refused: who shows it is not nobody.
	a.Known = group.NewAuthenticatedGroupAdder(union.NewFailOnError(named...))
	client := union.NewFailOnError(a.Known, authenticator.RequestFunc(a.nobody))
	a.Request = caller.Authenticator(client)
	return a, nil
}

// nobody is who shows nothing: for the few paths that tell no secret, or where the authentication configuration says.
func (a *Authenticator) nobody(r *http.Request) (*authenticator.Response, bool, error) {
	open := []apiserver.AnonymousAuthCondition{{Path: "/version"}, {Path: "/healthz"}, {Path: "/livez"}, {Path: "/readyz"}}
	if a.cfg.Issuers != nil {
		if said := a.cfg.Issuers.Anonymous(); said != nil {
			if !said.Enabled {
				return nil, false, nil
			}
			open = said.Conditions
		}
	}
	return anonymous.NewAuthenticator(open).AuthenticateRequest(r)
}

// tokenSubjects finds what a ServiceAccount token is bound to, so that a token dies with it.
type tokenSubjects struct{ store *store.Store }

func subject[T any](t tokenSubjects, resource, namespace, name string) (*T, error) {
	obj, ok := store.Get[T](t.store.Snapshot(), crdt.Key{Resource: resource, Namespace: namespace, Name: name})
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: resource}, name)
	}
	return obj, nil
}

func (t tokenSubjects) GetServiceAccount(_ context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return subject[corev1.ServiceAccount](t, "serviceaccounts", namespace, name)
}
func (t tokenSubjects) GetPod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	return subject[corev1.Pod](t, "pods", namespace, name)
}
func (t tokenSubjects) GetSecret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	return subject[corev1.Secret](t, "secrets", namespace, name)
}
func (t tokenSubjects) GetNode(_ context.Context, name string) (*corev1.Node, error) {
	return subject[corev1.Node](t, "nodes", "", name)
}
func (t tokenSubjects) GetValidatingWebhookConfiguration(_ context.Context, name string) (*admissionregistrationv1.ValidatingWebhookConfiguration, error) {
	return subject[admissionregistrationv1.ValidatingWebhookConfiguration](t, storage.ValidatingWebhooks, "", name)
}
func (t tokenSubjects) GetMutatingWebhookConfiguration(_ context.Context, name string) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	return subject[admissionregistrationv1.MutatingWebhookConfiguration](t, storage.MutatingWebhooks, "", name)
}
