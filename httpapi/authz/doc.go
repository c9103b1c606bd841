// Package authz decides who may do what: upstream's RBAC over the roles in the store.
//
// Its one law: a decision is a function of the newest snapshot. Roles are aggregated when somebody asks and one has changed, and what
// has to do with a node is drawn when the node asks, so no controller and no informer has to have run first. Upstream's code decides, and is
// given to look through what the store finds under the user, so that a request costs no more where there are many bindings.
//
// Two groups need no role: system:masters may do anything, and nodes what upstream's node authorizer lets them: what their
// role lists, and of Secrets and the like no more than has to do with the pods bound to them. What of it a node may write, node
// restriction narrows (httpapi/admit).
//
// It keeps nothing and starts nothing.
package authz
