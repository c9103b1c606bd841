package node

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ErrToken is returned for a join token that is not whole.
var ErrToken = errors.New("bad token")

// tokenPrefix marks tokens that carry the hash of the cluster CA. The shape is k3s's.
const tokenPrefix = "K10"

// token is what a joiner shows, and what tells it that it speaks to the right cluster.
func token(caHash, secret string) string { return tokenPrefix + caHash + "::" + secret }

// parseToken takes a token apart. A changed character in either half is found here or by the comparison with the CA.
func parseToken(t string) (caHash, secret string, err error) {
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

// newSecret draws n random bytes, in hexadecimal.
func newSecret(n int) string {
	b := make([]byte, n)
	// Read never fails: crypto/rand ends the program instead.
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}
