// Package admit is the chain of admission plugins: what every write goes through after it is allowed and before it is
// validated.
//
// Its one law: the chain is what upstream enables by default, in upstream's order, made of upstream's plugins. Where upstream's
// plugin does not fit a cluster without a control plane, one of ours stands in its place. Our own additions stand after the
// built-in plugins and before policies and webhooks.
//
// # How a plugin gets what it needs
//
// Upstream's plugins ask for listers, a client and an authorizer; httpapi gives them through Config.Initializers, and its
// listers are views of the newest snapshot, always synced. Nothing here knows the server or the store.
//
// # What it does not do
//
// It starts nothing and remembers nothing. Policies, webhooks and quotas are made by httpapi and only have their places here.
package admit
