package crdt

import (
	"maps"
	"slices"
	"strings"
)

// Stamps say who wrote what of a value, and when: one base for all, and the exceptions by path.
//
// A register that is there was written with the stamp of its path or else of its nearest ancestor, so that an element added
// whole needs one. A register that is not there was removed with the stamp of its path; without one, it never was.
//
// What comes and goes as a whole - an element of a list, a structure replaced by a plain value - has lives. The stamp
// of a life is that of the write that began it, or ended it if nothing is there; what the object was made with has none. All that
// belongs to an earlier life is gone with it, and what has no stamp of its own was written when its life began.
type Stamps struct {
	Base   Stamp
	Fields map[string]Stamp
	Lives  map[string]Stamp
	// Ordered is the order last written of a list that is laid out otherwise: elements are gone from it, and
	// those added by a writer that did not know it follow, sorted by name. Absent: the order is that of the list.
	Ordered map[string][]string
}

// orderName is the name of a list's order register among its elements.
const orderName = "#"

// edit is one register that a write changed.
type edit struct {
	path string
	how  editKind
}

type editKind int

const (
	// written: a plain value was set or removed, or a list's order changed.
	written editKind = iota
	// opened: a plain value, or its absence, made way for a structure, the parts of which are edits of their own.
	opened
	// replaced: a structure made way for a plain value.
	replaced
	// added and removed: an element of a list.
	added
	removed
)

// edit is the stamps after a local write.
func (s Stamps) edit(edits []edit, at Stamp) Stamps {
	out := Stamps{Base: s.Base, Fields: maps.Clone(s.Fields), Lives: maps.Clone(s.Lives), Ordered: maps.Clone(s.Ordered)}
	if out.Fields == nil {
		out.Fields = map[string]Stamp{}
	}
	if out.Lives == nil {
		out.Lives = map[string]Stamp{}
	}
	for _, e := range edits {
		if e.path == "" {
			// Another version or shape: what was known of the parts is of something else.
			return Stamps{Base: at}
		}
		if e.how == opened {
			delete(out.Fields, e.path)
			continue
		}
		life := out.Lives[e.path]
		// A plain value where there was a structure begins a life too: what remembers the structure would outlast it.
		hadParts := out.clear(e.path)
		if list, ok := strings.CutSuffix(e.path, "/"+orderName); ok {
			delete(out.Ordered, list)
		}
		switch {
		case e.how == added, e.how == removed, e.how == replaced, e.how == written && hadParts:
			out.Lives[e.path] = at
		case !life.Zero():
			out.Lives[e.path] = life
		}
		if e.how == written && !hadParts {
			out.Fields[e.path] = at
		}
	}
	return out.lean()
}

// lean is the same without maps that are empty: there are many objects, and few have any.
func (s Stamps) lean() Stamps {
	if len(s.Fields) == 0 {
		s.Fields = nil
	}
	if len(s.Lives) == 0 {
		s.Lives = nil
	}
	if len(s.Ordered) == 0 {
		s.Ordered = nil
	}
	return s
}

// clear forgets what is known at and below a path, and tells whether there was anything below.
func (s *Stamps) clear(path string) (hadParts bool) {
	below := path + "/"
	for _, m := range []map[string]Stamp{s.Fields, s.Lives} {
		delete(m, path)
		for p := range m {
			if strings.HasPrefix(p, below) {
				delete(m, p)
				hadParts = true
			}
		}
	}
	for p := range s.Ordered {
		if p == path || strings.HasPrefix(p, below) {
			delete(s.Ordered, p)
		}
	}
	return hadParts
}

// stampNode is the stamps of one path, and of what is below it. Marks are not changed once they are part of a tree.
type stampNode struct {
	// at is zero if the parent's holds.
	at    Stamp
	life  Stamp
	order []string
	below map[string]*stampNode
}

// stampAt gives the mark its stamp, unless it has it from its life or from above.
func (m *stampNode) stampAt(at, above Stamp) {
	if m.at = at; at == inherit(m.life, above) {
		m.at = Stamp{}
	}
}

// tree is the stamps by path segment. The root's at is the base.
func (s Stamps) tree() *stampNode {
	root := &stampNode{at: s.Base}
	for p, at := range s.Fields {
		root.down(p).at = at
	}
	for p, life := range s.Lives {
		root.down(p).life = life
	}
	for p, names := range s.Ordered {
		root.down(p + "/" + orderName).order = names
	}
	return root
}

func (m *stampNode) down(path string) *stampNode {
	for segment := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		next := m.below[segment]
		if next == nil {
			next = &stampNode{}
			if m.below == nil {
				m.below = map[string]*stampNode{}
			}
			m.below[segment] = next
		}
		m = next
	}
	return m
}

// stamps is the tree by path.
func (m *stampNode) stamps() Stamps {
	out := Stamps{Base: m.at, Fields: map[string]Stamp{}, Lives: map[string]Stamp{}, Ordered: map[string][]string{}}
	var visit func(path string, m *stampNode)
	visit = func(path string, m *stampNode) {
		for segment, c := range m.below {
			p := path + "/" + segment
			if !c.at.Zero() {
				out.Fields[p] = c.at
			}
			if !c.life.Zero() {
				out.Lives[p] = c.life
			}
			if c.order != nil {
				out.Ordered[path] = c.order
			}
			visit(p, c)
		}
	}
	visit("", m)
	return out.lean()
}

func (m *stampNode) child(segment string) *stampNode {
	if m == nil {
		return nil
	}
	return m.below[segment]
}

// put hangs a mark below, unless it says nothing.
func (m *stampNode) put(segment string, c *stampNode) {
	if c == nil || c.at.Zero() && c.life.Zero() && c.order == nil && len(c.below) == 0 {
		return
	}
	if m.below == nil {
		m.below = map[string]*stampNode{}
	}
	m.below[segment] = c
}

// each calls f with every stamp of the tree below and at a mark.
func (m *stampNode) each(f func(Stamp)) {
	if m == nil {
		return
	}
	if !m.at.Zero() {
		f(m.at)
	}
	if !m.life.Zero() {
		f(m.life)
	}
	for _, c := range m.below {
		c.each(f)
	}
}

// union lists the keys of some maps in order.
func union(sets ...[]string) []string {
	var all []string
	for _, s := range sets {
		all = append(all, s...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
