package crdt

import "time"

// bounds are the least and the last HLC reading that a decision may be stamped with; a ceiling of zero is none.
type bounds struct{ floor, ceiling uint64 }

const (
	// maxSkew is how far another clock may be ahead and still move ours.
	maxSkew = 500 * time.Millisecond
	// maxFuture is how far ahead a write may be stamped before it is held aside.
	maxFuture = 5 * time.Second
)

// clock is the hybrid logical clock of one store. It is owned by the apply loop.
type clock struct {
	writer Origin
	last   uint64
	// bounds are set while a decision of class H is written.
	bounds bounds
}

func hlc(now time.Time) uint64 { return uint64(max(now.UnixMilli(), 0)) << 16 }

// tick stamps a local write: later than everything this clock has seen and than after, the newest stamp of the
// object written to. An object stamped by a fast clock does not drag ours along. Nor do our own stamps, once a clock that
// was far ahead is set right: others would hold aside what we write until they have caught up with it. Stamps need to grow
// within an object only, and after sees to that.
func (c *clock) tick(now time.Time, after Stamp) Stamp {
	c.last = max(c.last+1, hlc(now))
	if c.last > hlc(now.Add(maxFuture)) {
		c.last = hlc(now)
	}
	at := c.last
	if c.bounds.ceiling != 0 {
		at = min(at, c.bounds.ceiling)
	}
	return Stamp{HLC: max(at, next(c.bounds.floor), next(after.HLC)), Writer: c.writer}
}

// next is the reading after another. It does not wrap: a stamp that is as late as there can be is never followed by the earliest.
func next(hlc uint64) uint64 { return hlc + min(1, ^uint64(0)-hlc) }

// observe takes note of a stamp from elsewhere. It reports false when that clock is too far ahead to follow.
func (c *clock) observe(now time.Time, s Stamp) bool {
	if s.HLC > hlc(now.Add(maxSkew)) {
		return false
	}
	c.last = max(c.last, s.HLC)
	return true
}
