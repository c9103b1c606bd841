package crdt

import (
	"encoding/binary"
	"slices"
)

// tally says of some origins a number each: of a document, which commits it contains, or when they were made. It is a Vector for what there are
// many of, each of them short: sorted by origin, and never changed.
type tally []count

type count struct {
	origin Origin
	n      uint64
}

// of is an origin's number; 0 if there is none.
func (t tally) of(o Origin) uint64 {
	for _, c := range t {
		if c.origin == o {
			return c.n
		}
	}
	return 0
}

// Covers tells whether t contains everything that o contains.
func (t tally) Covers(o tally) bool {
	for _, c := range o {
		if t.of(c.origin) < c.n {
			return false
		}
	}
	return true
}

func (t tally) equal(o tally) bool { return slices.Equal(t, o) }

func (t tally) join(o tally) tally {
	switch {
	case t.Covers(o):
		return t
	case o.Covers(t):
		return o
	}
	out := make(tally, 0, len(t)+len(o))
	for len(t) > 0 && len(o) > 0 {
		switch a, b := t[0], o[0]; {
		case a.origin < b.origin:
			out, t = append(out, a), t[1:]
		case b.origin < a.origin:
			out, o = append(out, b), o[1:]
		default:
			out, t, o = append(out, count{a.origin, max(a.n, b.n)}), t[1:], o[1:]
		}
	}
	return slices.Clip(append(append(out, t...), o...))
}

func (t tally) with(origin Origin, n uint64) tally {
	i := 0
	for i < len(t) && t[i].origin < origin {
		i++
	}
	rest := t[i:]
	if len(rest) > 0 && rest[0].origin == origin {
		rest = rest[1:]
	}
	out := make(tally, 0, i+1+len(rest))
	return append(append(append(out, t[:i]...), count{origin, n}), rest...)
}

func (t tally) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t)))
	for _, c := range t {
		b = binary.BigEndian.AppendUint64(b, uint64(c.origin))
		b = binary.AppendUvarint(b, c.n)
	}
	return b
}

// tally reads what append, or that of a Vector, has written. There is one encoding of each.
func (r *reader) tally() tally {
	n := r.count(9)
	if n == 0 {
		return nil
	}
	t := make(tally, n)
	for i := range t {
		t[i] = count{Origin(r.uint64()), r.uvarint()}
		if i > 0 && t[i].origin <= t[i-1].origin {
			r.fail()
			return nil
		}
	}
	return t
}
