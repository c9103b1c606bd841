package dns

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Bounds of what one client may ask: far above what programs need, far below what would starve the others.
const (
	perSecond = 500
	atOnce    = 1000
	// maxClients bounds how many clients are remembered.
	maxClients = 4096
	// localFor is how long this machine's addresses are believed to be what they were.
	localFor = 10 * time.Second
)

// clients are those who may ask: pods and Services of the cluster, and this machine. The rest of the network has
// resolvers of its own, and must not learn from ours what there is, or use it against others.
type clients struct {
	cluster []netip.Prefix
	// self is the server's own address, from which this machine's programs reach it.
	self netip.Addr
	// addresses lists this machine's.
	addresses func() ([]net.Addr, error)

	mu     sync.Mutex
	local  map[netip.Addr]bool
	looked time.Time
	rates  map[netip.Addr]*rate.Limiter
}

// may tells whether a client may ask, and if so whether it is to wait because it has asked too much.
func (c *clients) may(from netip.Addr, now time.Time) (allowed, tooMany bool) {
	if !from.IsValid() {
		return false, false
	}
	if from = from.Unmap(); from.IsLoopback() || from == c.self {
		return true, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	inside := false
	for _, p := range c.cluster {
		inside = inside || p.IsValid() && p.Contains(from)
	}
	if !inside {
		return c.isLocal(from, now), false
	}
	l := c.rates[from]
	if l == nil {
		if c.rates == nil || len(c.rates) >= maxClients {
			c.rates = map[netip.Addr]*rate.Limiter{} // all begin anew: a client is bounded within seconds again
		}
		l = rate.NewLimiter(perSecond, atOnce)
		c.rates[from] = l
	}
	return true, !l.AllowN(now, 1)
}

func (c *clients) isLocal(a netip.Addr, now time.Time) bool {
	if now.Sub(c.looked) > localFor || now.Before(c.looked) {
		c.looked, c.local = now, map[netip.Addr]bool{}
		all, err := c.addresses()
		if err != nil {
			return false
		}
		for _, one := range all {
			if n, ok := one.(*net.IPNet); ok {
				if addr, ok := netip.AddrFromSlice(n.IP); ok {
					c.local[addr.Unmap()] = true
				}
			}
		}
	}
	return c.local[a]
}

// addressOf is the address of a client; invalid if it has none.
func addressOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr()
}
