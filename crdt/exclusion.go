package crdt

import (
	"bytes"
	"maps"
	"slices"
)

// Some fields exclude each other that are registers of their own: a key of a ConfigMap is under data or under binaryData, and
// containers that share the processes of their node share none of their own. Two sides may each write one of the two. A merge keeps
// both, because it decides each register alone; readers are shown the one that was written last. That is a function of the document and its stamps,
// and the same on every node. The next write that is made of what is shown takes the other away for good. Until then the
// stamps are not folded: nothing else says which of the two was later.

// exclusion is a pair of fields of which only one may be there.
type exclusion struct{ a, b []string }

// podSpecs is where objects have the description of a pod.
var podSpecs = map[string][]string{
	"pods":                   {"spec"},
	"podtemplates":           {"template", "spec"},
	"replicationcontrollers": {"spec", "template", "spec"},
	"apps/deployments":       {"spec", "template", "spec"},
	"apps/replicasets":       {"spec", "template", "spec"},
	"apps/daemonsets":        {"spec", "template", "spec"},
	"apps/statefulsets":      {"spec", "template", "spec"},
	"batch/jobs":             {"spec", "template", "spec"},
	"batch/cronjobs":         {"spec", "jobTemplate", "spec", "template", "spec"},
}

// exclusions are the pairs of which both are there.
func (d *Document) exclusions() (value map[string]any, pairs []exclusion) {
	spec := podSpecs[d.Key.Resource]
	has := func(s string) bool { return bytes.Contains(d.Value, []byte(s)) }
	switch {
	case d.Key.Resource == "configmaps" && has(`"binaryData":{`) && has(`"data":{`):
	case spec != nil && has(`"hostPID":true`) && has(`"shareProcessNamespace":true`):
	default:
		return nil, nil // as almost always, and at no cost
	}
	value, err := DecodeValue(d.Value)
	if err != nil {
		return nil, nil
	}
	if spec != nil {
		pair := exclusion{append(slices.Clone(spec), "hostPID"), append(slices.Clone(spec), "shareProcessNamespace")}
		if at(value, pair.a) == true && at(value, pair.b) == true {
			pairs = append(pairs, pair)
		}
		return value, pairs
	}
	data, _ := value["data"].(map[string]any)
	binary, _ := value["binaryData"].(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(data)) {
		if binary[k] != nil {
			pairs = append(pairs, exclusion{[]string{"data", k}, []string{"binaryData", k}})
		}
	}
	return value, pairs
}

// at is what a tree has at a path.
func at(value map[string]any, path []string) any {
	for _, name := range path[:len(path)-1] {
		value, _ = value[name].(map[string]any)
	}
	return value[path[len(path)-1]]
}

// hidden are the fields of a document that readers are not shown, as what they lost by; value is what they are shown.
func (d *Document) hidden() (value map[string]any, lost []Loss) {
	if d.Deleted() || d.Stamps.Folded() {
		return nil, nil
	}
	value, pairs := d.exclusions()
	if len(pairs) == 0 {
		return nil, nil
	}
	marks := d.Stamps.tree()
	for _, p := range pairs {
		kept, gone := p.a, p.b
		keptBy, goneBy := marks.stampOf(kept), marks.stampOf(gone)
		if keptBy.Less(goneBy) {
			kept, gone, keptBy, goneBy = gone, kept, goneBy, keptBy
		}
		lost = append(lost, Loss{
			Key: d.Key, Field: pathOf(gone), Kept: shorten(encoded(at(value, kept))), Lost: shorten(encoded(at(value, gone))), KeptBy: keptBy, LostBy: goneBy,
		})
		remove(value, gone)
	}
	return value, lost
}

// Visible is what readers see of a document.
func (d *Document) Visible() []byte {
	value, lost := d.hidden()
	if len(lost) == 0 {
		return d.Value
	}
	raw, err := Canonical(value)
	if err != nil {
		panic("crdt: a value that was decoded does not encode: " + err.Error())
	}
	return raw
}

// HasHidden tells whether there is anything that readers are not shown.
func (d *Document) HasHidden() bool {
	_, lost := d.hidden()
	return len(lost) > 0
}

// newlyHidden is what a merge of two documents into this one has hidden.
func (d *Document) newlyHidden(a, b *Document) []Loss {
	_, now := d.hidden()
	for _, before := range []*Document{a, b} {
		if len(now) == 0 {
			break
		}
		_, was := before.hidden()
		now = slices.DeleteFunc(now, func(l Loss) bool {
			return slices.ContainsFunc(was, func(o Loss) bool { return o.Field == l.Field && o.LostBy == l.LostBy })
		})
	}
	return now
}

// stampOf is when the register at a path was written.
func (m *stampNode) stampOf(path []string) Stamp {
	at := m.at
	for _, name := range path {
		if m = m.child(escape(name)); m == nil {
			break
		}
		at = inherit(m.at, inherit(m.life, at))
	}
	return at
}

func pathOf(path []string) (out string) {
	for _, name := range path {
		out += "/" + escape(name)
	}
	return out
}

// remove takes a field out of a tree, and what is empty then.
func remove(value map[string]any, path []string) {
	if len(path) > 1 {
		below, _ := value[path[0]].(map[string]any)
		if remove(below, path[1:]); len(below) > 0 {
			return
		}
	}
	delete(value, path[0])
}
