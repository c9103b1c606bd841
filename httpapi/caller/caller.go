package caller

import (
	"context"
	"errors"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/metrics/pkg/apis/metrics"
)

type (
	selfKey struct{}
	peerKey struct{}
)

// NodeUserPrefix is in front of a node's name in its user name.
const NodeUserPrefix = "system:node:"

// WithSelf marks what is asked in this process, and by which user of it. Nothing of who asked before, or how, counts.
func WithSelf(ctx context.Context, u user.Info) context.Context {
	return context.WithValue(context.WithValue(ctx, selfKey{}, u), peerKey{}, nil)
}

// Self is who asks in this process.
func Self(ctx context.Context) (user.Info, bool) {
	u, ok := ctx.Value(selfKey{}).(user.Info)
	return u, ok
}

// WithPeer marks a connection that another node has opened, whose certificate names it.
func WithPeer(ctx context.Context, node string) context.Context {
	return context.WithValue(ctx, peerKey{}, NodeUserPrefix+node)
}

// Peer is the user name of the node on the other end of the connection.
func Peer(ctx context.Context) (string, bool) {
	name, ok := ctx.Value(peerKey{}).(string)
	return name, ok
}

// Authenticator takes who asks in this process for who it is, has what a peer hands on proven, and else has client prove
// what a caller shows.
func Authenticator(client authenticator.Request) authenticator.Request {
	return authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		if u, ok := Self(r.Context()); ok {
			return &authenticator.Response{User: u}, true, nil
		}
		if peer, ok := Peer(r.Context()); ok {
			return handed(r, peer, client)
		}
		return client.AuthenticateRequest(r)
	})
}

// streamed are the subresources of pods that are relayed.
var streamed = []string{"log", "exec", "attach", "portforward"}

// LimitPeers serves other nodes only what is relayed: the streams of pods, and what is used here. Everything else a
// caller asks where it is connected.
func LimitPeers(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, relayed := Peer(r.Context()); relayed {
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
