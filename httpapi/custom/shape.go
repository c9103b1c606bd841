package custom

import (
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"murmur/crdt"
	"murmur/crdt/store"
)

// shapeOf is how objects of a schema are merged when two nodes have written to one: as server-side apply takes them apart. A
// value that must be one of several is taken whole, because two writers may have chosen differently.
func shapeOf(s *structuralschema.Structural) crdt.Shape {
	out := crdt.Shape{}
	if s == nil {
		return out
	}
	for name, p := range s.Properties {
		if name != "metadata" && name != "status" { // the one is as everywhere, the other has one owner
			shapeBelow(&p, "/"+crdt.Segment(name), &out)
		}
	}
	return out
}

func shapeBelow(s *structuralschema.Structural, path string, out *crdt.Shape) {
	if path == "/*" || s == nil {
		return
	}
	switch {
	case s.XListType != nil && (*s.XListType == "map" || *s.XListType == "set"):
		if out.Lists == nil {
			out.Lists = map[string][]string{}
		}
		out.Lists[path] = append([]string{}, s.XListMapKeys...)
		shapeBelow(s.Items, path+"/*", out)
		return
	case s.XMapType != nil && *s.XMapType == "atomic", s.Type == "object" && s.ValueValidation != nil && len(s.ValueValidation.OneOf) > 0:
		out.Atomic = append(out.Atomic, path)
		return
	case s.Type == "array":
		return // whole, with all that is in it
	}
	for name, p := range s.Properties {
		if name != "*" {
			shapeBelow(&p, path+"/"+crdt.Segment(name), out)
		}
	}
	if s.AdditionalProperties != nil {
		shapeBelow(s.AdditionalProperties.Structural, path+"/*", out)
	}
}

// note writes into an object that is stored how it is merged.
func (c *served) note(u *unstructured.Unstructured, base *store.Entry) error {
	shape := c.shape
	if base != nil {
		have, err := base.Map()
		if err != nil {
			return err
		}
		was := crdt.ShapeOf(have)
		if shape.Epoch = was.Epoch; !shape.Same(was) || have["apiVersion"] != u.GetAPIVersion() {
			shape.Epoch++
		}
	}
	delete(u.Object, crdt.ShapeField)
	if v := shape.Value(); v != nil {
		u.Object[crdt.ShapeField] = v
	}
	return nil
}
