package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	core "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"

	"murmur/crdt"
)

// A cluster address or node port belongs to a Service by a claim: an object under the name of the number, created as all that must
// not be created twice. So two Services never get the same one among nodes that see each other, whichever node is asked. The
// claim of an address is upstream's IPAddress; that of a port is an object of the store alone.

const (
	addressClaims = "networking.k8s.io/ipaddresses"
	portClaims    = "murmur.io/nodeports"
	// claimLife is how long a claim is believed without a Service that uses the number: its Service may be on the way.
	claimLife = time.Minute
)

func addressClaim(a netip.Addr) crdt.Key { return crdt.Key{Resource: addressClaims, Name: a.String()} }
func portClaim(p int) crdt.Key           { return crdt.Key{Resource: portClaims, Name: strconv.Itoa(p)} }

// uses tells whether a Service has the number that a claim is for.
func uses(svc *corev1.Service, k crdt.Key) bool {
	if k.Resource == addressClaims {
		for _, ip := range svc.Spec.ClusterIPs {
			if ip == k.Name {
				return true
			}
		}
		return false
	}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 && strconv.Itoa(int(p.NodePort)) == k.Name {
			return true
		}
	}
	return svc.Spec.HealthCheckNodePort != 0 && strconv.Itoa(int(svc.Spec.HealthCheckNodePort)) == k.Name
}

// claimant is the "namespace/name" of the Service that a claim is for, and when it was made.
func claimant(e *crdt.Entry) (owner string, made time.Time) {
	value, err := e.Map()
	if err != nil {
		return "", made
	}
	u := unstructured.Unstructured{Object: value}
	made = u.GetCreationTimestamp().Time
	if e.Key.Resource == portClaims {
		owner, _, _ = unstructured.NestedString(value, "service")
		return owner, made
	}
	namespace, _, _ := unstructured.NestedString(value, "spec", "parentRef", "namespace")
	name, _, _ := unstructured.NestedString(value, "spec", "parentRef", "name")
	return namespace + "/" + name, made
}

// newClaim is the claim of a number for a Service.
func newClaim(k crdt.Key, namespace, name string) runtime.Object {
	if k.Resource == portClaims {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "murmur.io/v1", "kind": "NodePort", "metadata": map[string]any{"name": k.Name}, "service": namespace + "/" + name,
		}}
	}
	family := corev1.IPv4Protocol
	if a, err := netip.ParseAddr(k.Name); err == nil && a.Is6() {
		family = corev1.IPv6Protocol
	}
	return &networkingv1.IPAddress{
		TypeMeta: metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "IPAddress"},
		ObjectMeta: metav1.ObjectMeta{Name: k.Name, Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(family), networkingv1.LabelManagedBy: ipallocator.ControllerName,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: namespace, Name: name}},
	}
}

// claims makes and drops claims. Upstream's allocators are not told for which Service they allocate, so those of one node
// allocate one after the other.
type claims struct {
	cfg *Config

	mu sync.Mutex
	// What follows is about the Service that is allocated for now; mu is held as long as it is.
	ctx             context.Context
	namespace, name string
	// taken: a number turned out to be another's, drawn before that was known here. failed: a claim could not be made.
	taken  bool
	failed error
}

// free tells whether a number may be claimed, as far as is known here.
func (c *claims) free(k crdt.Key) bool {
	snap := c.cfg.Store.Snapshot()
	e, ok := snap.Get(k)
	return !ok || c.mine(e) || c.void(snap, e)
}

func (c *claims) mine(e *crdt.Entry) bool {
	owner, _ := claimant(e)
	return owner == c.namespace+"/"+c.name
}

// void tells whether a claim is older than any Service that it could be for, and no Service uses its number.
func (c *claims) void(snap *crdt.Snapshot, e *crdt.Entry) bool {
	owner, made := claimant(e)
	if time.Since(made) < claimLife {
		return false
	}
	namespace, name, _ := strings.Cut(owner, "/")
	svc, ok := crdt.Get[corev1.Service](snap, crdt.Key{Resource: "services", Namespace: namespace, Name: name})
	return !ok || !uses(svc, e.Key)
}

// claimAttempts bounds how often a claim is tried that others change meanwhile.
const claimAttempts = 4

// take claims a number for the Service that is allocated for.
func (c *claims) take(k crdt.Key) error {
	commit := c.cfg.Store.Commit
	if c.cfg.Homes != nil && askedOf(c.ctx).outside {
		commit = c.cfg.Homes.Commit
	}
	for range claimAttempts {
		snap := c.cfg.Store.Snapshot()
		w := crdt.Write{Key: k, Object: newClaim(k, c.namespace, c.name)}
		if e, ok := snap.Get(k); ok {
			if c.mine(e) {
				return nil
			}
			if !c.void(snap, e) {
				break
			}
			w = crdt.Write{Key: k, Base: e}
		}
		_, err := commit(c.ctx, w)
		switch {
		case err == nil && w.Base == nil:
			return nil
		case err == nil, errors.Is(err, crdt.ErrExists), errors.Is(err, crdt.ErrConflict), errors.Is(err, crdt.ErrNotFound):
			continue // as it is now, it is looked at again
		}
		c.failed = fmt.Errorf("claim %s: %w", k.Name, err)
		return c.failed
	}
	c.taken = true
	return ipallocator.ErrAllocated
}

// drop takes a claim away if no Service uses its number.
func (c *claims) drop(k crdt.Key) {
	snap := c.cfg.Store.Snapshot()
	e, ok := snap.Get(k)
	if !ok {
		return
	}
	for _, svc := range crdt.List[corev1.Service](snap, "services", "") {
		if uses(svc, k) {
			return
		}
	}
	// If it cannot be dropped now it is void after a while.
	if _, err := c.cfg.Store.Commit(context.Background(), crdt.Write{Key: k, Base: e}); err != nil {
		c.cfg.Log.Debug("drop a claim", "of", k, "err", err)
	}
}

// begin allocates for a Service until end.
func (c *claims) begin(ctx context.Context, namespace, name string) (end func()) {
	c.mu.Lock()
	c.ctx, c.namespace, c.name, c.taken, c.failed = ctx, namespace, name, false, nil
	return func() {
		c.ctx, c.namespace, c.name = nil, "", ""
		c.mu.Unlock()
	}
}

// drawAgain bounds how often a Service draws numbers that turn out to be taken.
const drawAgain = 8

// allocate has a Service draw what it does not name, and upstream claim it.
func (s *Server) allocate(ctx context.Context, svc, old *core.Service, dry bool, upstream func() (genericregistry.FinishFunc, error)) (genericregistry.FinishFunc, error) {
	c := &s.claims
	defer c.begin(ctx, svc.Namespace, svc.Name)()
	asked := svc.DeepCopy()
	for attempt := 0; ; attempt++ {
		c.taken, c.failed = false, nil
		s.choose(svc, old, dry)
		drew := !equality.Semantic.DeepEqual(asked.Spec, svc.Spec)
		finish, err := upstream()
		switch {
		case err == nil:
			return finish, nil
		case c.failed != nil:
			return nil, failed(core.Resource("services"), "allocate", crdt.Key{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}, c.failed)
		case !c.taken || !drew || attempt == drawAgain:
			return nil, err
		}
		*svc = *asked.DeepCopy()
	}
}

// Claim makes the claims of a Service's numbers say that they are its. That is so already unless two sides of a cut network
// have claimed the same, or a claim was lost.
func (s *Server) Claim(ctx context.Context, svc *corev1.Service, numbers []crdt.Key) error {
	for _, k := range numbers {
		w := crdt.Write{Key: k, Object: newClaim(k, svc.Namespace, svc.Name)}
		if e, ok := s.cfg.Store.Snapshot().Get(k); ok {
			_, made := claimant(e)
			w.Base = e
			w.Object.(metav1.Object).SetCreationTimestamp(metav1.NewTime(made))
		}
		commit := s.cfg.Store.Commit
		if s.cfg.Homes != nil {
			commit = s.cfg.Homes.Commit
		}
		if _, err := commit(ctx, w); err != nil {
			return fmt.Errorf("claim %s for service %s/%s: %w", k.Name, svc.Namespace, svc.Name, err)
		}
	}
	return nil
}

// Renumber gives a Service others in place of some of its numbers: what no user may do, as they never change. It is for two
// Services that got the same one on two sides of a cut network.
func (s *Server) Renumber(ctx context.Context, svc *corev1.Service, numbers []crdt.Key) error {
	// Other nodes allocate too.
	ctx = context.WithValue(ctx, classKey{}, asked{outside: true})
	defer s.claims.begin(ctx, svc.Namespace, svc.Name)()
	base, ok := s.cfg.Store.Snapshot().Get(crdt.Key{Resource: "services", Namespace: svc.Namespace, Name: svc.Name})
	if !ok || base.UID != svc.UID {
		return nil
	}
	next := &corev1.Service{}
	if err := base.Into(next); err != nil {
		return err
	}
	next.APIVersion, next.Kind = "v1", "Service"
	for _, k := range numbers {
		if err := s.renumber(next, k); err != nil {
			return fmt.Errorf("another number than %s for service %s/%s: %w", k.Name, svc.Namespace, svc.Name, err)
		}
	}
	_, err := s.cfg.Store.Commit(ctx, crdt.Write{Key: base.Key, Object: next, Base: base})
	return err
}

func (s *Server) renumber(svc *corev1.Service, k crdt.Key) error {
	name := svc.Namespace + "/" + svc.Name
	for range drawAgain {
		if k.Resource == addressClaims {
			addr, ok := s.addresses.choose(name)
			if !ok {
				return ipallocator.ErrFull
			}
			if err := s.addresses.Allocate(addr.AsSlice()); errors.Is(err, ipallocator.ErrAllocated) {
				continue
			} else if err != nil {
				return err
			}
			for i := range svc.Spec.ClusterIPs {
				if svc.Spec.ClusterIPs[i] == k.Name {
					svc.Spec.ClusterIPs[i] = addr.String()
				}
			}
			if svc.Spec.ClusterIP == k.Name {
				svc.Spec.ClusterIP = addr.String()
			}
			return nil
		}
		port, ok := s.ports.choose(name, nil)
		if !ok {
			return portallocator.ErrFull
		}
		if err := s.ports.Allocate(port); errors.Is(err, portallocator.ErrAllocated) {
			continue
		} else if err != nil {
			return err
		}
		for i := range svc.Spec.Ports {
			if p := &svc.Spec.Ports[i]; strconv.Itoa(int(p.NodePort)) == k.Name {
				p.NodePort = int32(port)
			}
		}
		if strconv.Itoa(int(svc.Spec.HealthCheckNodePort)) == k.Name {
			svc.Spec.HealthCheckNodePort = int32(port)
		}
		return nil
	}
	return ipallocator.ErrAllocated
}
