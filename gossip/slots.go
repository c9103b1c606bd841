package gossip

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Whoever reaches the port for streams can open connections to it and say nothing, pods too. Each has a place while its handshake is
// under way; places are few, so one address has a few of them only, and half of all are kept for the addresses of members.
const (
	maxHandshakes         = 64
	maxStrangerHandshakes = 32
	maxFromStranger       = 4
	maxFromMember         = 16
)

// errTooMany is why a connection is closed at once.
var errTooMany = errors.New("too many handshakes are under way")

// slots counts the handshakes under way.
type slots struct {
	mu             sync.Mutex
	all, strangers int
	from           map[netip.Addr]int
}

func (s *slots) take(from netip.Addr, member bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := maxFromStranger
	if member {
		most = maxFromMember
	}
	if s.all >= maxHandshakes || s.from[from] >= most || !member && s.strangers >= maxStrangerHandshakes {
		return false
	}
	if s.from == nil {
		s.from = map[netip.Addr]int{}
	}
	s.all++
	s.from[from]++
	if !member {
		s.strangers++
	}
	return true
}

func (s *slots) release(from netip.Addr, member bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.from[from]--; s.from[from] == 0 {
		delete(s.from, from)
	}
	if !member {
		s.strangers--
	}
}

// noiseEvery is how often a refused connection is worth a line in the log.
const noiseEvery = 10 * time.Second

// noise keeps refused connections from filling the log.
type noise struct {
	mu     sync.Mutex
	last   time.Time
	silent int
}

// refused tells whether to say so, and how many were not told of since the last time.
func (n *noise) refused(now time.Time) (silent int, say bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.last.IsZero() && now.Sub(n.last) < noiseEvery {
		n.silent++
		return 0, false
	}
	silent, n.silent, n.last = n.silent, 0, now
	return silent, true
}

// source is where a connection comes from, and whether that is the address of a member.
func (a *Agent) source(remote net.Addr) (netip.Addr, bool) {
	ap, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return netip.Addr{}, false
	}
	from := ap.Addr().Unmap()
	a.mu.Lock()
	for _, m := range a.members {
		if m.Addr == from {
			a.mu.Unlock()
			return from, true
		}
	}
	a.mu.Unlock()
	if a.config.Known != nil {
		for _, k := range a.config.Known() {
			if k.Addr() == from {
				return from, true
			}
		}
	}
	return from, false
}
