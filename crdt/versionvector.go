package crdt

import (
	"encoding/binary"
	"maps"
	"slices"
)

// VersionVector says, per origin, up to which sequence number something contains that origin's commits. A store's is free of gaps. What
// a document contains is kept in Counters.
type VersionVector map[Origin]uint64

// Covers tells whether v contains everything that o contains.
func (v VersionVector) Covers(o VersionVector) bool {
	for origin, seq := range o {
		if v[origin] < seq {
			return false
		}
	}
	return true
}

// Contains tells whether v contains all commits that a document names.
func (v VersionVector) Contains(t Counters) bool {
	for _, c := range t {
		if v[c.Origin] < c.N {
			return false
		}
	}
	return true
}

// ContainsAny tells whether v contains a commit that a document names.
func (v VersionVector) ContainsAny(t Counters) bool {
	for _, c := range t {
		if v[c.Origin] >= c.N {
			return true
		}
	}
	return false
}

func (v VersionVector) Join(o VersionVector) VersionVector {
	out := maps.Clone(v)
	if out == nil {
		out = VersionVector{}
	}
	for origin, seq := range o {
		out[origin] = max(out[origin], seq)
	}
	return out
}

// Meet is what both contain.
func (v VersionVector) Meet(o VersionVector) VersionVector {
	out := VersionVector{}
	for origin, seq := range v {
		if both := min(seq, o[origin]); both > 0 {
			out[origin] = both
		}
	}
	return out
}

// Origins lists the origins in ascending order, so that encodings are canonical.
func (v VersionVector) Origins() []Origin { return slices.Sorted(maps.Keys(v)) }

func (v VersionVector) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	for _, o := range v.Origins() {
		b = binary.BigEndian.AppendUint64(b, uint64(o))
		b = binary.AppendUvarint(b, v[o])
	}
	return b
}

func (r *Decoder) VersionVector() VersionVector {
	n := r.Count(9)
	v := make(VersionVector, n)
	for range n {
		o := Origin(r.Uint64())
		v[o] = r.Uvarint()
	}
	return v
}
