package issuers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gopkg.in/go-jose/go-jose.v2"
	"gopkg.in/go-jose/go-jose.v2/jwt"
)

// issuer is an OpenID Connect issuer on loopback.
type issuer struct {
	*httptest.Server
	key *ecdsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key}
	mux := http.NewServeMux()
	answer := func(path string, v func() any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v())
		})
	}
	answer("/.well-known/openid-configuration", func() any {
		return map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/auth", "token_endpoint": i.URL + "/token",
			"id_token_signing_alg_values_supported": []string{"ES256"}}
	})
	answer("/keys", func() any {
		return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}}
	})
	i.Server = httptest.NewTLSServer(mux)
	t.Cleanup(i.Close)
	return i
}

// token is one of the issuer's.
func (i *issuer) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: "1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{"iss": i.URL, "aud": "murmur", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	for k, v := range claims {
		all[k] = v
	}
	out, err := jwt.Signed(signer).Claims(all).CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// configuration believes an issuer's tokens.
func (i *issuer) configuration(prefix string) string {
	ca := strings.ReplaceAll(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw})), "\n", "\n      ")
	return fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: %s
    certificateAuthority: |
      %s
    audiences: [murmur]
  claimMappings:
    username: {claim: sub, prefix: "%s"}
    groups: {claim: groups, prefix: "%s"}
  claimValidationRules:
  - {expression: 'claims.sub != "barred"', message: barred}
anonymous:
  enabled: true
  conditions: [{path: /livez}]
`, i.URL, ca, prefix, prefix)
}

// TestTokens: a token of a named issuer is its subject's, with the groups that it claims, for the audience and the rules of
// the file; and the file is followed.
func TestTokens(t *testing.T) {
	one := newIssuer(t)
	file := filepath.Join(t.TempDir(), "authentication.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(one.configuration("oidc:"))
	i, err := New(Config{File: file, Own: "https://own", Audiences: []string{"https://own"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	i.every, i.within = 10*time.Millisecond, 500*time.Millisecond
	if _, _, err := i.AuthenticateToken(t.Context(), "x"); err == nil {
		t.Error("a token is believed before anything runs")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- i.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	// who is the user of a token, or why there is none.
	who := func(token string) string {
		r, ok, err := i.AuthenticateToken(t.Context(), token)
		switch {
		case err != nil:
			return "error: " + err.Error()
		case !ok:
			return "unknown"
		}
		return r.User.GetName() + " " + strings.Join(r.User.GetGroups(), ",")
	}
	eventually := func(token, want string) {
		t.Helper()
		var got string
		for range 500 {
			if got = who(token); strings.HasPrefix(got, want) {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatalf("%q, want %q", got, want)
	}
	ann := one.token(t, map[string]any{"sub": "ann", "groups": []string{"dev", "ops"}})
	eventually(ann, "oidc:ann oidc:dev,oidc:ops")
	for name, c := range map[string]struct{ token, want string }{
		"another audience": {one.token(t, map[string]any{"sub": "ann", "aud": "else"}), "error: "},
		"expired":          {one.token(t, map[string]any{"sub": "ann", "exp": time.Now().Add(-time.Hour).Unix()}), "error: "},
		"barred":           {one.token(t, map[string]any{"sub": "barred"}), "error: "},
		"no subject":       {one.token(t, nil), "error: "},
		"another issuer":   {newIssuer(t).token(t, map[string]any{"sub": "ann"}), "unknown"},
		"signed by nobody": {ann[:len(ann)-8] + "AAAAAAAA", "error: "},
		"no token":         {"x", "unknown"},
	} {
		if got := who(c.token); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if a := i.Anonymous(); a == nil || !a.Enabled || len(a.Conditions) != 1 {
		t.Errorf("anonymous: %+v", a)
	}

	write("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt: [{}]\n")
	time.Sleep(100 * time.Millisecond)
	eventually(ann, "oidc:ann ")
	// A good file whose issuer is away locks nobody out.
	away := newIssuer(t)
	elsewhere := away.configuration("away:")
	away.Close()
	write(elsewhere)
	time.Sleep(time.Second)
	eventually(ann, "oidc:ann ")
	write(one.configuration("company:"))
	eventually(ann, "company:ann company:dev,company:ops")
}

// TestFiles: what is wrong is said with its place.
func TestFiles(t *testing.T) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"
	for want, text := range map[string]string{
		":3:1: unknown field jtw": head + "jtw: []\n",
		":5:5: jwt[0].issuer.url": head + "jwt:\n- issuer:\n    url: http://plain\n    audiences: [a]\n  claimMappings: {username: {claim: sub, prefix: ''}}\n",
		":6:5: jwt[0].issuer.url": head + "jwt:\n- issuer:\n    audiences: [a]\n    url: https://own\n  claimMappings: {username: {claim: sub, prefix: ''}}\n",
	} {
		file := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{File: file, Own: "https://own", Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), file+want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := New(Config{File: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a file that is not there was read")
	}
}
