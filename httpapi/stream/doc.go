// Package stream is the streams of a pod: log, exec, attach and portforward.
//
// Its one law: a stream ends at the node that runs the pod. There the runtime is asked (Kubelet), and the upgraded
// connection goes on to its streaming server. Asked anywhere else, a request that has been authenticated, allowed and
// validated is handed to that node's API as it came (httpapi/relay); there it is authenticated and allowed again, and
// served.
//
// Options are validated by upstream, which also finds the container; the location that it makes of them names it, and
// nothing is dialled by it (PlacedOn). With clients WebSockets are spoken as upstream does, with the runtime SPDY.
//
// Whoever opens a stream by a WebSocket's GET needs the right to create it, as with a POST.
//
// It keeps no stream: what is opened ends with its request, and who is let in no longer is cut off by httpapi/standing.
package stream
