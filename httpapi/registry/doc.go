// Package registry is the table of the kinds that are built in, and upstream's registry of each, over the store.
//
// Its one law: one more kind is one more row. A row says where a kind's objects are stored and which of upstream's
// registries serves it (kinds.go). The registry brings the kind's strategies, subresources, short names, selectable fields and table
// columns; routes, discovery and OpenAPI follow from what it can do.
//
// # How it comes to life
//
// New makes the rows' storages, one after the other, so that a row may use what rows above it have made: the proxy of
// Services wants the storage of pods. Each of upstream's registries asks for its storage.Interface by GetRESTOptions, and gets the
// one of httpapi/storage for its kind.
//
// What is answered and not stored, reviews and metrics, has rows too: they only have no way to be decoded.
//
// # What it does not do
//
// It knows no request and no route. The kinds that are defined are httpapi/custom's.
package registry
