package relay

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"murmur/httpapi/caller"
)

// Relay reaches the APIs of other nodes.
type Relay struct {
	dial      func(ctx context.Context, node string) (net.Conn, error)
	transport *http.Transport
}

// New relays over the streams that dial opens to nodes. Without it none can be reached.
func New(dial func(ctx context.Context, node string) (net.Conn, error)) *Relay {
	return &Relay{dial: dial, transport: transport(dial)}
}

// Get asks another node for a path, with its query, as who the request in ctx is from.
func (r *Relay) Get(ctx context.Context, node, path, accept string) (*http.Response, error) {
	if err := r.Reachable(ctx, node); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node+path, nil)
	if err != nil {
		return nil, err
	}
	if err := caller.Hand(ctx, req.Header); err != nil {
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := r.transport.RoundTrip(req)
	if err != nil {
		return nil, Unreachable(node, err)
	}
	return resp, nil
}

// Reachable refuses what would go in a circle or nowhere.
func (r *Relay) Reachable(ctx context.Context, node string) error {
	_, relayed := caller.Peer(ctx)
	switch {
	case relayed:
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the pod is on node %s, not here; the nodes do not agree yet", node))
	case r.dial == nil:
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the pod is on node %s, which cannot be reached from here", node))
	}
	return nil
}

// Unreachable is the answer about a pod on a node that does not answer.
func Unreachable(node string, err error) error {
	return apierrors.NewServiceUnavailable(fmt.Sprintf("the pod is on node %s, which cannot be reached: %v", node, err))
}

// Handler hands the request to another node as it came, upgrade and all.
func (r *Relay) Handler(ctx context.Context, node string) (http.Handler, error) {
	if err := r.Reachable(ctx, node); err != nil {
		return nil, err
	}
	return &relayed{peers: r.transport, node: node}, nil
}

// relayed is a request on its way to another node.
type relayed struct {
	peers http.RoundTripper
	node  string
}

func (r *relayed) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", r.node, ""
	if out.ContentLength == 0 {
		out.Body = nil // the transport would wait for its end
	}
	if err := caller.Hand(req.Context(), out.Header); err != nil {
		r.failed(w, req, err)
		return
	}
	resp, err := r.peers.RoundTrip(out)
	if err != nil {
		r.failed(w, req, err)
		return
	}
	body := resp.Body
	defer body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Header.Del("Connection")
		maps.Copy(w.Header(), resp.Header)
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, body) // the client went, or the node: there is nobody to tell
		return
	}
	far, ok := body.(duplex)
	if !ok {
		r.failed(w, req, fmt.Errorf("a connection of type %T cannot be written to", body))
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		r.failed(w, req, err)
		return
	}
	resp.Body = nil // the head alone is written
	if resp.Write(buffered) != nil || buffered.Flush() != nil {
		_ = conn.Close()
		return
	}
	near, ok := conn.(duplex)
	if !ok {
		near = undivided{conn}
	}
	join(near, buffered.Reader, far)
}

func (r *relayed) failed(w http.ResponseWriter, req *http.Request, err error) {
	responsewriters.ErrorNegotiated(Unreachable(r.node, err), legacyscheme.Codecs, corev1.SchemeGroupVersion, w, req)
}

// transport speaks HTTP/1.1 over the streams that Relay opens; hosts are node names.
func transport(dial func(ctx context.Context, node string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(address)
			if err != nil {
				node = address
			}
			return dial(ctx, node)
		},
		IdleConnTimeout:     30 * time.Second,
		MaxIdleConnsPerHost: 2,
		DisableCompression:  true,
	}
}
