package httpapi

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
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/metrics/pkg/apis/metrics"
)

// A request that is handed to another node carries what its caller showed here: a bearer token, or the certificate that
// a connection has proven, and whom it asked to act as. The other node proves it again, and decides again whom it lets
// act as whom. So a node cannot make up a name or a group. A token it has only if its caller has spoken to it; for a
// certificate, which is no secret, it is a witness: that the caller had the key, the other node takes from it. What a node asks for its own parts, it asks as the node that its stream's certificate names.

// The headers between nodes. From anybody else they are dropped.
const (
	// headerCaller says who a relayed request is from: callerClient or callerNode.
	headerCaller = "Murmur-Caller"
	callerClient = "client"
	callerNode   = "node"
	// headerCertificate is the client's certificate and those between it and the CA, each DER in base64.
	headerCertificate = "Murmur-Client-Certificate"
)

// maxChain bounds how many certificates come with a relayed request.
const maxChain = 8

// credential is what a caller has shown, as it came. Authentication and impersonation take it off the request.
type credential struct {
	headers      http.Header
	certificates []*x509.Certificate
	// from is where the request came from, for the record of the other node.
	from string
}

type credentialKey struct{}

// credentialHeader tells whether a header is part of what a caller shows.
func credentialHeader(name string) bool {
	return name == "Authorization" || name == "Sec-Websocket-Protocol" || strings.HasPrefix(name, "Impersonate-")
}

// relayHeader tells whether a header is one that only nodes send to each other.
func relayHeader(name string) bool {
	return name == headerCaller || name == headerCertificate || strings.HasPrefix(name, "X-Remote-")
}

// withCredential keeps what a caller shows for the node that the request may be handed to.
func withCredential(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &credential{headers: http.Header{}}
		for name, values := range r.Header {
			if credentialHeader(name) {
				c.headers[name] = slices.Clone(values)
			}
		}
		for _, ip := range utilnet.SourceIPs(r) {
			c.from = strings.TrimPrefix(c.from+", "+ip.String(), ", ")
		}
		if r.TLS != nil {
			c.certificates = r.TLS.PeerCertificates
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), credentialKey{}, c)))
	})
}

// hand writes into the headers of a request to another node what its caller has shown here.
func hand(ctx context.Context, to http.Header) error {
	for name := range to {
		if credentialHeader(name) || relayHeader(name) {
			delete(to, name)
		}
	}
	if id, ok := audit.AuditIDFrom(ctx); ok {
		to.Set(auditinternal.HeaderAuditID, string(id))
	}
	if ctx.Value(selfKey{}) != nil {
		to.Set(headerCaller, callerNode)
		return nil
	}
	c, ok := ctx.Value(credentialKey{}).(*credential)
	if !ok {
		return apierrors.NewInternalError(errors.New("a request that shows nothing cannot be handed to another node"))
	}
	to.Set(headerCaller, callerClient)
	to.Set("X-Forwarded-For", c.from)
	for name, values := range c.headers {
		to[name] = values
	}
	for _, cert := range c.certificates {
		to.Add(headerCertificate, base64.StdEncoding.EncodeToString(cert.Raw))
	}
	return nil
}

// peerKey marks, in a connection's context, one that ServePeers accepted; its value is the peer's user name.
type peerKey struct{}

// nodeUserPrefix is in front of a node's name in its user name.
const nodeUserPrefix = "system:node:"

// handed authenticates what a peer hands on: the peer itself, or what a caller has shown to it.
func handed(r *http.Request, peer string, client authenticator.Request) (*authenticator.Response, bool, error) {
	caller, chain := r.Header.Get(headerCaller), r.Header.Values(headerCertificate)
	for name := range r.Header {
		if relayHeader(name) {
			delete(r.Header, name)
		}
	}
	switch caller {
	case callerNode:
		return &authenticator.Response{User: &user.DefaultInfo{Name: peer, Groups: []string{user.NodesGroup, user.AllAuthenticated}}}, true, nil
	case callerClient:
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

// streamed are the subresources of pods that are relayed.
var streamed = []string{"log", "exec", "attach", "portforward"}

// withPeers serves other nodes only what is relayed: the streams of pods, and what is used here. Everything else a
// caller asks where it is connected.
func withPeers(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(peerKey{}) != nil {
			info, ok := request.RequestInfoFrom(r.Context())
			if !ok {
				info = &request.RequestInfo{}
			}
			relayed := info.IsResourceRequest &&
				(info.APIGroup == "" && info.Resource == "pods" && slices.Contains(streamed, info.Subresource) ||
					info.APIGroup == metrics.GroupName && r.Method == http.MethodGet)
			if !relayed {
				err := apierrors.NewForbidden(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}, info.Name,
					errors.New("nodes hand each other the streams of pods and what is used, and nothing else"))
				responsewriters.ErrorNegotiated(err, legacyscheme.Codecs, schema.GroupVersion{Version: "v1"}, w, r)
				return
			}
		}
		h.ServeHTTP(w, r)
	})
}
