package crdt

import (
	"encoding/binary"
	"slices"
)

// Counters says of some origins a number each: of a document, which commits it contains, or when they were made. It is a Vector for what there are
// many of, each of them short: sorted by origin, and never changed.
type Counters []Counter

type Counter struct {
	Origin Origin
	N      uint64
}

// Get is an origin's number; 0 if there is none.
func (t Counters) Get(o Origin) uint64 {
	for _, c := range t {
		if c.Origin == o {
			return c.N
		}
	}
	return 0
}

// Covers tells whether t contains everything that o contains.
func (t Counters) Covers(o Counters) bool {
	for _, c := range o {
		if t.Get(c.Origin) < c.N {
			return false
		}
	}
	return true
}

func (t Counters) Equal(o Counters) bool { return slices.Equal(t, o) }

func (t Counters) join(o Counters) Counters {
	switch {
	case t.Covers(o):
		return t
	case o.Covers(t):
		return o
	}
	out := make(Counters, 0, len(t)+len(o))
	for len(t) > 0 && len(o) > 0 {
		switch a, b := t[0], o[0]; {
		case a.Origin < b.Origin:
			out, t = append(out, a), t[1:]
		case b.Origin < a.Origin:
			out, o = append(out, b), o[1:]
		default:
			out, t, o = append(out, Counter{a.Origin, max(a.N, b.N)}), t[1:], o[1:]
		}
	}
	return slices.Clip(append(append(out, t...), o...))
}

func (t Counters) With(origin Origin, n uint64) Counters {
	i := 0
	for i < len(t) && t[i].Origin < origin {
		i++
	}
	rest := t[i:]
	if len(rest) > 0 && rest[0].Origin == origin {
		rest = rest[1:]
	}
	out := make(Counters, 0, i+1+len(rest))
	return append(append(append(out, t[:i]...), Counter{origin, n}), rest...)
}

func (t Counters) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t)))
	for _, c := range t {
		b = binary.BigEndian.AppendUint64(b, uint64(c.Origin))
		b = binary.AppendUvarint(b, c.N)
	}
	return b
}

// Counters reads what append, or that of a Vector, has written. There is one encoding of each.
func (r *Decoder) Counters() Counters {
	n := r.Count(9)
	if n == 0 {
		return nil
	}
	t := make(Counters, n)
	for i := range t {
		t[i] = Counter{Origin(r.Uint64()), r.Uvarint()}
		if i > 0 && t[i].Origin <= t[i-1].Origin {
			r.Fail()
			return nil
		}
	}
	return t
}
