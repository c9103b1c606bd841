package authn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// TestProven: a certificate is proven once in a while, not for every request, never after its end, and one that is refused each time.
func TestProven(t *testing.T) {
	now := time.Unix(1e9, 0)
	asked := 0
	p := &proven{now: func() time.Time { return now }, Request: authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		asked++
		c := r.TLS.PeerCertificates[0]
		if now.After(c.NotAfter) || c.Subject.CommonName == "nobody" {
			return nil, false, errors.New("refused")
		}
		return &authenticator.Response{User: &user.DefaultInfo{Name: c.Subject.CommonName}}, true, nil
	})}
	request := func(name string, life time.Duration) *http.Request {
		c := &x509.Certificate{Raw: []byte(name), NotAfter: time.Unix(1e9, 0).Add(life)}
		c.Subject.CommonName = name
		return &http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}}
	}
	ask := func(r *http.Request, want string, wantAsked int) {
		t.Helper()
		who, ok, err := p.AuthenticateRequest(r)
		if name := ""; ok {
			if name = who.User.GetName(); name != want {
				t.Errorf("it is %q, want %q", name, want)
			}
		} else if want != "" {
			t.Errorf("%q was refused: %v", want, err)
		}
		if asked != wantAsked {
			t.Errorf("%d certificates were proven, want %d", asked, wantAsked)
		}
	}
	ask(request("a", time.Hour), "a", 1)
	ask(request("a", time.Hour), "a", 1)
	ask(request("b", 5*time.Second), "b", 2)
	ask(request("nobody", time.Hour), "", 3)
	ask(request("nobody", time.Hour), "", 4)
	now = now.Add(6 * time.Second)
	ask(request("a", time.Hour), "a", 4)
	ask(request("b", 5*time.Second), "", 5)
	now = now.Add(5 * time.Second)
	ask(request("a", time.Hour), "a", 6)
	if who, ok, err := p.AuthenticateRequest(&http.Request{}); who != nil || ok || err != nil {
		t.Error("a request without a certificate is somebody's")
	}
	for i := range 2 * provenMany {
		ask(request(fmt.Sprint("many-", i), time.Hour), fmt.Sprint("many-", i), 7+i)
	}
	if len(p.of) > provenMany {
		t.Errorf("%d are remembered", len(p.of))
	}
}
