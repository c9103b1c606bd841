package crdt

// Follows tells whether a document is another one, or what one origin has made of it since. After a deletion that cannot be told:
// what others wrote before it leaves no trace, and the next incarnation begins without one.
func (d *Document) Follows(o *Document, origin Origin) bool {
	if d == nil || d.Deleted() || o.Deleted() || d.Incarnation != o.Incarnation || !d.Context.Covers(o.Context) {
		return false
	}
	for _, c := range d.Context {
		if c.Origin != origin && o.Context.Get(c.Origin) != c.N {
			return false
		}
	}
	return true
}

// DocVersion is which version of a key somebody has seen: the incarnation, whether it has ended, and the commits in it.
type DocVersion struct {
	Incarnation, DeletedAt Stamp
	Context                Counters
}

// DocVersion is that of a document; none has been seen of one that is nil.
func (d *Document) DocVersion() DocVersion {
	if d == nil {
		return DocVersion{}
	}
	return DocVersion{Incarnation: d.Incarnation, DeletedAt: d.DeletedAt, Context: d.Context}
}

// Includes tells whether who sees s has nothing to learn from o: merging o would change nothing.
func (s DocVersion) Includes(o DocVersion) bool {
	switch {
	case s.Incarnation != o.Incarnation:
		return o.Incarnation.Less(s.Incarnation)
	case !s.DeletedAt.Zero() || !o.DeletedAt.Zero():
		return !s.DeletedAt.Less(o.DeletedAt)
	}
	return s.Context.Covers(o.Context)
}

// Equivalent tells whether two documents contain the same.
func (d *Document) Equivalent(o *Document) bool {
	return d != nil && o != nil && d.DocVersion().Includes(o.DocVersion()) && o.DocVersion().Includes(d.DocVersion())
}
