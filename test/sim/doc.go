// Package sim runs a cluster of real stores and real planes in one thread and in a time of its own, and does to it whatever can
// be done to a cluster. One seed is one run: the same trace, to the last bit.
//
// # What is real
//
// store.Store with its whole write path, on a disk in memory that can fail at every write; gossip.Plane, unchanged. What a node's
// daemon puts between them, streams and goroutines, is replaced by events; test/virtual runs that.
//
// # What is done to it
//
// Delay by zone, jitter and spikes, packets lost, doubled and overtaken, links cut in one direction, clusters split in two and
// three, links that flap; nodes that crash, also at a write to disk, just before or just after; disks that lose the last seconds with
// the power although they had acknowledged them, and logs that are damaged further back; slow disks; clocks that are
// wrong and that jump; backups restored. Real streams neither lose nor overtake: half of the seeds are
// worse than they are.
//
// # What must hold
//
// At every moment, on every node: what its vector claims is held; a write that was acknowledged is there or overwritten by one
// that knew it or was concurrent; a deleted UID does not come back; a watcher's versions grow, and its events make of one
// snapshot the next. When the faults are over: the same bytes everywhere, within bounded time.
//
// # How to look inside
//
// A failing seed prints the line that runs it again with its trace.
package sim
