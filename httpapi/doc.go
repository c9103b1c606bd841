// Package httpapi is the Kubernetes API of one node: what kubectl, client-go and the node's own parts speak to.
//
// Its one law: what this API accepts, refuses, defaults and shows is what upstream's would, because upstream's own
// code decides it. Its second: a write is answered when this node's store has it on disk, and if it is one of those
// that must not happen twice (httpapi/storage), when one node has decided it for all that see each other.
//
// # The house
//
// The parts of the API are rooms, packages below this one. A room is given what it needs, a store, a client, a few
// functions, and never the Server; no room imports this package, and a test of the tree holds both. Server makes them, in
// the order in which they need each other (New), and is what is left: the pipeline, and what ties rooms together.
//
// # How a request goes
//
// It goes through one pipeline (routes.go): recovery and timeout (httpapi/filter), what peers may ask (httpapi/caller),
// authentication (httpapi/authn), the record (httpapi/audit), impersonation, a seat (httpapi/fairness), authorisation
// (httpapi/authz), the class of its writes (httpapi/filter). Its handler is found by the attributes that authorisation saw
// (httpapi/route), so what is served is what was allowed; Echo routes only what is no resource. Then upstream's request
// handlers, which decode, admit (httpapi/admit, with httpapi/policy, webhook, quota and accepted), validate and encode;
// then upstream's registry of the kind, with its strategies (httpapi/registry); and at the bottom, where upstream has etcd,
// storage.Interface over store.Store (httpapi/storage).
//
// Who runs in this process writes without a request, through the same (httpapi/inprocess).
//
// # Kinds
//
// Those that are built in are rows of a table (httpapi/registry): one more kind is one more row. What a
// CustomResourceDefinition defines is served from the newest snapshot (httpapi/custom). Discovery (httpapi/discovery)
// and OpenAPI (httpapi/openapi) of both are remade when the definitions have changed and somebody asks.
//
// # What is different here
//
// Versions: a resourceVersion is this node's apply sequence. To list or watch from, one of another node, or one too old,
// gets 410 and the client lists again; as a precondition, the other node is asked what it stood for. UIDs are derived by the
// store. Cluster addresses and node ports are drawn by the hash of the Service's name and claimed (httpapi/allocator).
// Streams of a pod on another node (httpapi/stream), and what nodes use (httpapi/usage), are relayed to that node's API
// (httpapi/relay), with what the caller showed, which is proven there again. What goes on ends when its caller is not
// believed any more (httpapi/standing).
//
// # What it does not do
//
// It runs no controller, and few loops: Events are dropped when they are old, definitions are tended whose names became
// free or whose objects have to go, policies' types are checked, APIServices are derived, and admission hears what has
// changed. Finalizers and grace periods are set and checked here, and honoured by node/control and the kubelet.
//
// # How to look inside
//
// kubectl -v=8 shows every request; /readyz says whether the node is; in a test, Server.As(user) writes without a
// connection.
package httpapi
