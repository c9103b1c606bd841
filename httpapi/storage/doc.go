// Package storage is what upstream's registries have instead of etcd: storage.Interface over the replicated store.
//
// Its one law: a registry cannot tell the difference. Lists are consistent and go on page by page from the snapshot
// that the first was cut from, watches begin where a list ended, an update whose precondition no longer holds is
// refused, and one that met another is tried again on what is there now.
//
// # Kinds and forms
//
// A Kind says under which key the objects of a resource are, and in which version. Its Form says how an object of the
// registry becomes JSON of the store and back: Native for the kinds that upstream has Go types for; httpapi/custom
// brings that of what is defined.
//
// # Versions
//
// A resourceVersion is this node's apply sequence: it grows here and means nothing elsewhere. One of another node cannot
// be listed or watched from, and gets 410. As a precondition it can be used: the other node is asked which state of the
// object it stood for (Backend.Here).
//
// # Two classes of writes
//
// Most writes are committed on this node and merge with what others commit. Some must not happen twice and are decided one
// after the other at one node (Primary): what is created or replaced over HTTP, what has a precondition, the removal of
// finalizers, and all Leases. What the node's own parts write in-process is of the first class, whatever version they
// made it from: their names are functions of the owner, and two that do the same thing write the same. The HTTP filter
// that knows what a request asked for notes it in the context (WithRequest).
//
// # What it does not do
//
// It validates nothing and admits nothing; that is the registry's and admission's. It starts nothing but one goroutine
// for each watch, which ends with its request or with the life of its kind.
package storage
