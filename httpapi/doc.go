// Package httpapi is the Kubernetes API of one node: what kubectl, client-go and the node's own parts speak to.
//
// Its one law: what this API accepts, refuses, defaults and shows is what upstream's would, because upstream's own
// code decides it. Its second: a write is answered when this node's store has it on disk, and if it is one of those that must
// not happen twice (class.go), when one node has decided it for all that see each other.
//
// # How a request goes
//
// It goes through one pipeline (routes.go): recovery, timeout, authentication (identity.go), the record
// (httpapi/audit; of writes without a request, record.go), impersonation, a seat (httpapi/fairness), authorisation (authorize.go). Its handler is found by the attributes that authorisation saw
// (httpapi/route), so what is served is what was allowed; Echo routes only what is no resource. Then upstream's
// request handlers, which decode, admit (httpapi/admit, httpapi/accepted),
// validate and encode; then upstream's registry of the kind, with its strategies; and at the bottom, where upstream
// has etcd, storage.Interface over crdt.Store (storage.go, watch.go).
//
// # The table
//
// kinds.go is a table. A row says where a kind's objects are stored and which upstream registry serves it; its
// strategies, subresources, short names, selectable fields, table columns, discovery and OpenAPI follow from that. One more
// kind is one more row.
//
// # Defined kinds
//
// What a CustomResourceDefinition defines is served from the newest snapshot: a request that no route answers looks its definition up
// (customserve.go), and what serving takes is made with a kind's first request (custom.go) of upstream's schemas, converters and
// strategies. Discovery (discovery.go) and OpenAPI (openapi.go, customopenapi.go) are remade when the definitions have changed and
// somebody asks. Names and conditions are settled with the write (definitions.go). An object notes for the store how it is merged (customshape.go).
//
// # What is different here
//
// Versions: a resourceVersion is this node's apply sequence. To list or watch from, one of another node, or one too old,
// gets 410 and the client lists again; as a precondition, the other node is asked what it stood for. UIDs are derived by the store. Cluster addresses and node ports (allocate.go) are drawn by the hash of
// the Service's name and claimed (claim.go). Streams (streams.go) of a pod on another node
// are relayed to that node's API, with what the caller showed (credential.go), which is proven there again. What goes on ends when its
// caller is not believed any more (httpapi/standing).
//
// # What it does not do
//
// It runs no controller, and three loops: Events are dropped when they are old, definitions are tended whose names became free or
// whose objects have to go, and admission hears what has changed. Finalizers and grace
// periods are set and checked here, and honoured by node/control and the kubelet.
//
// # How to look inside
//
// kubectl -v=8 shows every request; /readyz says whether the node is; in a test, Server.As(user) writes without a
// connection.
package httpapi
