// Package admit is the chain of admission plugins: what every write goes through after it is allowed and before it is
// validated.
//
// Its one law: the chain is what upstream enables by default, in upstream's order, made of upstream's plugins; what is missing or
// added has a line in the test that compares the two (chain_test.go). Our own additions stand after the built-in plugins and before
// policies and webhooks, whose work they check again in the validating half.
//
// # How a plugin gets what it needs
//
// Upstream's plugins ask for listers, a client and an authorizer; httpapi gives them through Config.Initializers, and its
// listers are views of the newest snapshot, always synced. Nothing here knows the server or the store.
//
// # What is kept for the cluster itself
//
// Nodes and controllers tell each other things in annotations of pods and nodes. Who could write those could say where a pod runs,
// or where the members of the cluster are found. reserved.go has the table of them, and keeps them from everybody else; it also keeps
// the API group of the store's own documents from being defined. More of this is in docs/adr/0026.
//
// # What it does not do
//
// It starts nothing and remembers nothing. Policies, webhooks and quotas are made by httpapi and only have their places here.
package admit
