package allocator

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	core "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"

	"murmur/crdt/store"
)

// reservedAddresses at the beginning of the range are for those who name them: .1 is the API, .10 is DNS.
const reservedAddresses = 16

// addresses is upstream's cluster address allocator over the Services in the store.
type addresses struct {
	store  *store.Store
	claims *claims
	cidr   netip.Prefix
	reserved[netip.Addr]
	dry bool
}

var _ ipallocator.Interface = (*addresses)(nil)

func newAddresses(store *store.Store, c *claims, cidr netip.Prefix) *addresses {
	return &addresses{store: store, claims: c, cidr: cidr.Masked()}
}

// used tells of an address whether a Service has it.
func (a *addresses) used() func(netip.Addr) bool {
	snap := a.store.Snapshot()
	return func(addr netip.Addr) bool {
		for range snap.Indexed(store.ByAddress, addr.String(), "services", "", "") {
			return true
		}
		return false
	}
}

func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

func (a *addresses) Allocate(ip net.IP) error {
	addr := addrOf(ip)
	if !a.cidr.Contains(addr) || addr == a.cidr.Addr() {
		return &ipallocator.ErrNotInRange{IP: ip, ValidRange: a.cidr.String()}
	}
	used := a.used()
	if a.dry {
		if used(addr) {
			return ipallocator.ErrAllocated
		}
		return nil
	}
	if !a.take(addr, used) {
		a.claims.taken = true
		return ipallocator.ErrAllocated
	}
	if !a.claims.draw(addressClaim(addr)) {
		a.release(addr)
		return ipallocator.ErrAllocated
	}
	return nil
}

// AllocateNext draws for whom no name is known; Services draw with choose.
func (a *addresses) AllocateNext() (net.IP, error) {
	addr, ok := a.choose(time.Now().String())
	if !ok {
		return nil, ipallocator.ErrFull
	}
	ip := net.IP(addr.AsSlice())
	if a.dry {
		return ip, nil
	}
	return ip, a.Allocate(ip)
}

// choose finds the free address for a name.
func (a *addresses) choose(name string) (netip.Addr, bool) {
	used := a.used()
	size := uint64(1) << min(a.cidr.Addr().BitLen()-a.cidr.Bits(), 32)
	if size <= reservedAddresses+1 {
		return netip.Addr{}, false
	}
	// The last address of the range is a broadcast address to some.
	i, ok := probe(name, size-reservedAddresses-1, func(i uint64) bool {
		addr := nth(a.cidr.Addr(), reservedAddresses+i)
		return !used(addr) && !a.has(addr) && a.claims.free(addressClaim(addr))
	})
	return nth(a.cidr.Addr(), reservedAddresses+i), ok
}

func nth(base netip.Addr, n uint64) netip.Addr {
	b := base.As16()
	low := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], low+n)
	return netip.AddrFrom16(b).Unmap()
}

func (a *addresses) Release(ip net.IP) error {
	a.release(addrOf(ip))
	a.claims.release(addressClaim(addrOf(ip)))
	return nil
}

func (a *addresses) ForEach(f func(net.IP)) {
	for _, svc := range store.Having[corev1.Service](a.store.Snapshot(), store.ByAddress, "services") {
		for _, ip := range svc.Spec.ClusterIPs {
			if addr, err := netip.ParseAddr(ip); err == nil {
				f(addr.AsSlice())
			}
		}
	}
}

func (a *addresses) CIDR() net.IPNet {
	return net.IPNet{IP: a.cidr.Addr().AsSlice(), Mask: net.CIDRMask(a.cidr.Bits(), a.cidr.Addr().BitLen())}
}
func (a *addresses) IPFamily() core.IPFamily { return core.IPv4Protocol }
func (a *addresses) Has(ip net.IP) bool      { return a.used()(addrOf(ip)) || a.has(addrOf(ip)) }
func (a *addresses) Destroy()                {}
func (a *addresses) EnableMetrics()          {}
func (a *addresses) DryRun() ipallocator.Interface {
	return &addresses{store: a.store, claims: a.claims, cidr: a.cidr, dry: true}
}
