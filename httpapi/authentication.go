package httpapi

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"murmur/httpapi/authn"
)

// TokenKeys, TokenKey and ClientCertificates are what a member believes.
type (
	TokenKeys          = authn.TokenKeys
	TokenKey           = authn.TokenKey
	ClientCertificates = authn.ClientCertificates
)

// authentication makes what tells who asks.
func (s *Server) authentication() (*authn.Authenticator, error) {
	c := authn.Config{
		Store: s.cfg.Store, Node: s.cfg.Node, Issuer: s.cfg.Issuer, ServiceAccountKey: s.cfg.ServiceAccountKey, TokenKeys: s.cfg.TokenKeys,
		ClientCertificates: s.cfg.ClientCertificates, Issuers: s.cfg.Issuers, Log: s.cfg.Log,
		Secrets: func(namespace string) typedcorev1.SecretInterface { return s.own.CoreV1().Secrets(namespace) },
	}
	if s.cfg.TLS != nil {
		c.ClientCAs = s.cfg.TLS.ClientCAs
	}
	return authn.New(c)
}

// TrustChanged has the server believe what Config.ClientCertificates and Config.TokenKeys say now. Requests that stand of those
// who are not believed any more end.
func (s *Server) TrustChanged() {
	s.authn.TrustChanged()
	s.standing.Look()
}

// SecretToken makes the token of an account that a Secret is to hold.
func (s *Server) SecretToken(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	return s.authn.SecretToken(ctx, account, secret)
}

// SecretTokenProven tells whether a token names a key that is believed anywhere. One that does not has to be made anew.
func (s *Server) SecretTokenProven(token string) bool { return s.authn.SecretTokenProven(token) }
