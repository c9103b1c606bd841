package crdt

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// merge is the join of two versions of a key. It is commutative, associative and idempotent, on bytes: that is what
// makes stores that heard the same commits equal. losses tells what a concurrent write lost.
func merge(s *schemas, a, b *document) (out *document, losses []Loss) {
	if a == nil {
		return b, nil
	}
	if b == nil {
		return a, nil
	}
	switch {
	case a.after != b.after:
		// Another life: the one that began after the later deletion. The commits of the other are overwritten, not
		// contained: nothing of them is left.
		if a.after.less(b.after) {
			return b, nil
		}
		return a, nil
	case a.dead() || b.dead():
		// A deletion is final for its life.
		if !a.dead() || b.dead() && a.died.less(b.died) {
			return b, nil
		}
		return a, nil
	case a.context.Covers(b.context):
		return a, nil
	case b.context.Covers(a.context):
		return b, nil
	}
	return mergeValues(s, a, b)
}

// Loss is a register in which a concurrent write lost to another.
type Loss struct {
	Key        Key
	Field      string
	Kept, Lost json.RawMessage
	KeptBy     Stamp
	LostBy     Stamp
}

func mergeValues(s *schemas, a, b *document) (*document, []Loss) {
	// Values that do not decode, or are of different kinds, cannot be mixed: the later is taken whole.
	av, aerr := decodeValue(a.value)
	bv, berr := decodeValue(b.value)
	if aerr != nil || berr != nil || av["kind"] != bv["kind"] || av["apiVersion"] != bv["apiVersion"] {
		return laterWhole(a, b), nil
	}
	root := s.root(av)
	m := &merger{a: a.stamps, b: b.stamps, seen: map[string]bool{}}
	m.out.base = laterStamp(a.stamps.base, b.stamps.base)
	value, _ := m.walk(root, "", av, bv).(map[string]any)
	m.forgotten()
	raw, err := canonical(value)
	if err != nil {
		return laterWhole(a, b), nil
	}
	out := &document{
		key: a.key, after: a.after, context: a.context.join(b.context), value: raw, stamps: m.out,
		generations: a.generations.join(b.generations), counted: a.counted || b.counted,
	}
	for i := range m.losses {
		m.losses[i].Key = a.key
	}
	return out, m.losses
}

func laterWhole(a, b *document) *document {
	out := *a
	if as, bs := a.newest(), b.newest(); as.less(bs) || as == bs && bytes.Compare(a.value, b.value) < 0 {
		out = *b
	}
	out.context = a.context.join(b.context)
	return &out
}

// merger walks two values and builds the third and its stamps, parents before children.
type merger struct {
	a, b   stamps
	out    stamps
	seen   map[string]bool
	losses []Loss
}

// side is one version's say about a register: whether it has a value there and since when.
type side struct {
	present bool
	// never: absent, and not because it was removed.
	never bool
	at    Stamp
}

func look(s *stamps, path string, present bool) side {
	at, exact := s.cover(path)
	return side{present: present, never: !present && !exact, at: at}
}

// settle decides a register and records its stamp. It reports whether a's say won.
func (m *merger) settle(path string, a, b side) (aWins bool) {
	m.seen[path] = true
	switch {
	case a.never && b.never:
		return true
	case a.never:
		m.record(path, b.at)
		return false
	case b.never:
		m.record(path, a.at)
		return true
	}
	aWins = !a.at.less(b.at)
	m.record(path, laterStamp(a.at, b.at))
	return aWins
}

// record gives a path its stamp, unless it has it from its ancestors.
func (m *merger) record(path string, at Stamp) {
	if have, _ := m.out.cover(path); have == at {
		return
	}
	if m.out.fields == nil {
		m.out.fields = map[string]Stamp{}
	}
	m.out.fields[path] = at
}

func (m *merger) lose(path string, aWins bool, a, b side, av, bv any) {
	if a.never || b.never || a.at == b.at || path == statusPath || strings.HasPrefix(path, managedFieldsPath) {
		return
	}
	if !aWins {
		a, b, av, bv = b, a, bv, av
	}
	kept, _ := json.Marshal(av)
	lost, _ := json.Marshal(bv)
	if !bytes.Equal(kept, lost) {
		m.losses = append(m.losses, Loss{Field: path, Kept: kept, Lost: lost, KeptBy: a.at, LostBy: b.at})
	}
}

func (m *merger) walk(n node, path string, a, b any) any {
	switch n.shapeOf(path, a, b) {
	case fields:
		return m.walkFields(n, path, a, b)
	case keyed, set:
		return m.walkList(n, path, a, b)
	}
	as, bs := m.wholeSide(&m.a, path, a), m.wholeSide(&m.b, path, b)
	aWins := m.settle(path, as, bs)
	if as.at == bs.at && !as.never && !bs.never && as.present && bs.present {
		// One stamp and two values can only come from a list that is keyed in one version and not in the other.
		aj, _ := json.Marshal(a)
		bj, _ := json.Marshal(b)
		aWins = bytes.Compare(aj, bj) >= 0
	}
	m.lose(path, aWins, as, bs, a, b)
	if aWins {
		return a
	}
	return b
}

// wholeSide looks at a register that may have been a finer structure when it was written.
func (m *merger) wholeSide(s *stamps, path string, v any) side {
	out := look(s, path, v != nil)
	for p, at := range s.fields {
		if strings.HasPrefix(p, path+"/") {
			m.seen[p] = true
			out.never = false
			out.at = laterStamp(out.at, at)
		}
	}
	return out
}

func (m *merger) walkFields(n node, path string, a, b any) any {
	am, _ := a.(map[string]any)
	bm, _ := b.(map[string]any)
	m.container(path)
	out := map[string]any{}
	for _, k := range unionKeys(am, bm) {
		if v := m.walk(n.field(k), path+"/"+escape(k), am[k], bm[k]); v != nil {
			out[k] = v
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// container carries over the stamp of a map or list that was emptied, filled or replaced as a whole. A container that a
// merge leaves empty is dropped: types in which an empty one means something are registers.
func (m *merger) container(path string) {
	if m.seen[path] {
		return // a list element, settled as such
	}
	m.seen[path] = true
	at, inA := m.a.fields[path]
	bt, inB := m.b.fields[path]
	if inA || inB {
		m.record(path, laterStamp(at, bt))
	}
}

func (m *merger) walkList(n node, path string, a, b any) any {
	al, _ := a.([]any)
	bl, _ := b.([]any)
	an, _ := n.index(path, al)
	bn, _ := n.index(path, bl)
	ai, bi := positions(an), positions(bn)
	m.container(path)
	merged := map[string]any{}
	for _, name := range unionKeys(ai, bi) {
		i, inA := ai[name]
		j, inB := bi[name]
		elementPath := path + "/" + name
		as, bs := look(&m.a, elementPath, inA), look(&m.b, elementPath, inB)
		aWins := m.settle(elementPath, as, bs)
		switch {
		case inA && inB:
			merged[name] = m.walk(n.element(), elementPath, al[i], bl[j])
		case inA && aWins:
			merged[name] = al[i]
			m.keep(&m.a, elementPath)
		case inB && !aWins:
			merged[name] = bl[j]
			m.keep(&m.b, elementPath)
		case inA:
			m.drop(elementPath)
			m.lose(elementPath, false, as, bs, al[i], nil)
		case inB:
			m.drop(elementPath)
			m.lose(elementPath, true, as, bs, nil, bl[j])
		}
	}
	names := m.order(path, an, bn, merged)
	if len(names) == 0 {
		return nil
	}
	out := make([]any, len(names))
	for i, name := range names {
		out[i] = merged[name]
	}
	return out
}

// keep carries over the stamps below an element that only one version has.
func (m *merger) keep(from *stamps, path string) {
	below := path + "/"
	for p, at := range from.fields {
		if strings.HasPrefix(p, below) {
			m.seen[p] = true
			if m.out.fields == nil {
				m.out.fields = map[string]Stamp{}
			}
			m.out.fields[p] = at
		}
	}
	for p, names := range from.ordered {
		if strings.HasPrefix(p, below) {
			m.setOrdered(p, names)
		}
	}
	m.drop(path)
}

// drop forgets the stamps below an element that lost.
func (m *merger) drop(path string) {
	below := path + "/"
	for _, s := range []*stamps{&m.a, &m.b} {
		for p := range s.fields {
			if strings.HasPrefix(p, below) {
				m.seen[p] = true
			}
		}
	}
}

func (m *merger) setOrdered(path string, names []string) {
	if m.out.ordered == nil {
		m.out.ordered = map[string][]string{}
	}
	m.out.ordered[path] = names
}

// order lays out a merged list: first the elements in the order that was written last, then the others by name.
func (m *merger) order(path string, an, bn []string, merged map[string]any) []string {
	ao, bo := ordering(&m.a, path, an), ordering(&m.b, path, bn)
	p := path + orderSuffix
	m.seen[p] = true
	// An order that was written explicitly beats one that came with the creation of the object.
	as, aExact := m.a.cover(p)
	bs, bExact := m.b.cover(p)
	bWins := as.less(bs) || as == bs && slices.Compare(ao, bo) < 0
	if aExact != bExact {
		bWins = bExact
	}
	if bWins {
		ao, as = bo, bs
	}
	m.record(p, as)
	var names []string
	placed := map[string]bool{}
	for _, name := range ao {
		if _, ok := merged[name]; ok {
			names = append(names, name)
			placed[name] = true
		}
	}
	for _, name := range unionKeys(merged, nil) {
		if !placed[name] {
			names = append(names, name)
		}
	}
	if !slices.Equal(names, ao) {
		m.setOrdered(path, ao)
	}
	return names
}

// ordering is the value of a list's order register.
func ordering(s *stamps, path string, names []string) []string {
	if o, ok := s.ordered[path]; ok {
		return o
	}
	return names
}

// forgotten carries over the removals that neither value reminded the walk of.
func (m *merger) forgotten() {
	for _, p := range unionKeys(m.a.fields, m.b.fields) {
		if m.seen[p] {
			continue
		}
		var at Stamp
		list, isOrder := strings.CutSuffix(p, orderSuffix)
		var order []string
		for _, s := range []*stamps{&m.a, &m.b} {
			if st, exact := s.cover(p); exact && !st.less(at) {
				at, order = st, s.ordered[list]
			}
		}
		if isOrder && len(order) > 0 {
			m.setOrdered(list, order)
		}
		m.record(p, at)
	}
}
