package httpapi

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"net"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/util/dryrun"
	core "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"

	"murmur/crdt"
)

// Cluster addresses and node ports are not kept in a table of their own: what the Services in the snapshot say, and what is
// claimed (claim.go), is what is taken. A Service draws by the hash of its name, never the first free number: two sides of a partition
// that allocate at the same time must not collide as a rule, and if they create the same Service they should agree.

// reserveLife bounds how long a number drawn for a Service that is not in the store yet is held.
const reserveLife = time.Minute

// reserved are numbers drawn by requests that have not committed yet.
type reserved[T comparable] struct {
	mu   sync.Mutex
	held map[T]time.Time
}

func (r *reserved[T]) take(v T, used func(T) bool) bool {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for h, at := range r.held {
		if now.Sub(at) > reserveLife {
			delete(r.held, h)
		}
	}
	if _, ok := r.held[v]; ok || used(v) {
		return false
	}
	if r.held == nil {
		r.held = map[T]time.Time{}
	}
	r.held[v] = now
	return true
}

func (r *reserved[T]) release(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, v)
}

func (r *reserved[T]) has(v T) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.held[v]
	return ok
}

// reservedAddresses at the beginning of the range are for those who name them: .1 is the API, .10 is DNS.
const reservedAddresses = 16

// addresses is upstream's cluster address allocator over the Services in the store.
type addresses struct {
	store  *crdt.Store
	claims *claims
	cidr   netip.Prefix
	reserved[netip.Addr]
	dry bool
}

var _ ipallocator.Interface = (*addresses)(nil)

func newAddresses(store *crdt.Store, c *claims, cidr netip.Prefix) *addresses {
	return &addresses{store: store, claims: c, cidr: cidr.Masked()}
}

func (a *addresses) used() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, svc := range crdt.List[corev1.Service](a.store.Snapshot(), "services", "") {
		for _, ip := range svc.Spec.ClusterIPs {
			if addr, err := netip.ParseAddr(ip); err == nil {
				out[addr] = true
			}
		}
	}
	return out
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
		if used[addr] {
			return ipallocator.ErrAllocated
		}
		return nil
	}
	if !a.take(addr, func(v netip.Addr) bool { return used[v] }) {
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
		return !used[addr] && !a.has(addr) && a.claims.free(addressClaim(addr))
	})
	return nth(a.cidr.Addr(), reservedAddresses+i), ok
}

func nth(base netip.Addr, n uint64) netip.Addr {
	b := base.As16()
	low := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], low+n)
	return netip.AddrFrom16(b).Unmap()
}

// probe walks a ring of n places from the hash of a name until one is free.
func probe(name string, n uint64, free func(uint64) bool) (uint64, bool) {
	h := fnv.New64a()
	h.Write([]byte(name))
	start := mix(h.Sum64()) % n
	for i := range n {
		if at := (start + i) % n; free(at) {
			return at, true
		}
	}
	return 0, false
}

// mix spreads FNV's bits, whose low ones are weak for names that differ in one character (murmur3's finaliser).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

func (a *addresses) Release(ip net.IP) error {
	a.release(addrOf(ip))
	a.claims.drop(addressClaim(addrOf(ip)))
	return nil
}

func (a *addresses) ForEach(f func(net.IP)) {
	for addr := range a.used() {
		f(addr.AsSlice())
	}
}

func (a *addresses) CIDR() net.IPNet {
	return net.IPNet{IP: a.cidr.Addr().AsSlice(), Mask: net.CIDRMask(a.cidr.Bits(), a.cidr.Addr().BitLen())}
}
func (a *addresses) IPFamily() core.IPFamily { return core.IPv4Protocol }
func (a *addresses) Has(ip net.IP) bool      { return a.used()[addrOf(ip)] || a.has(addrOf(ip)) }
func (a *addresses) Destroy()                {}
func (a *addresses) EnableMetrics()          {}
func (a *addresses) DryRun() ipallocator.Interface {
	return &addresses{store: a.store, claims: a.claims, cidr: a.cidr, dry: true}
}

// ports is upstream's node port allocator over the Services in the store.
type ports struct {
	store  *crdt.Store
	claims *claims
	span   utilnet.PortRange
	reserved[int]
}

var _ portallocator.Interface = (*ports)(nil)

func newPorts(store *crdt.Store, c *claims, span utilnet.PortRange) *ports {
	return &ports{store: store, claims: c, span: span}
}

func (p *ports) used() map[int]bool {
	out := map[int]bool{}
	for _, svc := range crdt.List[corev1.Service](p.store.Snapshot(), "services", "") {
		for _, port := range svc.Spec.Ports {
			if port.NodePort != 0 {
				out[int(port.NodePort)] = true
			}
		}
		if n := svc.Spec.HealthCheckNodePort; n != 0 {
			out[int(n)] = true
		}
	}
	return out
}

func (p *ports) Allocate(port int) error {
	if !p.span.Contains(port) {
		return &portallocator.ErrNotInRange{ValidPorts: p.span.String()}
	}
	used := p.used()
	if !p.take(port, func(v int) bool { return used[v] }) {
		p.claims.taken = true
		return portallocator.ErrAllocated
	}
	if !p.claims.draw(portClaim(port)) {
		p.release(port)
		return portallocator.ErrAllocated
	}
	return nil
}

// AllocateNext draws for whom no name is known; Services draw with choose.
func (p *ports) AllocateNext() (int, error) {
	for range drawAgain {
		port, ok := p.choose(time.Now().String(), nil)
		if !ok {
			return 0, portallocator.ErrFull
		}
		if err := p.Allocate(port); !errors.Is(err, portallocator.ErrAllocated) {
			return port, err
		}
	}
	return 0, portallocator.ErrAllocated
}

// choose finds the free port for a name, not among those in taken.
func (p *ports) choose(name string, taken map[int]bool) (int, bool) {
	used := p.used()
	i, ok := probe(name, uint64(p.span.Size), func(i uint64) bool {
		port := p.span.Base + int(i)
		return !used[port] && !taken[port] && !p.has(port) && p.claims.free(portClaim(port))
	})
	return p.span.Base + int(i), ok
}

func (p *ports) Release(port int) error {
	p.release(port)
	p.claims.drop(portClaim(port))
	return nil
}

func (p *ports) ForEach(f func(int)) {
	for port := range p.used() {
		f(port)
	}
}
func (p *ports) Has(port int) bool { return p.used()[port] || p.has(port) }
func (p *ports) Destroy()          {}
func (p *ports) EnableMetrics()    {}

// chooseByName has a Service ask for the address and ports of its name where it asks for any; upstream's
// allocation, which follows, then finds them named.
func (s *Server) chooseByName(store *genericregistry.Store) {
	create, update := store.BeginCreate, store.BeginUpdate
	store.BeginCreate = func(ctx context.Context, obj runtime.Object, options *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
		return s.allocate(ctx, obj.(*core.Service), nil, dryrun.IsDryRun(options.DryRun), func() (genericregistry.FinishFunc, error) {
			return create(ctx, obj, options)
		})
	}
	store.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, options *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
		return s.allocate(ctx, obj.(*core.Service), old.(*core.Service), dryrun.IsDryRun(options.DryRun), func() (genericregistry.FinishFunc, error) {
			return update(ctx, obj, old, options)
		})
	}
}

func (s *Server) choose(svc, old *core.Service, dry bool) {
	name := svc.Namespace + "/" + svc.Name
	if svc.Spec.Type == core.ServiceTypeExternalName {
		return
	}
	// A Service that keeps its address or ports gets them from upstream's update.
	fresh := old == nil || old.Spec.Type == core.ServiceTypeExternalName
	if fresh && svc.Spec.ClusterIP == "" && len(svc.Spec.ClusterIPs) == 0 {
		if addr, ok := s.addresses.choose(name); ok {
			svc.Spec.ClusterIP = addr.String()
			svc.Spec.ClusterIPs = []string{addr.String()}
		}
	}
	wants := svc.Spec.Type == core.ServiceTypeNodePort ||
		svc.Spec.Type == core.ServiceTypeLoadBalancer && (svc.Spec.AllocateLoadBalancerNodePorts == nil || *svc.Spec.AllocateLoadBalancerNodePorts)
	had := old != nil && (old.Spec.Type == core.ServiceTypeNodePort || old.Spec.Type == core.ServiceTypeLoadBalancer)
	if !wants || had || dry {
		return
	}
	taken := map[int]bool{}
	for _, p := range svc.Spec.Ports {
		taken[int(p.NodePort)] = true
	}
	// The same port number in TCP and UDP shares one node port.
	same := map[int32]int32{}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		if n, ok := same[p.Port]; ok {
			p.NodePort = n
			continue
		}
		if port, ok := s.ports.choose(name+":"+p.Name, taken); ok {
			p.NodePort = int32(port)
			taken[port] = true
			same[p.Port] = p.NodePort
		}
	}
}
