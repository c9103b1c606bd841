package allocator

import (
	"errors"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"

	"murmur/crdt/store"
)

// ports is upstream's node port allocator over the Services in the store.
type ports struct {
	store  *store.Store
	claims *claims
	span   utilnet.PortRange
	reserved[int]
}

var _ portallocator.Interface = (*ports)(nil)

func newPorts(store *store.Store, c *claims, span utilnet.PortRange) *ports {
	return &ports{store: store, claims: c, span: span}
}

// used tells of a port whether a Service has it.
func (p *ports) used() func(int) bool {
	snap := p.store.Snapshot()
	return func(port int) bool {
		for range snap.Indexed(store.ByPort, strconv.Itoa(port), "services", "", "") {
			return true
		}
		return false
	}
}

func (p *ports) Allocate(port int) error {
	if !p.span.Contains(port) {
		return &portallocator.ErrNotInRange{ValidPorts: p.span.String()}
	}
	used := p.used()
	if !p.take(port, used) {
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
		return !used(port) && !taken[port] && !p.has(port) && p.claims.free(portClaim(port))
	})
	return p.span.Base + int(i), ok
}

func (p *ports) Release(port int) error {
	p.release(port)
	p.claims.release(portClaim(port))
	return nil
}

func (p *ports) ForEach(f func(int)) {
	for _, svc := range store.Having[corev1.Service](p.store.Snapshot(), store.ByPort, "services") {
		for _, port := range svc.Spec.Ports {
			if port.NodePort != 0 {
				f(int(port.NodePort))
			}
		}
		if n := svc.Spec.HealthCheckNodePort; n != 0 {
			f(int(n))
		}
	}
}
func (p *ports) Has(port int) bool { return p.used()(port) || p.has(port) }
func (p *ports) Destroy()          {}
func (p *ports) EnableMetrics()    {}
