package crdt

import (
	"encoding/binary"
	"maps"
	"slices"
)

// Vector says, per origin, up to which sequence number something contains that origin's commits. A store's is free of gaps. What
// a document contains is a tally.
type Vector map[Origin]uint64

// Covers tells whether v contains everything that o contains.
func (v Vector) Covers(o Vector) bool {
	for origin, seq := range o {
		if v[origin] < seq {
			return false
		}
	}
	return true
}

// contains tells whether v contains all commits that a document names.
func (v Vector) contains(t tally) bool {
	for _, c := range t {
		if v[c.origin] < c.n {
			return false
		}
	}
	return true
}

// touches tells whether v contains a commit that a document names.
func (v Vector) touches(t tally) bool {
	for _, c := range t {
		if v[c.origin] >= c.n {
			return true
		}
	}
	return false
}

func (v Vector) join(o Vector) Vector {
	out := maps.Clone(v)
	if out == nil {
		out = Vector{}
	}
	for origin, seq := range o {
		out[origin] = max(out[origin], seq)
	}
	return out
}

// meet is what both contain.
func (v Vector) meet(o Vector) Vector {
	out := Vector{}
	for origin, seq := range v {
		if both := min(seq, o[origin]); both > 0 {
			out[origin] = both
		}
	}
	return out
}

// origins lists the origins in ascending order, so that encodings are canonical.
func (v Vector) origins() []Origin { return slices.Sorted(maps.Keys(v)) }

func (v Vector) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	for _, o := range v.origins() {
		b = binary.BigEndian.AppendUint64(b, uint64(o))
		b = binary.AppendUvarint(b, v[o])
	}
	return b
}

func (r *reader) vector() Vector {
	n := r.count(9)
	v := make(Vector, n)
	for range n {
		o := Origin(r.uint64())
		v[o] = r.uvarint()
	}
	return v
}
