// Package policy evaluates admission policies in CEL: upstream's two plugins, for as long as something binds a policy.
//
// Its one law: who stores no policies pays for none. An evaluation costs a poll a second, and compiled expressions, so it
// is made with the first request that a binding could be about, and ends with the first after the last binding went.
//
// What policies ask of the API, their parameters and the types of kinds, they ask in this process. They follow the store
// through httpapi/informers; parameters may be of any kind, and are followed through the API, in the version that a policy names.
//
// # The loop
//
// Run writes into the status of validating policies what is wrong with the types in their expressions, as upstream's
// controller does. Any node may, in its turn (httpapi/turn). When it ends, what evaluates policies ends too.
//
// # What it does not do
//
// Where policies stand in the chain, and what goes past them, httpapi/admit says.
package policy
