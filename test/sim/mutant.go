package sim

import (
	"encoding/binary"

	"murmur/gossip"
)

// Mutant is something broken on purpose.
type Mutant string

// The mutants that the checks must notice.
const (
	NoRepair   Mutant = "a plane that never repairs"
	MergeDrops Mutant = "a merge that drops what it says it has merged"
	OverClaims Mutant = "a delta that claims more than it carries"
	Boasts     Mutant = "a node that claims what another has"
	DiskLies   Mutant = "a disk that loses what it says it has written"
	TailReused Mutant = "a log that lost its end, or a backup, that goes on with the numbers that were there"
)

// Mutants lists all.
var Mutants = []Mutant{NoRepair, MergeDrops, OverClaims, Boasts, DiskLies, TailReused}

// held is what a node's plane reads: its store, unless a mutant is in between.
func (w *world) held(n *node) gossip.Held {
	switch w.options.Mutant {
	case NoRepair:
		return deaf{n.store}
	case Boasts:
		return boastful{n.store, n}
	}
	return n.store
}

// deaf always finds that there is nothing to exchange.
type deaf struct{ gossip.Held }

func (deaf) Digest() [16]byte { return [16]byte{} }

// boastful claims to have what another has, and never that it lacks anything.
type boastful struct {
	gossip.Held
	n *node
}

func (b boastful) other() gossip.Held {
	for i := range b.n.world.nodes {
		if o := b.n.world.nodes[(b.n.index+1+i)%len(b.n.world.nodes)]; o != b.n && o.up() {
			return o.store
		}
	}
	return b.Held
}

func (b boastful) Vector() []byte   { return b.other().Vector() }
func (b boastful) Digest() [16]byte { return b.other().Digest() }

// widened is a delta that claims three commits more than it carries: in crdt's format a delta begins with a byte, an origin
// (8 bytes) and the numbers between which it has everything.
func widened(delta []byte) []byte {
	const head = 9
	if len(delta) < head {
		return delta
	}
	begin, n := binary.Uvarint(delta[head:])
	if n <= 0 || begin == 0 {
		return delta
	}
	end, m := binary.Uvarint(delta[head+n:])
	if m <= 0 || end <= begin {
		return delta
	}
	out := binary.AppendUvarint(append([]byte(nil), delta[:head]...), begin-min(begin, 3))
	return append(out, delta[head+n:]...)
}

// hollow is a delta that claims what it did, and carries nothing: stretches are an origin (8 bytes), two numbers, and a number
// of documents, each behind its length.
func hollow(delta []byte) []byte {
	if len(delta) == 0 {
		return delta
	}
	out := append([]byte(nil), delta[0])
	for b := delta[1:]; len(b) > 8; {
		out = append(out, b[:8]...)
		b = b[8:]
		number := func() uint64 {
			v, n := binary.Uvarint(b)
			if n <= 0 {
				b = nil
				return 0
			}
			b = b[n:]
			return v
		}
		out = binary.AppendUvarint(out, number())
		out = binary.AppendUvarint(out, number())
		for range number() {
			if n := number(); n <= uint64(len(b)) {
				b = b[n:]
			}
		}
		out = append(out, 0)
	}
	return out
}
