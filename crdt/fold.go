package crdt

// Folded tells whether there is one stamp.
func (s Stamps) Folded() bool { return len(s.Fields) == 0 && len(s.Lives) == 0 && len(s.Ordered) == 0 }

// Settle is the document with all its stamps folded.
func (d *Document) Settle(s *Schemas) *Document { return d.fold(s, d.Clocks, newestOf(d.Clocks)) }

// fold is the document with one stamp in place of all that known covers. Two stores that fold at different times hold
// different stamps of the same history; merge folds both as far as either before it compares them.
func (d *Document) fold(s *Schemas, known Counters, base Stamp) *Document {
	value, err := DecodeValue(d.Value)
	if err != nil {
		return d
	}
	root := s.root(value)
	out := *d
	out.Folded = d.Folded.join(known)
	f := folder{known: known, base: base}
	tree := d.Stamps.tree()
	marks := f.fold(root, "", side{value: value, mark: tree, at: tree.at}, Stamp{})
	out.Stamps = marks.stamps()
	return &out
}

// newestOf is the latest stamp that clocks cover.
func newestOf(clocks Counters) (s Stamp) {
	for _, c := range clocks {
		s = Later(s, Stamp{HLC: c.N, Writer: c.Origin})
	}
	return s
}

// folder replaces stamps that everybody knows.
type folder struct {
	known Counters
	base  Stamp
}

func (f folder) knows(s Stamp) bool { return !s.Zero() && f.known.Get(s.Writer) >= s.HLC }

func (f folder) stamp(s Stamp) Stamp {
	if f.knows(s) {
		return f.base
	}
	return s
}

// fold is the mark of a version in a tree where the parent was written at above.
func (f folder) fold(n schemaNode, path string, v side, above Stamp) *stampNode {
	if v.mark == nil {
		return nil // it has its parent's stamp, whatever becomes of that
	}
	out := &stampNode{}
	if life := v.life(); !f.knows(life) {
		out.life = life
	}
	at := f.stamp(v.at)
	if v.value != nil || !v.mark.at.Zero() && !f.knows(v.mark.at) {
		out.stampAt(at, above)
	}
	if shape := n.shape(path); shape != keyed && shape != set {
		m, _ := v.value.(map[string]any)
		for name := range v.mark.below {
			k := unescape(name)
			out.put(name, f.fold(n.field(k), path+"/"+name, v.child(name, m[k]), at))
		}
		return out
	}
	list, _ := v.value.([]any)
	elements := elements(n.index(path, list), list)
	for name := range v.mark.below {
		c := v.child(name, elements[name])
		if name != orderName {
			out.put(name, f.fold(n.element(), path+"/"+name, c, at))
			continue
		}
		order := stampNode{}
		if !f.knows(c.at) {
			order.order = c.mark.order
		}
		if oat := f.stamp(c.at); !c.mark.at.Zero() && oat != at && (len(list) > 0 || !f.knows(c.at)) {
			order.at = oat
		}
		out.put(name, &order)
	}
	return out
}

// Foldable tells whether there is anything to fold, and nothing that only the stamps tell: see hidden.
func (d *Document) Foldable() bool { return !d.Deleted() && !d.Stamps.Folded() && !d.HasHidden() }
