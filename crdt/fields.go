package crdt

import (
	"maps"
	"reflect"
	"slices"
)

// changed lists the registers in which two values differ.
func changed(n node, path string, a, b any, out []edit) []edit {
	if path == "" && retyped(a, b) {
		return append(out, edit{path, replaced})
	}
	as, bs := n.structured(path, a), n.structured(path, b)
	switch {
	case !as && !bs:
		if !reflect.DeepEqual(a, b) && !(n.empty(path, a) && n.empty(path, b)) {
			out = append(out, edit{path, written})
		}
		return out
	case as && !bs && !n.empty(path, b):
		return append(out, edit{path, replaced})
	case bs && !as:
		out = append(out, edit{path, opened})
		a = nil
	}
	if n.shape(path) == fields {
		am, _ := a.(map[string]any)
		bm, _ := b.(map[string]any)
		for _, name := range union(segments(am), segments(bm)) {
			k := unescape(name)
			out = changed(n.field(k), path+"/"+name, am[k], bm[k], out)
		}
		return out
	}
	al, _ := a.([]any)
	bl, _ := b.([]any)
	an, bn := n.index(path, al), n.index(path, bl)
	ae, be := elements(an, al), elements(bn, bl)
	for _, name := range union(an, bn) {
		_, inA := ae[name]
		_, inB := be[name]
		switch p := path + "/" + name; {
		case !inA:
			out = append(out, edit{p, added})
		case !inB:
			out = append(out, edit{p, removed})
		default:
			out = changed(n.element(), p, ae[name], be[name], out)
		}
	}
	if !slices.Equal(an, bn) {
		out = append(out, edit{path + "/" + orderName, written})
	}
	return out
}

// retyped tells whether an object became one of another version or shape.
func retyped(a, b any) bool {
	am, aok := a.(map[string]any)
	bm, bok := b.(map[string]any)
	return aok && bok && compareTypes(am, bm) != 0
}

// empty tells whether a value says nothing: an empty structure of a known type is as good as none.
func (n node) empty(path string, v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0 && n.known && n.shape(path) == fields
	case []any:
		s := n.shape(path)
		return len(v) == 0 && n.known && (s == keyed || s == set)
	}
	return false
}

// prune takes out of a value what is empty.
func prune(n node, path string, v any) any {
	if n.empty(path, v) {
		return nil
	}
	if !n.structured(path, v) {
		return v
	}
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, f := range v {
			if f = prune(n.field(k), path+"/"+escape(k), f); f != nil {
				out[k] = f
			}
		}
		if n.empty(path, out) {
			return nil
		}
		return out
	case []any:
		out := make([]any, len(v))
		names := n.index(path, v)
		for i, e := range v {
			if out[i] = prune(n.element(), path+"/"+names[i], e); out[i] == nil {
				out[i] = e
			}
		}
		return out
	}
	return v
}

// graft sets the registers at which from and to differ in onto to to's values: the change carries over to another value.
func graft(n node, path string, from, to, onto any) any {
	if reflect.DeepEqual(from, to) {
		return onto
	}
	fm, fok := from.(map[string]any)
	tm, tok := to.(map[string]any)
	om, ook := onto.(map[string]any)
	if !tok || n.shape(path) != fields || !fok && from != nil || !ook && onto != nil {
		return to
	}
	out := maps.Clone(om)
	if out == nil {
		out = map[string]any{}
	}
	for _, k := range union(slices.Collect(maps.Keys(fm)), slices.Collect(maps.Keys(tm))) {
		if v := graft(n.field(k), path+"/"+escape(k), fm[k], tm[k], om[k]); v != nil {
			out[k] = v
		} else {
			delete(out, k)
		}
	}
	return out
}
