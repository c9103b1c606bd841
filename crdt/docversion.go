package crdt

// follows tells whether a document is another one, or what one origin has made of it since. After a deletion that cannot be told:
// what others wrote before it leaves no trace, and the next life begins without one.
func (d *document) follows(o *document, origin Origin) bool {
	if d == nil || d.dead() || o.dead() || d.after != o.after || !d.context.Covers(o.context) {
		return false
	}
	for _, c := range d.context {
		if c.origin != origin && o.context.of(c.origin) != c.n {
			return false
		}
	}
	return true
}

// sight is which version of a key somebody has seen: the life, whether it has ended, and the commits in it.
type sight struct {
	after, died Stamp
	context     tally
}

// sight is that of a document; none has been seen of one that is nil.
func (d *document) sight() sight {
	if d == nil {
		return sight{}
	}
	return sight{after: d.after, died: d.died, context: d.context}
}

// includes tells whether who sees s has nothing to learn from o: merging o would change nothing.
func (s sight) includes(o sight) bool {
	switch {
	case s.after != o.after:
		return o.after.less(s.after)
	case !s.died.Zero() || !o.died.Zero():
		return !s.died.less(o.died)
	}
	return s.context.Covers(o.context)
}

// same tells whether two documents contain the same.
func (d *document) same(o *document) bool {
	return d != nil && o != nil && d.sight().includes(o.sight()) && o.sight().includes(d.sight())
}
