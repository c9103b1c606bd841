package crdt

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
)

// Merge is the join of two versions of a key. It is commutative, associative and idempotent, on bytes: that is what
// makes stores that heard the same commits equal. losses tells what a concurrent write lost.
//
// Every step is a join of its own. A life beats all earlier lives, a death all of its life; in one life each
// register goes to the later stamp, and a structure is the join of its parts. What wins is never a matter of which
// version the values came from, only of the stamps; that keeps the order of merges out of the result.
func Merge(s *Schemas, a, b *Document) (out *Document, losses []Loss) {
	if a == nil {
		return b, nil
	}
	if b == nil {
		return a, nil
	}
	switch {
	case a.Incarnation != b.Incarnation:
		// Another life: the one that began after the later deletion. The commits of the other are overwritten, not
		// contained: nothing of them is left.
		if a.Incarnation.Less(b.Incarnation) {
			return b, overwritten(b, a)
		}
		return a, overwritten(a, b)
	case a.Deleted() || b.Deleted():
		// A deletion is final for its life.
		if !a.Deleted() || b.Deleted() && a.DeletedAt.Less(b.DeletedAt) {
			return b, overwritten(b, a)
		}
		return a, overwritten(a, b)
	}
	aNewer, bNewer := a.Context.Covers(b.Context), b.Context.Covers(a.Context)
	switch {
	case aNewer && (!bNewer || a.Folded.Covers(b.Folded)):
		return a, nil
	case bNewer && (!aNewer || b.Folded.Covers(a.Folded)):
		return b, nil
	}
	return mergeValues(s, a, b)
}

func mergeValues(s *Schemas, a, b *Document) (*Document, []Loss) {
	out := &Document{
		Key: a.Key, Incarnation: a.Incarnation, Context: a.Context.join(b.Context), Clocks: a.Clocks.join(b.Clocks),
		Generations: a.Generations.join(b.Generations), Counted: a.Counted || b.Counted, Folded: a.Folded.join(b.Folded),
	}
	av, aerr := DecodeValue(a.Value)
	bv, berr := DecodeValue(b.Value)
	// Values of different types, or damaged ones, cannot be mixed. Some order must decide, the same in every merge.
	c := compareValues(av, aerr, bv, berr)
	if aerr != nil && berr != nil {
		if out.Value, out.Stamps = a.Value, a.Stamps; bytes.Compare(a.Value, b.Value) < 0 {
			out.Value, out.Stamps = b.Value, b.Stamps
		}
		return out, nil
	}
	m := &merger{a: a, b: b}
	switch {
	case c < 0:
		m.losses = overwritten(b, a)
		a, av = b, bv
	case c > 0:
		m.losses = overwritten(a, b)
		b, bv = a, av
	}
	if !a.Folded.Equal(out.Folded) || !b.Folded.Equal(out.Folded) {
		// What one side has folded the other may not have yet, and its stamps say the same in other words.
		base := newestOf(out.Folded)
		a, b = a.fold(s, out.Folded, base), b.fold(s, out.Folded, base)
	}
	m.a, m.b = a, b
	root := s.root(av)
	am, bm := a.Stamps.tree(), b.Stamps.tree()
	value, marks := m.walk(root, "", side{value: prune(root, "", av), mark: am, at: am.at}, side{value: prune(root, "", bv), mark: bm, at: bm.at}, Stamp{})
	tree, _ := value.(map[string]any)
	raw, err := Canonical(tree)
	if err != nil {
		panic("crdt: a value that was decoded does not encode: " + err.Error())
	}
	out.Value, out.Stamps = raw, marks.stamps()
	return out, append(m.losses, out.newlyHidden(a, b)...)
}

// compareValues orders values that cannot be mixed: a damaged one is less than any that is not.
func compareValues(a map[string]any, aerr error, b map[string]any, berr error) int {
	switch {
	case aerr != nil && berr != nil:
		return 0
	case berr == nil && aerr != nil:
		return -1
	case berr != nil:
		return 1
	}
	return compareTypes(a, b)
}

// side is what one side says of a path.
type side struct {
	value any
	mark  *stampNode
	// at is the stamp of the path or of its nearest ancestor, above that of the parent.
	at, above Stamp
}

func (v side) child(segment string, value any) side {
	c := side{value: value, mark: v.mark.child(segment), above: v.at}
	if c.at = inherit(c.life(), v.at); c.mark != nil && !c.mark.at.Zero() {
		c.at = c.mark.at
	}
	return c
}

// inherit is the stamp of what has none of its own.
func inherit(life, above Stamp) Stamp {
	if life.Zero() {
		return above
	}
	return life
}

func (v side) life() Stamp {
	if v.mark == nil {
		return Stamp{}
	}
	return v.mark.life
}

// never tells whether nothing was ever here in this life.
func (v side) never() bool { return v.value == nil && (v.mark == nil || v.mark.at.Zero()) }

func (v side) structured(n schemaNode, path string) bool {
	return n.structured(path, v.value) || v.mark != nil && len(v.mark.below) > 0
}

// parts is the same side for the walk into a structure: a plain value gives way to one.
func (v side) parts(n schemaNode, path string) side {
	if v.structured(n, path) {
		if !n.structured(path, v.value) {
			v.value = nil
		}
		return v
	}
	return side{at: inherit(v.life(), v.above), above: v.above}
}

// whole is the mark of this side in a tree where the parent was written at above.
func (v side) whole(above Stamp) *stampNode {
	var out stampNode
	if v.mark != nil {
		out = *v.mark
	}
	if v.value != nil {
		out.stampAt(v.at, above)
	}
	return &out
}

// taken is whole for a path that may be a structure: only its parts have stamps, lest what it once was leaves a trace.
func (v side) taken(n schemaNode, path string, above Stamp) *stampNode {
	m, ok := v.value.(map[string]any)
	if !ok || !n.structured(path, v.value) {
		return v.whole(above)
	}
	out := &stampNode{life: v.life()}
	for _, name := range union(segments(m), below(v.mark)) {
		k := unescape(name)
		out.put(name, v.child(name, m[k]).taken(n.field(k), path+"/"+name, above))
	}
	return out
}

// merger walks two versions of a value and builds the third.
type merger struct {
	a, b   *Document
	losses []Loss
}

func (m *merger) walk(n schemaNode, path string, a, b side, above Stamp) (any, *stampNode) {
	if kept, outlived := m.outlived(path, a, b); outlived {
		return kept.value, kept.taken(n, path, above)
	}
	return m.join(n, path, a, b, above)
}

// outlived is the side of the later life.
func (m *merger) outlived(path string, a, b side) (kept side, outlived bool) {
	switch {
	case a.life() == b.life():
		return a, false
	case a.life().Less(b.life()):
		m.lose(path, b, a, m.b)
		return b, true
	}
	m.lose(path, a, b, m.a)
	return a, true
}

// join merges two sides of one life.
func (m *merger) join(n schemaNode, path string, a, b side, above Stamp) (any, *stampNode) {
	if !a.structured(n, path) && !b.structured(n, path) {
		return m.leaf(path, a, b, above)
	}
	life := a.life()
	a, b = a.parts(n, path), b.parts(n, path)
	out := &stampNode{life: life}
	at := Later(a.at, b.at)
	out.stampAt(at, above)
	if s := n.shape(path); s == keyed || s == set {
		return m.list(n, path, a, b, at, out), out
	}
	return m.fields(n, path, a, b, at, out), out
}

// leaf decides a register.
func (m *merger) leaf(path string, a, b side, above Stamp) (any, *stampNode) {
	switch {
	case a.never():
		return b.value, b.whole(above)
	case b.never():
		return a.value, a.whole(above)
	case a.at.Less(b.at):
		m.lose(path, b, a, m.b)
		return b.value, b.whole(above)
	case b.at.Less(a.at):
		m.lose(path, a, b, m.a)
	case !reflect.DeepEqual(a.value, b.value) && bytes.Compare(encoded(a.value), encoded(b.value)) < 0:
		// One write, two values: no store does that, but a broken one must not set the others at odds.
		return b.value, b.whole(above)
	}
	return a.value, a.whole(above)
}

func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return b
}

func (m *merger) fields(n schemaNode, path string, a, b side, at Stamp, out *stampNode) any {
	am, _ := a.value.(map[string]any)
	bm, _ := b.value.(map[string]any)
	value := map[string]any{}
	for _, name := range union(segments(am), segments(bm), below(a.mark), below(b.mark)) {
		k := unescape(name)
		v, c := m.walk(n.field(k), path+"/"+name, a.child(name, am[k]), b.child(name, bm[k]), at)
		out.put(name, c)
		if v != nil {
			value[k] = v
		}
	}
	if len(value) == 0 {
		return nil
	}
	return value
}

func segments(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, escape(k))
	}
	return out
}

func below(m *stampNode) []string {
	if m == nil {
		return nil
	}
	return slices.Collect(maps.Keys(m.below))
}

func (m *merger) list(n schemaNode, path string, a, b side, at Stamp, out *stampNode) any {
	al, _ := a.value.([]any)
	bl, _ := b.value.([]any)
	an, bn := n.index(path, al), n.index(path, bl)
	ae, be := elements(an, al), elements(bn, bl)
	merged := map[string]any{}
	for _, name := range union(an, bn, below(a.mark), below(b.mark)) {
		if name == orderName {
			continue
		}
		v, c := m.element(n.element(), path+"/"+name, a.child(name, ae[name]), b.child(name, be[name]), at)
		out.put(name, c)
		if v != nil {
			merged[name] = v
		}
	}
	order := latestOrder(ordering(a, an), ordering(b, bn))
	names := order.layout(merged)
	out.put(orderName, order.mark(at, names))
	if len(names) == 0 {
		return nil
	}
	value := make([]any, len(names))
	for i, name := range names {
		value[i] = merged[name]
	}
	return value
}

func elements(names []string, list []any) map[string]any {
	out := make(map[string]any, len(names))
	for i, name := range names {
		out[name] = list[i]
	}
	return out
}

// element decides a list element. One that only one side has in its life is an addition: a removal would be another life.
func (m *merger) element(n schemaNode, path string, a, b side, above Stamp) (any, *stampNode) {
	if kept, outlived := m.outlived(path, a, b); outlived {
		return kept.value, kept.whole(above)
	}
	switch {
	case b.value == nil:
		return a.value, a.whole(above)
	case a.value == nil:
		return b.value, b.whole(above)
	}
	return m.join(n, path, a, b, above)
}

// order is the order register of a list. It holds names of elements that may be gone.
type order struct {
	names []string
	at    Stamp
	never bool
}

func ordering(list side, names []string) order {
	v := list.child(orderName, nil)
	if v.mark != nil && v.mark.order != nil {
		names = v.mark.order
	}
	return order{names: names, at: v.at, never: len(names) == 0 && v.never()}
}

func latestOrder(a, b order) order {
	switch {
	case a.never:
		return b
	case b.never:
		return a
	case a.at.Less(b.at), a.at == b.at && slices.Compare(a.names, b.names) < 0:
		return b
	}
	return a
}

// layout puts the elements in the order that was written last, then the others by name.
func (o order) layout(merged map[string]any) []string {
	names := make([]string, 0, len(merged))
	placed := map[string]bool{}
	for _, name := range o.names {
		if merged[name] != nil {
			names = append(names, name)
			placed[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(merged)) {
		if !placed[name] {
			names = append(names, name)
		}
	}
	return names
}

func (o order) mark(above Stamp, names []string) *stampNode {
	if o.never {
		return nil
	}
	out := &stampNode{}
	// Without elements nothing but the stamp says that there is an order.
	if o.at != above || len(names) == 0 {
		out.at = o.at
	}
	if !slices.Equal(o.names, names) {
		out.order = append([]string{}, o.names...)
	}
	return out
}

// lose notes what the loser wrote that the winner did not know of.
func (m *merger) lose(path string, kept, lost side, winner *Document) {
	if bookkeeping(path) || reflect.DeepEqual(kept.value, lost.value) {
		return
	}
	var by Stamp
	note := func(s Stamp) {
		if winner.Clocks.Get(s.Writer) < s.HLC {
			by = Later(by, s)
		}
	}
	note(lost.at)
	lost.mark.each(note)
	if by.Zero() {
		return
	}
	keptBy := Later(kept.at, kept.life())
	m.losses = append(m.losses, Loss{Key: winner.Key, Field: path, Kept: shorten(encoded(kept.value)), Lost: shorten(encoded(lost.value)), KeptBy: keptBy, LostBy: by})
}
