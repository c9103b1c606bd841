package crdt

// folded tells whether there is one stamp.
func (s stamps) folded() bool { return len(s.fields) == 0 && len(s.lives) == 0 && len(s.ordered) == 0 }

// settle is the document with all its stamps folded.
func (d *document) settle(s *schemas) *document { return d.fold(s, d.clocks, newestOf(d.clocks)) }

// fold is the document with one stamp in place of all that known covers. Two stores that fold at different times hold
// different stamps of the same history; merge folds both as far as either before it compares them.
func (d *document) fold(s *schemas, known tally, base Stamp) *document {
	value, err := decodeValue(d.value)
	if err != nil {
		return d
	}
	root := s.root(value)
	out := *d
	out.folded = d.folded.join(known)
	f := folder{known: known, base: base}
	tree := d.stamps.tree()
	marks := f.fold(root, "", version{value: value, mark: tree, at: tree.at}, Stamp{})
	out.stamps = marks.stamps()
	return &out
}

// newestOf is the latest stamp that clocks cover.
func newestOf(clocks tally) (s Stamp) {
	for _, c := range clocks {
		s = laterStamp(s, Stamp{HLC: c.n, Writer: c.origin})
	}
	return s
}

// folder replaces stamps that everybody knows.
type folder struct {
	known tally
	base  Stamp
}

func (f folder) knows(s Stamp) bool { return !s.Zero() && f.known.of(s.Writer) >= s.HLC }

func (f folder) stamp(s Stamp) Stamp {
	if f.knows(s) {
		return f.base
	}
	return s
}

// fold is the mark of a version in a tree where the parent was written at above.
func (f folder) fold(n node, path string, v version, above Stamp) *mark {
	if v.mark == nil {
		return nil // it has its parent's stamp, whatever becomes of that
	}
	out := &mark{}
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
		order := mark{}
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

// foldable tells whether there is anything to fold, and nothing that only the stamps tell: see hidden.
func (d *document) foldable() bool { return !d.dead() && !d.stamps.folded() && !d.hides() }
