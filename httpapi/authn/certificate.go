package authn

import (
	"crypto/x509"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"

	"murmur/httpapi/standing"
)

// ClientCertificates says which client certificates are believed, now: the cluster's CA can be replaced and a certificate revoked while the
// server runs.
type ClientCertificates struct {
	// Roots are the CAs. Nil: those of the listener.
	Roots func() *x509.CertPool
	// Believe is asked for a chain to one of them that is otherwise good, Refuse for a certificate with every request, Stands for what a request has
	// shown that goes on when TrustChanged is called. All may be nil.
	Believe func(chain []*x509.Certificate) error
	Refuse  func(*x509.Certificate) error
	Stands  func(sent []*x509.Certificate) error
}

// certificates proves client certificates; nil if none are accepted.
func (a *Authenticator) certificates() authenticator.Request {
	c := a.cfg.ClientCertificates
	if c.Roots == nil {
		if a.cfg.ClientCAs == nil {
			return nil
		}
		c.Roots = func() *x509.CertPool { return a.cfg.ClientCAs }
	}
	options := func() (x509.VerifyOptions, bool) {
		o := x509request.DefaultVerifyOptions()
		o.Roots, o.KeyUsages = c.Roots(), []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		return o, true
	}
	who := x509request.UserConversionFunc(func(chain []*x509.Certificate) (*authenticator.Response, bool, error) {
		if c.Believe != nil {
			if err := c.Believe(chain); err != nil {
				return nil, false, err
			}
		}
		return x509request.CommonNameUserConversion(chain)
	})
	a.proven = &proven{Request: x509request.NewDynamic(options, who), now: time.Now, refuse: c.Refuse}
	return a.proven
}

// TrustChanged has it believe what Config.ClientCertificates and Config.TokenKeys say now.
func (a *Authenticator) TrustChanged() {
	a.tokenKeysChanged()
	if a.proven != nil {
		a.proven.forget()
	}
}

// Stands is the error of what a request has proven that is not believed any more.
func (a *Authenticator) Stands(p *standing.Proof) error {
	if p.Chain != nil && a.cfg.ClientCertificates.Stands != nil {
		return a.cfg.ClientCertificates.Stands(p.Chain)
	}
	// A key that its node has replaced proves no new request, and nobody was shut out.
	if p.Key != "" && a.keys != nil && !a.keys.has(p.Key) && !a.keys.signs(p.Node) {
		return errKeyGone
	}
	return nil
}

const (
	// provenFor is how long a certificate that was proven is believed without proof.
	provenFor = 10 * time.Second
	// provenMany bounds how many such there are.
	provenMany = 1024
)

// proven remembers whom client certificates named. A client sends its certificate once, and hundreds of requests a second over that
// connection; to prove the same one again for each is a tenth of what a create costs.
type proven struct {
	authenticator.Request
	now func() time.Time
	// refuse is asked each time; it may be nil.
	refuse func(*x509.Certificate) error

	mu sync.Mutex
	of map[string]provenAs // by the certificate's bytes
	// forgets counts how often all of it was forgotten.
	forgets int
}

// forget has every certificate proven anew.
func (p *proven) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of = nil
	p.forgets++
}

type provenAs struct {
	who   authenticator.Response
	until time.Time
}

func (p *proven) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	certificate, now := r.TLS.PeerCertificates[0], p.now()
	if p.refuse != nil {
		if err := p.refuse(certificate); err != nil {
			return nil, false, err
		}
	}
	standing.Of(r.Context()).Chain = r.TLS.PeerCertificates
	p.mu.Lock()
	known, ok := p.of[string(certificate.Raw)]
	p.mu.Unlock()
	if ok && now.Before(known.until) && !now.After(certificate.NotAfter) {
		return &known.who, true, nil
	}
	p.mu.Lock()
	forgets := p.forgets
	p.mu.Unlock()
	who, ok, err := p.Request.AuthenticateRequest(r)
	if err != nil || !ok {
		return who, ok, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.forgets != forgets {
		return who, ok, err // what was believed has changed meanwhile
	}
	if p.of == nil || len(p.of) >= provenMany {
		p.of = map[string]provenAs{}
	}
	p.of[string(certificate.Raw)] = provenAs{*who, now.Add(provenFor)}
	return who, ok, nil
}
