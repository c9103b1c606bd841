// Package usage is metrics.k8s.io: what nodes and their pods use, CPU as a rate and memory as the working set.
//
// Its one law: it is not stored. Each node knows its own. A request asks the nodes that it is about, all at once, as the
// user whose request it is, with the request as it came; a node that is asked by another answers for itself alone. One that
// does not answer in time is left out, as one out of sight is at once.
//
// What an answer says of an object beside its usage, its labels say, is taken from the store of the node that was asked; a
// pod that two nodes run after a cut is told once.
//
// It measures nothing (node/pod does) and keeps nothing between requests.
package usage
