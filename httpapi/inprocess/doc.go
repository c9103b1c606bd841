// Package inprocess is the API for who runs in the same process: the node's own parts, and upstream's plugins.
//
// Its one law: what is written here is what would be written over HTTP by the same user. The same authorisation, admission,
// defaulting and validation decide it and the same record has it; only nothing is encoded in between (client.go). Where a caller
// wants a client of client-go's, requests go through the whole pipeline without a connection (transport.go).
//
// What differs is said where it is decided: a write here is of the class that merges (httpapi/storage), and what a daemon
// writes for itself goes past policies and webhooks (httpapi/admit).
//
// Nothing of who asked a request counts for the requests that it leads to.
//
// It reads nothing: readers have the store. It starts one goroutine for each request that goes through the pipeline, which
// ends with it.
package inprocess
