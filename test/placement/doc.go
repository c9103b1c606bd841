// Package placement explores the placement protocol of package sched exhaustively, breadth first: one pod, up to four
// nodes, crashes, restarts, and messages lost, doubled and reordered in every way.
//
// The model keeps of a node only what decides who runs the pod. What is on disk survives a crash: claim, promises, the
// record and claims heard of. What is in memory does not: the award under way, refusals, notes, answers. Every message
// ever sent may be delivered now, later, twice or never, which is loss, doubling and reordering in one. A bid is not
// modelled: an arbiter may award to any life of any node, as if it had bid just before.
//
// The one law checked: no two nodes run the pod. Mutants leave out one rule each, and each must be caught. False death,
// a living node taken for dead, is the one way to two runners that is left.
package placement
