package control

import (
	"encoding/hex"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"murmur/rendezvous"
)

// maxShare bounds how many owners a share remembers.
const maxShare = 1 << 15

// share says of which owners this node is the controller of record among some nodes, and remembers it: to find out is a hash for each node.
// Another set of nodes is another share. All loops use one.
type share struct {
	self  string
	alive []string

	mu   sync.Mutex // guards mine
	mine map[uuid]bool
}

func newShare(self string, alive []string) *share {
	return &share{self: self, alive: alive, mine: map[uuid]bool{}}
}

// has tells whether an owner is this node's.
func (s *share) has(uid types.UID) bool {
	id, ok := parseUUID(uid)
	if !ok {
		return s.first(uid)
	}
	s.mu.Lock()
	mine, known := s.mine[id]
	s.mu.Unlock()
	if known {
		return mine
	}
	mine = s.first(uid)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mine) >= maxShare {
		clear(s.mine)
	}
	s.mine[id] = mine
	return mine
}

func (s *share) first(uid types.UID) bool {
	return rendezvous.First(rendezvous.OwnerKey(uid), s.alive) == s.self
}

// uuid is a UID of an object of the store, in a third of the memory.
type uuid [16]byte

// parseUUID reads a UID as the store makes them. Others, which users may write where an owner is named, are nobody's.
func parseUUID(uid types.UID) (id uuid, ok bool) {
	if len(uid) != 36 || uid[8] != '-' || uid[13] != '-' || uid[18] != '-' || uid[23] != '-' {
		return id, false
	}
	var digits [32]byte
	n := copy(digits[:], uid[:8])
	n += copy(digits[n:], uid[9:13])
	n += copy(digits[n:], uid[14:18])
	n += copy(digits[n:], uid[19:23])
	copy(digits[n:], uid[24:])
	for _, c := range digits {
		if c >= 'A' && c <= 'F' {
			return id, false // the same number in other letters is another UID
		}
	}
	_, err := hex.Decode(id[:], digits[:])
	return id, err == nil
}
