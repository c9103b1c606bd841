package crdt

import (
	"maps"
	"reflect"
	"slices"
)

// changed lists the registers in which two values differ.
func changed(n schemaNode, path string, a, b any, out []edit) []edit {
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
func (n schemaNode) empty(path string, v any) bool {
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
func prune(n schemaNode, path string, v any) any {
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

// graft makes the change from from to to on onto. It looks closer than a merge: onto is what this node makes of from for its own
// readers, in fields of a status and elements of a list as well, and these have no stamps of their own to be mixed by.
func graft(n schemaNode, path string, from, to, onto any) any {
	switch {
	case reflect.DeepEqual(from, to):
		return onto
	case reflect.DeepEqual(from, onto):
		return to
	}
	switch to := to.(type) {
	case map[string]any:
		fm, fok := from.(map[string]any)
		om, ook := onto.(map[string]any)
		if !fok && from != nil || !ook && onto != nil {
			return to
		}
		return graftFields(n, path, fm, to, om)
	case []any:
		fl, fok := from.([]any)
		ol, ook := onto.([]any)
		if !fok && from != nil || !ook && onto != nil {
			return to
		}
		return graftList(n, path, fl, to, ol)
	}
	return to
}

func graftFields(n schemaNode, path string, from, to, onto map[string]any) any {
	out := maps.Clone(onto)
	if out == nil {
		out = map[string]any{}
	}
	for _, k := range union(slices.Collect(maps.Keys(from)), slices.Collect(maps.Keys(to))) {
		if v := graft(n.field(k), path+"/"+escape(k), from[k], to[k], onto[k]); v != nil {
			out[k] = v
		} else {
			delete(out, k)
		}
	}
	return out
}

// graftList takes the elements in to's order, those that only onto has behind them. Elements of lists without keys are what they are.
func graftList(n schemaNode, path string, from, to, onto []any) any {
	var keys []string
	if n.declared(path) == keyed {
		keys = n.keys(path)
	}
	fn, tn, on := index(keys, from), index(keys, to), index(keys, onto)
	fe, te, oe := elements(fn, from), elements(tn, to), elements(on, onto)
	out := make([]any, 0, len(to)+len(onto))
	for _, e := range tn {
		if v := graft(n.element(), path+"/"+e, fe[e], te[e], oe[e]); v != nil {
			out = append(out, v)
		}
	}
	for _, e := range on {
		if fe[e] == nil && te[e] == nil {
			out = append(out, oe[e])
		}
	}
	if len(out) == 0 && len(to) > 0 {
		return nil
	}
	return out
}
