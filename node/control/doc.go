// Package control is the controllers: what upstream's controller manager does, done by every node.
//
// # The law
//
// A controller is a function of values: an owner, the objects around it in one snapshot, which nodes can be reached from
// here, and the time. It says what to write and when to be asked again, and does nothing itself. What it writes is named
// after the owner: a ReplicaSet after its template's hash, a pod after (owner UID, slot, attempt), a slice after its
// Service. So two nodes that decide at once write the same object, and no lock is needed for it.
//
// # The loop
//
// One loop runs each row of the table in control.go: take a snapshot and what has changed since the last, ask the row whom those changes concern,
// decide for those of them whose controller of record is this node, write, and wait for a change, a change of the view, or the earliest time
// that a decision asked for. So the work for a change is that of the objects that it touches, however many there are. Once a minute or so,
// and whenever it is not known what has changed, all owners are decided: each loop at a time of its own, so that not all do at once.
// TestNobodyIsForgotten shows that whoever is not decided has nothing to do.
//
// A row that keeps something in mind follows the changes with it (row.prepare), and makes it anew when all owners are decided.
//
// The controller of record is the rendezvous hash of the owner's UID over the nodes in sight. That saves work; nothing
// depends on it: during a partition each side has its own, and for a moment after any change of view two may act. Writes
// go through the API as the ServiceAccount that upstream's controller has, with its permissions, and carry the version or
// UID they were decided from; a conflict means to look again. An owner whose writes fail, or change nothing though they succeed, waits, twice as
// long each time.
//
// The pods of a DaemonSet are the exception: each node makes its own, and needs nobody for it. What concerns several nodes,
// history, the pace of an update, status, and which pods go, is still the controller of record's.
//
// Run is called only once the node is past its barrier: a controller acts on what it does not see, and an empty world is
// not one to act on.
//
// # Partitions
//
// Losing sight of a node deletes nothing. Its pods are in doubt, and count, until their toleration of
// node.kubernetes.io/unreachable is over (15 s unless they say otherwise; partition.murmur.io/replace-after,
// partition.murmur.io/replace). Then they are lost to this side, and each gets a cover: another pod for the same slot,
// with a name of this side's own, for it is another pod than the one that the other side may make. If more than half of
// the nodes vanish within 10 s, the wait is four times as long, or (careful) lasts until half are back.
//
// After the heal there are more pods than wanted. They are ranked: newer template, placed, running, ready,
// pod-deletion-cost, then by policy (partition.murmur.io/reconcile: keep_original, keep_replacement, longest_running,
// best_score), spread, earlier start, hash. The order is total and made of replicated fields, so all nodes choose alike.
// A surplus pod that is ready is withdrawn only while as many as are wanted are ready without it, on nodes that have been
// in sight for a while: a node that crashed comes back with the readiness its pods had before. Pods on nodes out of sight
// are never withdrawn, and never held to be ready.
//
// A DaemonSet does nothing about nodes out of sight: no covers, no updates and nothing to withdraw at the heal. Each side
// updates the pods of the nodes it sees.
//
// Status counts what can be seen from here; each side of a partition writes its own, and after the heal the controller of
// record writes it again.
//
// A HorizontalPodAutoscaler is decided from what no store has: what the pods of its target use. It is asked for before the
// decisions, of the nodes that run them, and what was recommended is remembered in memory: see docs/adr/0021.
//
// # What it does not do
//
// EndpointSlices and Endpoints say which pods are ready, which is replicated, and not which can be reached, which is not:
// the proxy and cluster DNS leave out endpoints of unreachable nodes themselves, each by its own view. Pods that end on a
// node out of sight stay, terminating and uncounted, until it is back or the node is forgotten. Events expire in httpapi.
// Nothing here places or runs pods.
//
// # Looking inside
//
// Decisions are in testdata as text. At run time: events of the owner, conditions of Deployments, ReplicaSets and
// Namespaces, and the annotations murmur.io/slot, murmur.io/attempt and murmur.io/covers of pods.
package control
