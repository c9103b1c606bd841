package crdt

import (
	"strconv"
	"time"
)

// Stamp orders writes: a hybrid logical clock reading (48 bits of Unix milliseconds, 16 bits of counter), ties
// broken by the writer. The zero Stamp is older than every write.
// Kulkarni et al., Logical Physical Clocks (2014).
type Stamp struct {
	HLC    uint64
	Writer Origin
}

// Zero tells whether the stamp names no write.
func (s Stamp) Zero() bool { return s == Stamp{} }

// Time is the wall-clock part of the stamp.
func (s Stamp) Time() time.Time { return time.UnixMilli(int64(s.HLC >> 16)) }

func (s Stamp) String() string {
	return strconv.FormatUint(s.HLC>>16, 10) + "." + strconv.FormatUint(s.HLC&0xffff, 10) + "@" + s.Writer.String()
}

func (s Stamp) Less(o Stamp) bool {
	if s.HLC != o.HLC {
		return s.HLC < o.HLC
	}
	return s.Writer < o.Writer
}

func Later(a, b Stamp) Stamp {
	if a.Less(b) {
		return b
	}
	return a
}
