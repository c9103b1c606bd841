package httpapi

import (
	"context"
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

	"murmur/crdt"
	"murmur/httpapi/caller"
	"murmur/httpapi/storage"
)

// authentication tells who asks: a client certificate of the cluster CA, a ServiceAccount token, another token, each
// shown here or to the peer that relays the request; and nobody, for the few paths open to all.
func (s *Server) authentication() error {
	s.audiences = authenticator.Audiences{s.cfg.Issuer}
	named := []authenticator.Request{}
	if certificates := s.certificates(); certificates != nil {
		named = append(named, certificates)
	}
	tokens := []authenticator.Token{}
	if own, err := s.serviceAccountTokens(); err != nil {
		return err
	} else if own != nil {
		tokens = append(tokens, own)
	}
	if s.cfg.Issuers != nil {
		tokens = append(tokens, s.cfg.Issuers)
	}
	if len(tokens) > 0 {
		all := tokenunion.NewFailOnError(tokens...)
		named = append(named, bearertoken.New(all), websocket.NewProtocolAuthenticator(all))
	}
	// A credential that is wrong is refused: who shows it is not nobody.
	s.known = group.NewAuthenticatedGroupAdder(union.NewFailOnError(named...))
	client := union.NewFailOnError(s.known, authenticator.RequestFunc(s.nobody))
	s.authn = caller.Authenticator(client)
	return nil
}

// nobody is who shows nothing: for the few paths that tell no secret, or where the authentication configuration says.
func (s *Server) nobody(r *http.Request) (*authenticator.Response, bool, error) {
	open := []apiserver.AnonymousAuthCondition{{Path: "/version"}, {Path: "/healthz"}, {Path: "/livez"}, {Path: "/readyz"}}
	if s.cfg.Issuers != nil {
		if said := s.cfg.Issuers.Anonymous(); said != nil {
			if !said.Enabled {
				return nil, false, nil
			}
			open = said.Conditions
		}
	}
	return anonymous.NewAuthenticator(open).AuthenticateRequest(r)
}

// tokenSubjects finds what a ServiceAccount token is bound to, so that a token dies with it.
type tokenSubjects struct{ store *crdt.Store }

func subject[T any](t tokenSubjects, resource, namespace, name string) (*T, error) {
	obj, ok := crdt.Get[T](t.store.Snapshot(), crdt.Key{Resource: resource, Namespace: namespace, Name: name})
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
