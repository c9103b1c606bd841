package member

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
)

// ErrToken is returned for a join token that is not whole.
var ErrToken = errors.New("bad token")

// tokenPrefix marks tokens that carry the hash of the cluster CA. The shape is k3s's.
const tokenPrefix = "K10"

// Token is what a joiner shows, and what tells it that it speaks to the right cluster.
func Token(caHash, secret string) string { return tokenPrefix + caHash + "::" + secret }

// ParseToken takes a token apart. A changed character in either half is found here or by the comparison with the CA.
func ParseToken(t string) (caHash, secret string, err error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(t), tokenPrefix)
	if !ok {
		return "", "", fmt.Errorf("%w: it must begin with %s; `murmur token create` on a member prints a whole one", ErrToken, tokenPrefix)
	}
	caHash, secret, ok = strings.Cut(rest, "::")
	if raw, err := hex.DecodeString(caHash); !ok || err != nil || len(raw) != sha256.Size || secret == "" {
		return "", "", fmt.Errorf("%w: want %s, 64 hexadecimal digits, two colons and a secret; `murmur token create` on a member prints a whole one", ErrToken, tokenPrefix)
	}
	return caHash, secret, nil
}

// minSecret is how many characters a secret has at least: 128 bits, if they are drawn from 36.
const minSecret = 25

// CheckSecret refuses a secret that can be guessed.
func CheckSecret(secret string) error {
	distinct := map[rune]bool{}
	for _, r := range secret {
		distinct[r] = true
	}
	if len(secret) < minSecret || len(distinct) < 8 {
		return fmt.Errorf("a secret that admits members must have 128 bits: want %d random characters at least, such as `openssl rand -hex 16` prints", minSecret)
	}
	return nil
}

// newSecret draws n random bytes, in hexadecimal.
func newSecret(n int) string {
	b := make([]byte, n)
	// Read never fails: crypto/rand ends the program instead.
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// hashSecret is how a permanent secret is kept. It has 128 bits, so that no salt and no slow hash are needed.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte("murmur join secret\x00" + secret))
	return hex.EncodeToString(sum[:])
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// A join token is a bootstrap token as upstream has them: a Secret in kube-system, so that `kubectl get secrets` lists it and
// deletes it and the token-cleaner ends it.
const (
	tokenName       = "bootstrap-token-"
	dataID          = "token-id"
	dataSecret      = "token-secret"
	dataExpiration  = "expiration"
	dataUsage       = "usage-bootstrap-authentication"
	dataDescription = "description"
	// The rest are ours.

	// dataRole is what a joiner becomes: roleIssuer, or roleMember, which is also what a token without the key makes of it.
	dataRole   = "murmur-role"
	roleMember = "member"
	// dataReusable is "true" in a token that admits many. The others admit one.
	dataReusable = "murmur-reusable"
	// dataUsedBy is who was admitted, by the hash of its key: the same may ask again, if the answer was lost.
	dataUsedBy = "murmur-used-by"
)

// TokenKey is where the Secret of a token is.
func TokenKey(id string) crdt.Key {
	return crdt.Key{Resource: "secrets", Namespace: metav1.NamespaceSystem, Name: tokenName + id}
}

// NewToken makes the Secret of a token, and the secret half of what a joiner shows.
func NewToken(expires time.Time, issuer, reusable bool) (secret string, obj *corev1.Secret) {
	id, rest := newSecret(3), newSecret(16)
	role := roleMember
	if issuer {
		role = roleIssuer
	}
	key := TokenKey(id)
	obj = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: key.Name, Namespace: key.Namespace},
		Type:       corev1.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			dataID:          []byte(id),
			dataSecret:      []byte(rest),
			dataExpiration:  []byte(expires.UTC().Format(time.RFC3339)),
			dataUsage:       []byte("true"),
			dataDescription: []byte("admits a machine to the cluster, as " + role + ": made by `murmur token create`"),
			dataRole:        []byte(role),
		},
	}
	if reusable {
		obj.Data[dataReusable] = []byte("true")
	}
	return id + "." + rest, obj
}

// grant is what a token that was accepted gives.
type grant struct {
	issuer bool
	// spend is the Secret to be marked as used, nil for one that admits many.
	spend *corev1.Secret
}

// weigh decides on a token's Secret. Who may write Secrets in kube-system makes tokens, as upstream's; but one that was
// made for something else, or carelessly, admits nobody. joiner is the hash of who shows it.
func weigh(s *corev1.Secret, rest, joiner string, now time.Time) (grant, error) {
	data := func(k string) string { return string(s.Data[k]) }
	switch {
	case s.Type != corev1.SecretTypeBootstrapToken:
		return grant{}, fmt.Errorf("%s is no bootstrap token", s.Name)
	case TokenKey(data(dataID)).Name != s.Name:
		return grant{}, fmt.Errorf("%s has the %s of another", s.Name, dataID)
	case !equal(rest, data(dataSecret)):
		return grant{}, errors.New("its secret is another")
	}
	if err := CheckSecret(rest); err != nil {
		return grant{}, fmt.Errorf("%s: %w", s.Name, err)
	}
	expires, err := time.Parse(time.RFC3339, data(dataExpiration))
	switch {
	case err != nil:
		return grant{}, fmt.Errorf("%s has no %s", s.Name, dataExpiration)
	case !now.Before(expires):
		return grant{}, fmt.Errorf("%s has expired at %s", s.Name, expires.Format(time.RFC3339))
	case data(dataUsage) != "true":
		return grant{}, fmt.Errorf("%s is not for joining: that needs %s: true", s.Name, dataUsage)
	}
	g := grant{issuer: data(dataRole) == roleIssuer}
	if data(dataReusable) == "true" {
		return g, nil
	}
	switch by := data(dataUsedBy); {
	case by == "":
		g.spend = s
	case by != joiner:
		return grant{}, fmt.Errorf("%s has admitted its joiner already", s.Name)
	}
	return g, nil
}
