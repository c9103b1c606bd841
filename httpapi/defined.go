package httpapi

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	"murmur/httpapi/authn"
	"murmur/httpapi/custom"
	"murmur/httpapi/registry"
	"murmur/httpapi/storage"
	"murmur/httpapi/stream"
	"murmur/httpapi/usage"
	"murmur/httpapi/webhook"
)

// defined makes what serves the kinds that are defined.
func (s *Server) defined() (*custom.Kinds, error) {
	return custom.New(custom.Config{
		Store: s.cfg.Store, Backend: s.backend, Node: s.cfg.Node, Webhooks: webhook.Services{Store: s.cfg.Store}, WebhookClients: webhook.Clients,
		Authorizer: s.authz, Admission: s.admit, MinWatch: minWatch, MaxBody: maxBody, API: s.System(), Log: s.cfg.Log,
		Record: s.local.Deletion,
	})
}

// tableOfKinds makes what serves the kinds that are built in.
func (s *Server) tableOfKinds() (*registry.Registry, error) {
	return registry.New(registry.Config{
		Store: s.cfg.Store, Backend: s.backend, Client: s.own, Authorizer: s.authz, Rules: s.roles.Rules, Resolver: s.roles.Resolver,
		Known: s.authn.Known, Audiences: s.authn.Audiences, Issuer: s.authn.Tokens, MaxTokenLife: s.cfg.MaxTokenLife, ExtendedTokenLife: authn.ExtendedTokenLife,
		Tokens:    s.authn.TokenStorage,
		EventLife: eventLife, Numbers: s.numbers, Pods: s.tell,
		Streams: stream.Config{Node: s.cfg.Node, Kubelet: s.cfg.Kubelet, Authorizer: s.authz, Relay: s.relay},
		Usage:   &usage.Config{Store: s.cfg.Store, Node: s.cfg.Node, Relay: s.relay, Own: s.cfg.Usage, Log: s.cfg.Log},
	})
}

// kind is how the objects of a resource are stored, be it in the table or defined; nil if there is none.
func (s *Server) kind(resource schema.GroupResource) *storage.Kind {
	if k := s.registry.Kind(resource); k != nil {
		return k
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
