package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"testing"
	"time"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestKeysThatSeveralClaim: a key for tokens that several members publish is that of who is believed anywhere, else of nobody, in whatever order
// they were heard.
func TestKeysThatSeveralClaim(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	claim := func(node string, anywhere bool) TokenKey {
		return TokenKey{Key: k.Public(), Node: node, Anywhere: anywhere}
	}
	proven := func(node string) TokenKey {
		return TokenKey{Key: k.Public(), Node: node, Proven: true}
	}
	for name, c := range map[string]struct {
		claims []TokenKey
		want   string
	}{
		"one with a proof":         {[]TokenKey{claim("a", false), proven("b"), claim("c", false)}, "b"},
		"two with one":             {[]TokenKey{proven("a"), proven("b"), claim("c", false)}, ""},
		"a proof, and anywhere":    {[]TokenKey{proven("a"), claim("b", true)}, "b"},
		"one":                      {[]TokenKey{claim("a", false)}, "a"},
		"one, twice":               {[]TokenKey{claim("a", false), claim("a", false)}, "a"},
		"two":                      {[]TokenKey{claim("a", false), claim("b", false)}, ""},
		"three":                    {[]TokenKey{claim("a", false), claim("b", false), claim("a", false)}, ""},
		"one believed anywhere":    {[]TokenKey{claim("a", true), claim("b", false)}, "a"},
		"two, and such a one":      {[]TokenKey{claim("a", false), claim("b", false), claim("c", true)}, "c"},
		"two, one before and last": {[]TokenKey{claim("c", true), claim("a", false), claim("b", false)}, "c"},
	} {
		for _, backwards := range []bool{false, true} {
			claims := append([]TokenKey{{Key: other.Public(), Node: "o"}}, c.claims...)
			if backwards {
				for i, j := 0, len(claims)-1; i < j; i, j = i+1, j-1 {
					claims[i], claims[j] = claims[j], claims[i]
				}
			}
			p := &publicKeys{read: func() []TokenKey { return claims }}
			check(t, p.update())
			got := ""
			for _, one := range p.now.Load().of {
				if k.PublicKey.Equal(one.Key) {
					got = one.Node
				}
			}
			if got != c.want || len(p.now.Load().of) != 1+map[bool]int{true: 1}[c.want != ""] {
				t.Errorf("%s, backwards %v: it is the key of %q, want %q", name, backwards, got, c.want)
			}
		}
	}
}

func TestATokenIsNoOlderThanItsAccount(t *testing.T) {
	made := time.Unix(1_000_000, 0)
	token := func(claims string) string { return "h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s" }
	for _, c := range []struct {
		token string
		want  bool
	}{
		{token(`{"iat":1000000}`), false},
		{token(`{"iat":999950}`), false}, // its signer's clock is behind
		{token(`{"iat":999939}`), true},
		{token(`{}`), true},
		{token(`{"iat":"x"}`), true},
		{"h.s", true},
		{"h.!.s", true},
	} {
		if got := issuedBefore(c.token, made); got != c.want {
			t.Errorf("%s is older: %v, want %v", c.token, got, c.want)
		}
	}
}
