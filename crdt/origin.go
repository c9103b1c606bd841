package crdt

import (
	"fmt"
	"strconv"
)

// EpochBits are the low bits of an origin that differ between the epochs of one store: it draws them anew when its disk may have
// lost something. The others it keeps, so that it is forgotten under all of them at once.
const EpochBits = 24

// Family is what all epochs of one store have in common.
func (o Origin) Family() Origin { return o >> EpochBits }

// ParseOrigin reads an origin as String writes it.
func ParseOrigin(s string) (Origin, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("origin %q is no number of 16 hexadecimal digits", s)
	}
	return Origin(n), nil
}

// Origin is one incarnation of a store: drawn at random when the store is made, and anew when a backup is
// restored, so that a sequence number is never used twice.
type Origin uint64

func (o Origin) String() string { return fmt.Sprintf("%016x", uint64(o)) }

// MarshalText writes the origin as String does.
func (o Origin) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (o *Origin) UnmarshalText(b []byte) (err error) {
	*o, err = ParseOrigin(string(b))
	return err
}
