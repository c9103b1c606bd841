package crdt

import (
	"maps"
	"slices"
	"strings"
)

// stamps say who wrote what of a value, and when: one base for all, and the exceptions by path.
//
// A register that is there was written with the stamp of its path or else of its nearest ancestor, so that an element added
// whole needs one. A register that is not there was removed with the stamp of its path; without one, it never was.
//
// What comes and goes as a whole - an element of a list, a structure replaced by a plain value - has lives. The stamp
// of a life is that of the write that began it, or ended it if nothing is there; what the object was made with has none. All that
// belongs to an earlier life is gone with it, and what has no stamp of its own was written when its life began.
type stamps struct {
	base   Stamp
	fields map[string]Stamp
	lives  map[string]Stamp
	// ordered is the order last written of a list that is laid out otherwise: elements are gone from it, and
	// those added by a writer that did not know it follow, sorted by name. Absent: the order is that of the list.
	ordered map[string][]string
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
func (s stamps) edit(edits []edit, at Stamp) stamps {
	out := stamps{base: s.base, fields: maps.Clone(s.fields), lives: maps.Clone(s.lives), ordered: maps.Clone(s.ordered)}
	if out.fields == nil {
		out.fields = map[string]Stamp{}
	}
	if out.lives == nil {
		out.lives = map[string]Stamp{}
	}
	for _, e := range edits {
		if e.path == "" {
			// Another version or shape: what was known of the parts is of something else.
			return stamps{base: at}
		}
		if e.how == opened {
			delete(out.fields, e.path)
			continue
		}
		life := out.lives[e.path]
		// A plain value where there was a structure begins a life too: what remembers the structure would outlast it.
		hadParts := out.clear(e.path)
		if list, ok := strings.CutSuffix(e.path, "/"+orderName); ok {
			delete(out.ordered, list)
		}
		switch {
		case e.how == added, e.how == removed, e.how == replaced, e.how == written && hadParts:
			out.lives[e.path] = at
		case !life.Zero():
			out.lives[e.path] = life
		}
		if e.how == written && !hadParts {
			out.fields[e.path] = at
		}
	}
	return out.lean()
}

// lean is the same without maps that are empty: there are many objects, and few have any.
func (s stamps) lean() stamps {
	if len(s.fields) == 0 {
		s.fields = nil
	}
	if len(s.lives) == 0 {
		s.lives = nil
	}
	if len(s.ordered) == 0 {
		s.ordered = nil
	}
	return s
}

// clear forgets what is known at and below a path, and tells whether there was anything below.
func (s *stamps) clear(path string) (hadParts bool) {
	below := path + "/"
	for _, m := range []map[string]Stamp{s.fields, s.lives} {
		delete(m, path)
		for p := range m {
			if strings.HasPrefix(p, below) {
				delete(m, p)
				hadParts = true
			}
		}
	}
	for p := range s.ordered {
		if p == path || strings.HasPrefix(p, below) {
			delete(s.ordered, p)
		}
	}
	return hadParts
}

// mark is the stamps of one path, and of what is below it. Marks are not changed once they are part of a tree.
type mark struct {
	// at is zero if the parent's holds.
	at    Stamp
	life  Stamp
	order []string
	below map[string]*mark
}

// stampAt gives the mark its stamp, unless it has it from its life or from above.
func (m *mark) stampAt(at, above Stamp) {
	if m.at = at; at == inherit(m.life, above) {
		m.at = Stamp{}
	}
}

// tree is the stamps by path segment. The root's at is the base.
func (s stamps) tree() *mark {
	root := &mark{at: s.base}
	for p, at := range s.fields {
		root.down(p).at = at
	}
	for p, life := range s.lives {
		root.down(p).life = life
	}
	for p, names := range s.ordered {
		root.down(p + "/" + orderName).order = names
	}
	return root
}

func (m *mark) down(path string) *mark {
	for segment := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		next := m.below[segment]
		if next == nil {
			next = &mark{}
			if m.below == nil {
				m.below = map[string]*mark{}
			}
			m.below[segment] = next
		}
		m = next
	}
	return m
}

// stamps is the tree by path.
func (m *mark) stamps() stamps {
	out := stamps{base: m.at, fields: map[string]Stamp{}, lives: map[string]Stamp{}, ordered: map[string][]string{}}
	var visit func(path string, m *mark)
	visit = func(path string, m *mark) {
		for segment, c := range m.below {
			p := path + "/" + segment
			if !c.at.Zero() {
				out.fields[p] = c.at
			}
			if !c.life.Zero() {
				out.lives[p] = c.life
			}
			if c.order != nil {
				out.ordered[path] = c.order
			}
			visit(p, c)
		}
	}
	visit("", m)
	return out.lean()
}

func (m *mark) child(segment string) *mark {
	if m == nil {
		return nil
	}
	return m.below[segment]
}

// put hangs a mark below, unless it says nothing.
func (m *mark) put(segment string, c *mark) {
	if c == nil || c.at.Zero() && c.life.Zero() && c.order == nil && len(c.below) == 0 {
		return
	}
	if m.below == nil {
		m.below = map[string]*mark{}
	}
	m.below[segment] = c
}

// each calls f with every stamp of the tree below and at a mark.
func (m *mark) each(f func(Stamp)) {
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
