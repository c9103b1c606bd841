package crdt

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// ShapeField is a field at the top of an object of a kind that is not built in, by which it says itself how it is merged: what
// its lists are, and which of its maps are taken whole. A merge knows nothing but the two documents, so nodes that
// have other definitions of the kind, or none yet, merge the same.
const ShapeField = "shape.murmur.io"

// Shape is what an object says under ShapeField. Without one, maps are merged by key and lists are taken whole.
type Shape struct {
	// Epoch counts the changes of an object's shape, and of its version. It grows with every one, so that of two documents
	// that differ in it one is known to be the later, whatever came first on the clock.
	Epoch int64
	// Lists has the keys of lists that are merged by their elements; of a list that is a set it has none. Paths are of field
	// names, as in "/spec/ports"; "*" stands for any element or key.
	Lists map[string][]string
	// Atomic are paths of maps that are taken whole.
	Atomic []string
}

// Value is the shape as it stands in an object; nil if it says nothing.
func (s Shape) Value() map[string]any {
	if s.Epoch == 0 && len(s.Lists) == 0 && len(s.Atomic) == 0 {
		return nil
	}
	out := map[string]any{"epoch": s.Epoch}
	if len(s.Lists) > 0 {
		lists := make(map[string]any, len(s.Lists))
		for path, keys := range s.Lists {
			list := make([]any, len(keys))
			for i, k := range keys {
				list[i] = k
			}
			lists[path] = list
		}
		out["lists"] = lists
	}
	if len(s.Atomic) > 0 {
		atomic := make([]any, len(s.Atomic))
		for i, path := range slices.Sorted(slices.Values(s.Atomic)) {
			atomic[i] = path
		}
		out["atomic"] = atomic
	}
	return out
}

// ShapeOf is the shape that an object has. What is no shape says nothing.
func ShapeOf(value map[string]any) Shape {
	said, _ := value[ShapeField].(map[string]any)
	out := Shape{}
	out.Epoch, _ = said["epoch"].(int64)
	lists, _ := said["lists"].(map[string]any)
	for path, v := range lists {
		list, _ := v.([]any)
		keys := []string{}
		for _, k := range list {
			if name, ok := k.(string); ok {
				keys = append(keys, name)
			}
		}
		if out.Lists == nil {
			out.Lists = map[string][]string{}
		}
		out.Lists[path] = keys
	}
	atomic, _ := said["atomic"].([]any)
	for _, v := range atomic {
		if path, ok := v.(string); ok {
			out.Atomic = append(out.Atomic, path)
		}
	}
	return out
}

// Same tells whether two shapes say the same, whenever they began to.
func (s Shape) Same(o Shape) bool {
	return maps.EqualFunc(s.Lists, o.Lists, slices.Equal) &&
		slices.Equal(slices.Sorted(slices.Values(s.Atomic)), slices.Sorted(slices.Values(o.Atomic)))
}

// shapeNode is a shape by path: what an object says of a place, and below it.
type shapeNode struct {
	shape shape
	keys  []string
	below map[string]*shapeNode
}

func (s Shape) noted() *shapeNode {
	root := &shapeNode{shape: fields}
	at := func(path string) *shapeNode {
		n := root
		for segment := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
			segment = unescape(segment)
			next := n.below[segment]
			if next == nil {
				next = &shapeNode{shape: fields}
				if n.below == nil {
					n.below = map[string]*shapeNode{}
				}
				n.below[segment] = next
			}
			n = next
		}
		return n
	}
	for path, keys := range s.Lists {
		n := at(path)
		n.shape, n.keys = keyed, keys
		if len(keys) == 0 {
			n.shape = set
		}
	}
	for _, path := range s.Atomic {
		if n := at(path); n != root {
			n.shape = register
		}
	}
	return root
}

// under is what is said of a field or element.
func (n *shapeNode) under(name string) *shapeNode {
	if n == nil {
		return nil
	}
	if below := n.below[name]; below != nil {
		return below
	}
	return n.below["*"]
}

// compareTypes orders values by what they are: objects of different kinds, versions or shapes are never mixed, the greater is taken
// whole. An object's own history only climbs, for a change of the version or the shape comes with a greater epoch.
func compareTypes(a, b map[string]any) int {
	text := func(v map[string]any, k string) string { t, _ := v[k].(string); return t }
	epoch := func(v map[string]any) int64 {
		said, _ := v[ShapeField].(map[string]any)
		n, _ := said["epoch"].(int64)
		return n
	}
	if c := cmp.Or(cmp.Compare(epoch(a), epoch(b)), cmp.Compare(text(a, "apiVersion"), text(b, "apiVersion")), cmp.Compare(text(a, "kind"), text(b, "kind"))); c != 0 {
		return c
	}
	if a[ShapeField] == nil && b[ShapeField] == nil {
		return 0
	}
	return bytes.Compare(shapeBytes(a), shapeBytes(b))
}

func shapeBytes(v map[string]any) []byte {
	b, err := json.Marshal(v[ShapeField]) // keys sorted
	if err != nil {
		return nil
	}
	return b
}
