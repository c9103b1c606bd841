package authn

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"gopkg.in/go-jose/go-jose.v2/jwt"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// Tokens in Secrets of type kubernetes.io/service-account-token, as upstream's tokens controller makes them: they do not end, and are good for
// as long as the Secret has them, the account is there, and a key that is believed anywhere proves them.

// SecretToken makes the token of an account that a Secret is to hold.
func (a *Authenticator) SecretToken(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	if a.secretTokens == nil {
		return "", errors.New("this cluster issues no tokens")
	}
	claims, private := serviceaccount.LegacyClaims(*account, *secret)
	// Upstream's say nothing of when they were made; here no token is believed that is older than its account.
	claims.IssuedAt = jwt.NewNumericDate(time.Now())
	return a.secretTokens.GenerateToken(ctx, claims, private)
}

// SecretTokenProven tells whether a token names a key that is believed anywhere and that its node still signs with. One that does not is believed by
// nobody, or only for a node's own pods, or will not be for long, and has to be made anew.
func (a *Authenticator) SecretTokenProven(token string) bool {
	if a.keys == nil {
		return false
	}
	head, _, _ := strings.Cut(token, ".")
	b, err := base64.RawURLEncoding.DecodeString(head)
	var header struct {
		Key string `json:"kid"`
	}
	if err != nil || json.Unmarshal(b, &header) != nil {
		return false
	}
	k := a.keys.now.Load().of[header.Key]
	return k.Anywhere && !k.Retired
}

// secretTokenAuthenticator believes such tokens by upstream's rules.
func (a *Authenticator) secretTokenAuthenticator() (authenticator.Token, error) {
	v, err := serviceaccount.NewLegacyValidator(true, tokenSubjects{a.cfg.Store}, secretsGetter(a.cfg.Secrets))
	if err != nil {
		return nil, err
	}
	return &believed{
		Token: serviceaccount.JWTTokenAuthenticator([]string{serviceaccount.LegacyIssuer}, a.keys, a.Audiences, v),
		store: a.cfg.Store,
	}, nil
}

// secretsGetter writes Secrets for upstream's validator, which notes the day on which a token was used last.
type secretsGetter func(namespace string) typedcorev1.SecretInterface

func (g secretsGetter) Secrets(namespace string) typedcorev1.SecretInterface {
	return g(namespace)
}
