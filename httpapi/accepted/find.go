package accepted

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	core "k8s.io/kubernetes/pkg/apis/core"
)

// step is one field, or one entry of a map, on the way to what rows speak of. The steps of a kind are a tree, so that what several rows
// have in common is walked once.
type step struct {
	name  string // in JSON
	index []int  // of the field in the struct above; nil for an entry of a map
	key   reflect.Value
	begin string // of the keys of entries, where several are meant
	row   *Row
	below []*step
}

// compile makes the tree of rows over a kind's internal type. Paths are those of the external type, whose Go names the internal one shares.
func compile(external, internal reflect.Type, rows map[string]*Row) (*step, error) {
	root := &step{}
	for _, path := range slices.Sorted(maps.Keys(rows)) {
		at, ext, in := root, external, internal
		plain, key, keyed := strings.Cut(strings.TrimSuffix(path, "]"), "[")
		for name := range strings.SplitSeq(plain, ".") {
			ext, in = bare(ext), bare(in)
			field, ok := named(ext, name)
			if !ok {
				return nil, fmt.Errorf("%s has no field %s (of %s)", ext, name, path)
			}
			inner, ok := in.FieldByName(field.Name)
			if !ok {
				return nil, fmt.Errorf("%s has no field %s (of %s)", in, field.Name, path)
			}
			at = at.step(name, inner.Index)
			ext, in = field.Type, inner.Type
		}
		if keyed {
			if in.Kind() != reflect.Map {
				return nil, fmt.Errorf("%s is no map (of %s)", in, path)
			}
			entry := &step{name: "[" + key + "]"}
			if begin, many := strings.CutSuffix(key, "*"); many {
				if in != reflect.TypeFor[core.ResourceList]() {
					return nil, fmt.Errorf("%s is no list of resources (of %s)", in, path)
				}
				entry.begin = begin
			} else {
				entry.key = reflect.ValueOf(key).Convert(in.Key())
			}
			at.below = append(at.below, entry)
			at = entry
		}
		at.row = rows[path]
	}
	return root, nil
}

func (s *step) step(name string, index []int) *step {
	for _, b := range s.below {
		if b.name == name {
			return b
		}
	}
	b := &step{name: name, index: index}
	s.below = append(s.below, b)
	return b
}

// bare is the struct that a type is about.
func bare(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

// named finds a field by its name in JSON.
func named(t reflect.Type, name string) (reflect.StructField, bool) {
	if t.Kind() != reflect.Struct {
		return reflect.StructField{}, false
	}
	for i := range t.NumField() {
		f := t.Field(i)
		switch tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); {
		case tag == name:
			return f, true
		case tag == "" && f.Anonymous:
			if f, ok := named(f.Type, name); ok {
				return f, true
			}
		}
	}
	return reflect.StructField{}, false
}

// hit is a field that is set and that a row says something of.
type hit struct {
	row   *Row
	path  string
	value reflect.Value
}

// look walks an object and appends what is set. It allocates only for what it finds: paths are made on the way back.
func (s *step) look(v reflect.Value, hits []hit) []hit {
	for v.Kind() == reflect.Pointer && (s.row == nil || len(s.below) > 0) {
		if v.IsNil() {
			return hits
		}
		v = v.Elem()
	}
	if s.row != nil && s.row.set(v) {
		hits = append(hits, hit{row: s.row, path: s.row.leaf, value: v})
	}
	if len(s.below) == 0 {
		return hits
	}
	if v.Kind() != reflect.Slice {
		return s.fields(v, hits)
	}
	for i := range v.Len() {
		had := len(hits)
		hits = s.fields(v.Index(i), hits)
		for j := had; j < len(hits); j++ {
			hits[j].path = join("["+strconv.Itoa(i)+"]", hits[j].path)
		}
	}
	return hits
}

func (s *step) fields(v reflect.Value, hits []hit) []hit {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return hits
		}
		v = v.Elem()
	}
	for _, b := range s.below {
		had := len(hits)
		if b.begin != "" {
			hits = b.entries(v, hits)
			continue
		}
		switch {
		case len(b.index) == 1:
			hits = b.look(v.Field(b.index[0]), hits)
		case b.index != nil:
			hits = b.look(v.FieldByIndex(b.index), hits)
		case v.Len() > 0:
			if entry := v.MapIndex(b.key); entry.IsValid() {
				hits = b.look(entry, hits)
			}
		}
		for j := had; j < len(hits); j++ {
			hits[j].path = join(b.name, hits[j].path)
		}
	}
	return hits
}

// entries looks at those of a map whose keys begin as the step says.
func (s *step) entries(v reflect.Value, hits []hit) []hit {
	var keys []string
	for k := range v.Interface().(core.ResourceList) { // which allocates nothing
		if strings.HasPrefix(string(k), s.begin) {
			keys = append(keys, string(k))
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		had := len(hits)
		hits = s.look(v.MapIndex(reflect.ValueOf(k).Convert(v.Type().Key())), hits)
		for j := had; j < len(hits); j++ {
			hits[j].path = join("["+k+"]", hits[j].path)
		}
	}
	return hits
}

// set tells whether a field asks for something.
func (r *Row) set(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		if v.Len() == 0 {
			return false
		}
	default:
		if v.IsZero() {
			return false
		}
	}
	if r.asks == nil && len(r.Unless) == 0 {
		return true
	}
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if r.asks != nil {
		return r.asks(v.Addr().Interface())
	}
	return v.Kind() != reflect.String || !slices.Contains(r.Unless, v.String())
}

// fresh are the hits that are not among others.
func fresh(now, before []hit) []hit {
	if len(before) == 0 {
		return now
	}
	return slices.DeleteFunc(now, func(h hit) bool {
		return slices.ContainsFunc(before, func(b hit) bool {
			return b.row == h.row && b.value.Type() == h.value.Type() && equality.Semantic.DeepEqual(b.value.Interface(), h.value.Interface())
		})
	})
}
