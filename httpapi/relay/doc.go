// Package relay hands requests to the APIs of other nodes: the streams of their pods, and what is used there.
//
// Its one law: a request arrives as it came. Its upgrade, its body and what its caller has shown go along (httpapi/caller),
// and the answer comes back byte by byte, each direction ending by itself. A request that was relayed once is not relayed
// again: two nodes that do not agree where a pod is would send it in a circle.
//
// HTTP/1.1 is spoken over the streams that nodes open to each other; hosts in URLs are node names.
//
// It decides nothing: which node to ask, and what the answer means, is for httpapi/stream and httpapi/usage. It keeps idle
// connections for half a minute, and starts nothing else.
package relay
