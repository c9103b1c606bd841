package sim

import (
	"fmt"

	"murmur/crdt"
	"murmur/crdt/store"
)

type writeKind byte

const (
	created writeKind = iota
	updated
	deleted
)

// write is one commit that was tried.
type write struct {
	node   *node
	key    crdt.Key
	kind   writeKind
	uid    string
	origin crdt.Origin
	seq    uint64
	// before is what the node had when it made the write: what it knew, and overwrote.
	before crdt.VersionVector
	// fields are what it wrote; the empty string takes a field away.
	fields map[string]string
	// durable: it was acknowledged, or found on disk after the crash that kept it from being so.
	durable bool
	// failed: it is no commit.
	failed bool
	// excused: it may be lost, because the only disk that had it was replaced by an older one.
	excused bool
}

func (wr *write) String() string {
	return fmt.Sprintf("%s of %s %s by %v.%d %v", [...]string{"creation", "update", "deletion"}[wr.kind], wr.key, wr.uid, wr.origin, wr.seq, wr.fields)
}

// knew tells whether the writer had another write when it made this one.
func (wr *write) knew(o *write) bool { return wr.before[o.origin] >= o.seq }

// counts tells whether a write must have its effect where it is claimed.
func (wr *write) counts() bool { return wr.durable && !wr.excused }

// history is all that was written, in the order of the world's time.
type history struct {
	all   []*write
	byKey map[crdt.Key][]*write
}

func (h *history) attempt(wr *write) {
	h.all = append(h.all, wr)
	h.byKey[wr.key] = append(h.byKey[wr.key], wr)
}

func (h *history) commit(wr *write) { wr.durable = true }

// survived finds out, at a start, whether the write that a crash interrupted is on disk.
func (h *history) survived(n *node, was crdt.Origin) {
	for i := len(h.all) - 1; i >= 0; i-- {
		wr := h.all[i]
		if wr.origin != was || wr.durable || wr.failed {
			continue
		}
		if n.store.Report().Vector[was] != wr.seq || wr.excused {
			wr.failed = true // and its number goes to another
			return
		}
		if wr.kind == created {
			e, ok := n.store.Snapshot().Get(wr.key)
			if !ok {
				return
			}
			wr.uid = string(e.UID)
		}
		wr.durable = true
		n.world.tell("%s finds %v on its disk", n.name, wr)
		return
	}
}

// excuse excuses what is lost when a node's disk becomes one that has less: commits since then that nobody else has.
func (h *history) excuse(w *world, n *node, left crdt.VersionVector) {
	var others crdt.VersionVector = map[crdt.Origin]uint64{}
	for _, o := range w.nodes {
		if o != n {
			for origin, seq := range o.claims() {
				others[origin] = max(others[origin], seq)
			}
		}
	}
	for _, wr := range h.all {
		if left[wr.origin] < wr.seq && others[wr.origin] < wr.seq {
			wr.excused = true
		}
	}
}

// claims is what a node has, also while it is down.
func (n *node) claims() crdt.VersionVector {
	if n.up() {
		return n.store.Report().Vector
	}
	return vectorOf(n, n.memory)
}

// vectorOf is what a disk of a node has.
func vectorOf(n *node, m *store.Memory) crdt.VersionVector {
	if m == nil {
		return nil
	}
	s, err := store.Open(store.Config{Disk: m.Clone(), Cluster: "sim", Now: n.clock})
	if err != nil {
		n.world.fail("read the disk of %s: %v", n.name, err)
		return nil
	}
	return s.Report().Vector
}
