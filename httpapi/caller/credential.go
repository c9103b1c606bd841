package caller

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// The headers between nodes. From anybody else they are dropped.
const (
	// HeaderCaller says who a relayed request is from: Client or Node.
	HeaderCaller = "Murmur-Caller"
	Client       = "client"
	Node         = "node"
	// HeaderCertificate is the client's certificate and those between it and the CA, each DER in base64.
	HeaderCertificate = "Murmur-Client-Certificate"
)

// maxChain bounds how many certificates come with a relayed request.
const maxChain = 8

// credential is what a caller has shown, as it came. Authentication and impersonation take it off the request.
type credential struct {
	headers      http.Header
	certificates []*x509.Certificate
	// from is what says where the request came from, for the record of the other node.
	from http.Request
}

// addresses are those that the request came from, the first one first, as X-Forwarded-For has them.
func (c *credential) addresses() string {
	var all []string
	for _, ip := range utilnet.SourceIPs(&c.from) {
		all = append(all, ip.String())
	}
	return strings.Join(all, ", ")
}

type credentialKey struct{}

// credentialHeader tells whether a header is part of what a caller shows.
func credentialHeader(name string) bool {
	return name == "Authorization" || name == "Sec-Websocket-Protocol" || strings.HasPrefix(name, "Impersonate-")
}

// relayHeader tells whether a header is one that only nodes send to each other.
func relayHeader(name string) bool {
	return name == HeaderCaller || name == HeaderCertificate || strings.HasPrefix(name, "X-Remote-")
}

// WithCredential keeps what a caller shows for the node that the request may be handed to.
func WithCredential(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// What only a hand-over asks for is worked out there: few requests are handed over.
		c := &credential{from: http.Request{RemoteAddr: r.RemoteAddr}}
		keep := func(to *http.Header, name string, values []string) {
			if *to == nil {
				*to = http.Header{}
			}
			(*to)[name] = slices.Clone(values)
		}
		for name, values := range r.Header {
			switch {
			case credentialHeader(name):
				keep(&c.headers, name, values)
			case name == "X-Forwarded-For" || name == "X-Real-Ip":
				keep(&c.from.Header, name, values)
			}
		}
		if r.TLS != nil {
			c.certificates = r.TLS.PeerCertificates
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), credentialKey{}, c)))
	})
}

// Hand writes into the headers of a request to another node what its caller has shown here.
func Hand(ctx context.Context, to http.Header) error {
	for name := range to {
		if credentialHeader(name) || relayHeader(name) {
			delete(to, name)
		}
	}
	if id, ok := audit.AuditIDFrom(ctx); ok {
		to.Set(auditinternal.HeaderAuditID, string(id))
	}
	if _, inside := Self(ctx); inside {
		to.Set(HeaderCaller, Node)
		return nil
	}
	c, ok := ctx.Value(credentialKey{}).(*credential)
	if !ok {
		return apierrors.NewInternalError(errors.New("a request that shows nothing cannot be handed to another node"))
	}
	to.Set(HeaderCaller, Client)
	to.Set("X-Forwarded-For", c.addresses())
	for name, values := range c.headers {
		to[name] = values
	}
	for _, cert := range c.certificates {
		to.Add(HeaderCertificate, base64.StdEncoding.EncodeToString(cert.Raw))
	}
	return nil
}

// handed authenticates what a peer hands on: the peer itself, or what a caller has shown to it.
func handed(r *http.Request, peer string, client authenticator.Request) (*authenticator.Response, bool, error) {
	caller, chain := r.Header.Get(HeaderCaller), r.Header.Values(HeaderCertificate)
	for name := range r.Header {
		if relayHeader(name) {
			delete(r.Header, name)
		}
	}
	switch caller {
	case Node:
		return &authenticator.Response{User: &user.DefaultInfo{Name: peer, Groups: []string{user.NodesGroup, user.AllAuthenticated}}}, true, nil
	case Client:
	default:
		return nil, false, fmt.Errorf("%s hands on a request without its caller's credential", peer)
	}
	if len(chain) > maxChain {
		return nil, false, fmt.Errorf("%s hands on %d certificates, more than %d", peer, len(chain), maxChain)
	}
	as := *r
	as.TLS = nil
	if len(chain) > 0 {
		as.TLS = &tls.ConnectionState{}
	}
	for _, encoded := range chain {
		der, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, false, fmt.Errorf("%s hands on a damaged certificate: %w", peer, err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, false, fmt.Errorf("%s hands on a damaged certificate: %w", peer, err)
		}
		as.TLS.PeerCertificates = append(as.TLS.PeerCertificates, cert)
	}
	return client.AuthenticateRequest(&as)
}
