package crdt

import (
	"bytes"
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// tallyOf is a Vector as a tally.
func tallyOf(v Vector) tally {
	var t tally
	for _, o := range v.origins() {
		t = append(t, count{o, v[o]})
	}
	return t
}

func vectorOf(t tally) Vector {
	v := Vector{}
	for _, c := range t {
		v[c.origin] = c.n
	}
	return v
}

// A tally says what a Vector says, in the same bytes.
func TestTallyIsAVector(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(name string) Vector {
			return rapid.MapOfN(rapid.Map(rapid.Uint64Range(1, 6), func(o uint64) Origin { return Origin(o) }), rapid.Uint64Range(1, 5), 0, 5).Draw(rt, name)
		}
		v, w := draw("v"), draw("w")
		a, b := tallyOf(v), tallyOf(w)
		o, n := Origin(rapid.Uint64Range(1, 6).Draw(rt, "origin")), rapid.Uint64Range(1, 9).Draw(rt, "n")
		with := maps.Clone(v)
		with[o] = n
		for name, ok := range map[string]bool{
			"Covers": a.Covers(b) == v.Covers(w), "contains": v.contains(b) == v.Covers(w), "equal": a.equal(b) == maps.Equal(v, w),
			"join": maps.Equal(vectorOf(a.join(b)), v.join(w)), "with": maps.Equal(vectorOf(a.with(o, n)), with), "of": a.of(o) == v[o],
			"unchanged": maps.Equal(vectorOf(a), v) && maps.Equal(vectorOf(b), w),
			"append":    bytes.Equal(a.join(b).append(nil), v.join(w).append(nil)) && bytes.Equal(a.with(o, n).append(nil), with.append(nil)),
		} {
			if !ok {
				rt.Errorf("%s differs for %v and %v", name, v, w)
			}
		}
		r := &reader{b: a.append(nil)}
		if back := r.tally(); r.err != nil || !back.equal(a) {
			rt.Errorf("%v comes back as %v, %v", a, back, r.err)
		}
	})
	r := &reader{b: tally{{2, 1}, {1, 1}}.append(nil)}
	if r.tally(); r.err == nil {
		t.Error("another order is read")
	}
}
