package httpapi

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"murmur/crdt"
	"murmur/httpapi/custom"
	"murmur/httpapi/storage"
	"murmur/httpapi/webhook"
)

// defined makes what serves the kinds that are defined.
func (s *Server) defined() (*custom.Kinds, error) {
	return custom.New(custom.Config{
		Store: s.cfg.Store, Backend: s.backend, Node: s.cfg.Node, Webhooks: webhook.Services{Store: s.cfg.Store}, WebhookClients: webhook.Clients,
		Authorizer: s.authz, Admission: s.admit, MinWatch: minWatch, MaxBody: maxBody, API: s.System(), Log: s.cfg.Log,
		Record: func(ctx context.Context, k *storage.Kind, e *crdt.Entry) (context.Context, func(error)) {
			ctx, end := s.begin(ctx, &call{kind: k, namespace: e.Key.Namespace, name: e.Key.Name, user: itself}, "delete", e.UID)
			return ctx, func(err error) { end(nil, err) }
		},
	})
}

// kind is how the objects of a resource are stored, be it in the table or defined; nil if there is none.
func (s *Server) kind(resource schema.GroupResource) *storage.Kind {
	if k := s.registry.kinds[storage.Key(resource)]; k != nil {
		return &k.Kind
	}
	crd := custom.Definition(s.cfg.Store.Snapshot(), resource)
	if crd == nil {
		return nil
	}
	k, err := custom.KindOf(crd)
	if err != nil {
		return nil
	}
	return k
}
