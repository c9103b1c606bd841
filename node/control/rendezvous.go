package control

import (
	"crypto/sha256"
	"encoding/binary"
)

// score is the rendezvous hash of a key at a place.
func score(key, place string) uint64 {
	h := sha256.New()
	h.Write([]byte(key))
	h.Write([]byte{0})
	h.Write([]byte(place))
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// rendezvous is the place among places that a key falls to: all who see the same places agree, and a place that goes
// or comes moves only its own keys.
func rendezvous(key string, places []string) string {
	best, at := "", uint64(0)
	for _, p := range places {
		if s := score(key, p); best == "" || s > at || s == at && p < best {
			best, at = p, s
		}
	}
	return best
}
