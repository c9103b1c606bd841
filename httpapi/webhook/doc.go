// Package webhook finds webhooks, for admission and for conversion.
//
// Its one law: the way to a webhook is the store's, not the network's. A webhook behind a Service is called at one of the
// Service's ready pods, as the newest snapshot has them; that is as near as the Service's address, and is there before the
// rules for the address are, on a node that has just come up too.
//
// How a webhook is trusted is what its configuration says, and nothing here: the bundle it brings, and no identity of ours.
// What goes past webhooks httpapi/admit says. Nothing is kept and nothing is started.
package webhook
