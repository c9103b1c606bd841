package authn

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// ExtendedTokenLife is how long upstream lets a pod's token live that its holder may not know to renew. It is how long any may live if nothing
// was said.
const ExtendedTokenLife = 365 * 24 * time.Hour

// tokenSkew is how far the clock of who signs a token may be behind that of who made its account.
const tokenSkew = time.Minute

var errOlder = errors.New("the token is older than its ServiceAccount: it is of one of that name that was deleted")

// issuedBefore tells whether a token, whose signature was found to be good, was issued before an account was made. That the UIDs differ tells the
// same; this holds if ever a UID comes back.
func issuedBefore(token string, made time.Time) bool {
	var claims struct {
		IssuedAt float64 `json:"iat"`
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return true
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return true
	}
	return time.Unix(int64(claims.IssuedAt), 0).Before(made.Add(-tokenSkew))
}
