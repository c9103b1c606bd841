package crdt

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// stamps say who wrote each register of a value last: one base for all, and the exceptions. A path without an
// exception of its own has that of its nearest ancestor, so that a list element added whole needs only one. An exception
// at a path where there is no value remembers a removal.
type stamps struct {
	base   Stamp
	fields map[string]Stamp
	// ordered is the order last written of a merged list that is laid out otherwise: elements are gone from it, and
	// those added by a writer that did not know it follow, sorted by name. Absent: the order is that of the list.
	ordered map[string][]string
}

// orderSuffix makes the path of a list the path of its order register.
const orderSuffix = "/#"

// cover is the stamp of a path, and whether it comes from an exception.
func (s *stamps) cover(path string) (Stamp, bool) {
	for p := path; ; {
		if st, ok := s.fields[p]; ok {
			return st, true
		}
		i := strings.LastIndexByte(p, '/')
		if i <= 0 {
			return s.base, false
		}
		p = p[:i]
	}
}

// set records that everything at and below a path was written at once.
func (s *stamps) set(path string, at Stamp) {
	if s.fields == nil {
		s.fields = map[string]Stamp{}
	}
	below := path + "/"
	for p := range s.fields {
		if strings.HasPrefix(p, below) {
			delete(s.fields, p)
		}
	}
	for p := range s.ordered {
		if p == path || strings.HasPrefix(p, below) {
			delete(s.ordered, p)
		}
	}
	s.fields[path] = at
}

func (s stamps) clone() stamps {
	s.fields = maps.Clone(s.fields)
	s.ordered = maps.Clone(s.ordered)
	return s
}

// edit is the stamps after a local write that changed the registers at paths.
func (s stamps) edit(paths []string, at Stamp) stamps {
	out := s.clone()
	for _, p := range paths {
		if list, ok := strings.CutSuffix(p, orderSuffix); ok {
			delete(out.ordered, list)
		}
		out.set(p, at)
	}
	return out
}

// changed lists the registers in which two values differ: paths of fields, list elements and list orders.
func changed(n node, path string, a, b any, out []string) []string {
	switch n.shapeOf(path, a, b) {
	case fields:
		am, _ := a.(map[string]any)
		bm, _ := b.(map[string]any)
		if len(am) == 0 && len(bm) == 0 {
			if (a == nil) != (b == nil) {
				out = append(out, path)
			}
			return out
		}
		for _, k := range unionKeys(am, bm) {
			out = changed(n.field(k), path+"/"+escape(k), am[k], bm[k], out)
		}
	case keyed, set:
		al, _ := a.([]any)
		bl, _ := b.([]any)
		if len(al) == 0 && len(bl) == 0 {
			if (a == nil) != (b == nil) {
				out = append(out, path)
			}
			return out
		}
		an, _ := n.index(path, al)
		bn, _ := n.index(path, bl)
		ai, bi := positions(an), positions(bn)
		for _, name := range unionKeys(ai, bi) {
			i, inA := ai[name]
			j, inB := bi[name]
			if inA && inB {
				out = changed(n.element(), path+"/"+name, al[i], bl[j], out)
			} else {
				out = append(out, path+"/"+name)
			}
		}
		if !slices.Equal(an, bn) {
			out = append(out, path+orderSuffix)
		}
	default:
		if !reflect.DeepEqual(a, b) {
			out = append(out, path)
		}
	}
	return out
}

// graft sets the registers at which from and to differ in onto to to's values: the change carries over to another value.
func graft(n node, path string, from, to, onto any) any {
	if reflect.DeepEqual(from, to) {
		return onto
	}
	switch n.shapeOf(path, from, to, onto) {
	case fields:
		fm, _ := from.(map[string]any)
		tm, _ := to.(map[string]any)
		om, _ := onto.(map[string]any)
		if to == nil {
			return nil
		}
		out := maps.Clone(om)
		if out == nil {
			out = map[string]any{}
		}
		for _, k := range unionKeys(fm, tm) {
			if v := graft(n.field(k), path+"/"+escape(k), fm[k], tm[k], om[k]); v != nil {
				out[k] = v
			} else {
				delete(out, k)
			}
		}
		return out
	default:
		return to
	}
}

func unionKeys[V any](a, b map[string]V) []string {
	keys := make([]string, 0, len(a)+len(b))
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

func positions(names []string) map[string]int {
	m := make(map[string]int, len(names))
	for i, n := range names {
		m[n] = i
	}
	return m
}
