package crdt

import (
	"bytes"
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// countersOf is a VersionVector as Counters.
func countersOf(v VersionVector) Counters {
	var t Counters
	for _, o := range v.Origins() {
		t = append(t, Counter{o, v[o]})
	}
	return t
}

func vectorOf(t Counters) VersionVector {
	v := VersionVector{}
	for _, c := range t {
		v[c.Origin] = c.N
	}
	return v
}

// Counters say what a VersionVector says, in the same bytes.
func TestTallyIsAVector(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(name string) VersionVector {
			return rapid.MapOfN(rapid.Map(rapid.Uint64Range(1, 6), func(o uint64) Origin { return Origin(o) }), rapid.Uint64Range(1, 5), 0, 5).Draw(rt, name)
		}
		v, w := draw("v"), draw("w")
		a, b := countersOf(v), countersOf(w)
		o, n := Origin(rapid.Uint64Range(1, 6).Draw(rt, "origin")), rapid.Uint64Range(1, 9).Draw(rt, "n")
		with := maps.Clone(v)
		with[o] = n
		for name, ok := range map[string]bool{
			"Covers": a.Covers(b) == v.Covers(w), "contains": v.Contains(b) == v.Covers(w), "equal": a.Equal(b) == maps.Equal(v, w),
			"join": maps.Equal(vectorOf(a.join(b)), v.Join(w)), "with": maps.Equal(vectorOf(a.With(o, n)), with), "of": a.Get(o) == v[o],
			"unchanged": maps.Equal(vectorOf(a), v) && maps.Equal(vectorOf(b), w),
			"append":    bytes.Equal(a.join(b).Append(nil), v.Join(w).Append(nil)) && bytes.Equal(a.With(o, n).Append(nil), with.Append(nil)),
		} {
			if !ok {
				rt.Errorf("%s differs for %v and %v", name, v, w)
			}
		}
		r := &Decoder{Rest: a.Append(nil)}
		if back := r.Counters(); r.Err != nil || !back.Equal(a) {
			rt.Errorf("%v comes back as %v, %v", a, back, r.Err)
		}
	})
	r := &Decoder{Rest: Counters{{2, 1}, {1, 1}}.Append(nil)}
	if r.Counters(); r.Err == nil {
		t.Error("another order is read")
	}
}
