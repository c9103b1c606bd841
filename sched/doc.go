// Package sched places pods by bidding: there is no scheduler that decides for the others.
//
// Every pod has an arbiter of record, the node that created it. The arbiter offers the pod to a few nodes that could
// take it; each asks its filter and score plugins about its own ledger and bids; the arbiter awards the pod to the best
// bid; and the winner admits it, by writing its claim into the pod, or refuses. Nodes of one cluster speak over one stream
// in each direction of a pair; a cluster of one speaks to itself, without any.
//
// The one law: only a node's own ledger admits pods to that node, and a pod has one runner. The first half makes overcommitment
// impossible. The second holds except under false death, which no protocol can tell from death: then each side has a runner,
// and when they meet the loser stops.
//
// # Why a pod has one runner
//
// An award ends in exactly one of three ways: an ack, a nack, or the candidate's death. Silence is none of them: the same
// award goes to the same node again. A candidate that refused an award refuses it for ever, because the arbiter may have given
// the pod to another by the time a copy of the award arrives. An award names the candidate's incarnation, so that
// it means nothing after a restart; this is also why refusals need no disk.
//
// When an arbiter dies or restarts, one node takes over its pending pods: the same node in its next life if it is
// back, else a live one by rendezvous hash. It fences the pods first: every live node, not a majority, promises on disk to
// heed no lower ballot (epoch, arbiter) for the pod, and tells whether it claimed it. Only then does the fencer write itself into
// the pod as its next arbiter. Two fencers with different views meet in the nodes that both must ask, and the higher ballot wins.
// This is one round of Paxos whose quorum is everyone alive. It differs from the first sketch of the protocol, which
// fences the dead arbiter and elects a successor for each pod: a node falsely taken for dead would be fenced for all it
// arbitrates for the rest of its life, and two fencers with the same epoch could each take a pod; the model checker in
// test/placement found the second. A pod without a record is taken over in the same way.
//
// A node that restarts has died as far as anyone knows, so its pods may have been freed. Containers that still run go on, but
// none is started until every live peer has been asked whether it knows the pod elsewhere (Reclaim) and the claim is written anew under the new
// incarnation. A peer that has no objection notes the claim, and from then on neither awards the pod nor admits it: an award of a dead
// arbiter may still be on its way to that peer, which the model checker found too. With no peer in reach for five
// seconds the node is a partition of one, and resumes.
//
// Against false death, a node claims nothing new unless some peer has answered a ping sent within the last two seconds, which is less
// than the least time after which the peers declare it dead. What it is awarded meanwhile counts in its bids, and is claimed when a peer answers.
// Alone in its own view, it may.
//
// # The record
//
// All of it is annotations on the pod under placement.murmur.io: arbiter, epoch, and claim.NODE for each claimant, so that
// claims made on two sides of a partition meet as two keys. The commit that binds writes claim, record, spec.nodeName and the
// condition PodScheduled at once. While two claims stand both nodes run the pod (Holds); Winner ranks them: ready, then earlier, then
// rendezvous hash. The winner writes spec.nodeName; the loser has seen it ready on a live node for two seconds before it takes its claim away.
//
// # Waves
//
// Pods that placement cannot tell apart are one class and are offered together: eight at a time, or a sixteenth of them
// if that is more. A class has one wave under way; the next is offered in the same breath as the last is awarded, and because
// streams keep their order each candidate bids with the last wave in its ledger. So a burst spreads evenly without a timer between
// waves. With at most eight feasible nodes each bid counts for evenness, and a wave waits 800 ms for a slow one, 250 ms if it was already
// late, and two seconds more if nobody else has room; what those that stay silent would be due of the wave is offered again. In larger clusters it
// waits 10 ms or three round trips.
//
// # Preemption
//
// A candidate that bids nothing says what it would give: which pods of lower priority would have to go, chosen as kube-scheduler does.
// Only when nobody bids without does the arbiter ask one candidate, the one where it costs least, to make room (Preempt). That
// candidate chooses anew by its ledger, evicts, and keeps the room from pods of the same or a lower priority for a bounded time. The arbiter,
// who alone writes the status of a pod that waits, names it in status.nominatedNodeName. The pod goes on waiting and is awarded like any other once there is room; nothing else than an award makes a claim, so
// the rules above need not know of preemption.
//
// # The loop
//
// Exchange is the whole protocol as a machine, made of candidate, arbiter, fencer and reclaim. Look, Step, Claimed, Evicted, TookOver and Tick
// change its state; Ready takes what it wants persisted, sent and committed. It has no clock, goroutine, lock or random. Scheduler is the one loop
// around it: it shows it the store, carries messages, and commits beside itself so that commits share a sync.
//
// # What it does not do
//
// It starts and stops no containers: the node asks Holds and MayStart. It replaces no pods of lost nodes: controllers create
// covers.
//
// # How to look inside
//
// Explain tells the last rounds of a pod with every bid and its scores, on the pod's arbiter; Explanations is served as /debug/bids.
package sched
