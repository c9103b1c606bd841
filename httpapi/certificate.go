package httpapi

import (
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
)

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

	mu sync.Mutex
	of map[string]provenAs // by the certificate's bytes
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
	p.mu.Lock()
	known, ok := p.of[string(certificate.Raw)]
	p.mu.Unlock()
	if ok && now.Before(known.until) && !now.After(certificate.NotAfter) {
		return &known.who, true, nil
	}
	who, ok, err := p.Request.AuthenticateRequest(r)
	if err != nil || !ok {
		return who, ok, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil || len(p.of) >= provenMany {
		p.of = map[string]provenAs{}
	}
	p.of[string(certificate.Raw)] = provenAs{*who, now.Add(provenFor)}
	return who, ok, nil
}
