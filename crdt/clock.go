package crdt

import "time"

// Bounds are the least and the last HLC reading that a decision may be stamped with; a ceiling of zero is none.
type Bounds struct{ Floor, Ceiling uint64 }

const (
	// MaxSkew is how far another clock may be ahead and still move ours.
	MaxSkew = 500 * time.Millisecond
	// MaxFuture is how far ahead a write may be stamped before it is quarantined.
	MaxFuture = 5 * time.Second
)

// Clock is the hybrid logical clock of one store. It is owned by the apply loop.
type Clock struct {
	Writer Origin
	last   uint64
	// Bounds are set while a decision of class H is written.
	Bounds Bounds
}

func HLCAt(now time.Time) uint64 { return uint64(max(now.UnixMilli(), 0)) << 16 }

// Tick stamps a local write: later than everything this clock has seen and than after, the newest stamp of the
// object written to. An object stamped by a fast clock does not drag ours along. Nor do our own stamps, once a clock that
// was far ahead is set right: others would quarantine what we write until they have caught up with it. Stamps need to grow
// within an object only, and after sees to that.
func (c *Clock) Tick(now time.Time, after Stamp) Stamp {
	c.last = max(c.last+1, HLCAt(now))
	if c.last > HLCAt(now.Add(MaxFuture)) {
		c.last = HLCAt(now)
	}
	at := c.last
	if c.Bounds.Ceiling != 0 {
		at = min(at, c.Bounds.Ceiling)
	}
	return Stamp{HLC: max(at, next(c.Bounds.Floor), next(after.HLC)), Writer: c.Writer}
}

// next is the reading after another. It does not wrap: a stamp that is as late as there can be is never followed by the earliest.
func next(hlc uint64) uint64 { return hlc + min(1, ^uint64(0)-hlc) }

// Observe takes note of a stamp from elsewhere. It reports false when that clock is too far ahead to follow.
func (c *Clock) Observe(now time.Time, s Stamp) bool {
	if s.HLC > HLCAt(now.Add(MaxSkew)) {
		return false
	}
	c.last = max(c.last, s.HLC)
	return true
}
