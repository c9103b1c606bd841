package httpapi

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"murmur/crdt"
	"murmur/httpapi/inprocess"
)

// Client writes as one user without leaving the process.
type Client = inprocess.Client

// As is the client of a user in groups; system:authenticated is added.
func (s *Server) As(name string, groups ...string) *Client { return s.local.As(name, groups...) }

// Own is As for what a daemon writes for itself. Policies and webhooks are not asked: nothing that somebody has stored
// keeps an API from coming up, or a pod from getting its token.
func (s *Server) Own(name string, groups ...string) *Client { return s.local.Own(name, groups...) }

// System is the client of the API itself.
func (s *Server) System() *Client { return s.local.System() }

// Record records what a part of the daemon writes to an object past this API: who, which verb, and to what. The function that it
// returns is called with the outcome.
func (s *Server) Record(ctx context.Context, by user.Info, verb string, key crdt.Key, uid types.UID) (context.Context, func(error)) {
	return s.local.Record(ctx, by, verb, key, uid)
}
