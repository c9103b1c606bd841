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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	core "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"

	"murmur/crdt"
	"murmur/httpapi/storage"
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
// draw one after the other, in memory. What was drawn is claimed after that, without a lock: it may take as long as other
// nodes take to answer.
type claims struct {
	cfg *Config
	// commit makes a write of the class that the request in ctx is of.
	commit func(ctx context.Context, w crdt.Write) (*crdt.Entry, error)

	// mu is held while numbers are drawn for one Service. What follows is about that Service.
	mu sync.Mutex
	// owner is its "namespace/name".
	owner string
	// drawn are the numbers that it is to claim.
	drawn []crdt.Key
	// taken: a number turned out to be another's.
	taken bool

	// lostMu guards lost: the numbers that requests under way have drawn and did not get, whose claims are others'.
	lostMu sync.Mutex
	lost   map[crdt.Key]int
}

// free tells whether a number may be claimed for the Service that draws, as far as is known here.
func (c *claims) free(k crdt.Key) bool {
	snap := c.cfg.Store.Snapshot()
	e, ok := snap.Get(k)
	return !ok || c.owns(c.owner, e) || c.void(snap, e)
}

// draw notes a number to be claimed. It is false if it is claimed for another.
func (c *claims) draw(k crdt.Key) bool {
	if !c.free(k) {
		c.taken = true
		return false
	}
	c.drawn = append(c.drawn, k)
	return true
}

func (c *claims) owns(owner string, e *crdt.Entry) bool {
	of, _ := claimant(e)
	return of == owner
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

// errClaimed is returned for a number whose claim is another Service's.
var errClaimed = errors.New("the number is claimed for another Service")

// take claims a number for a Service.
func (c *claims) take(ctx context.Context, owner string, k crdt.Key) error {
	namespace, name, _ := strings.Cut(owner, "/")
	for range claimAttempts {
		snap := c.cfg.Store.Snapshot()
		w := crdt.Write{Key: k, Object: newClaim(k, namespace, name)}
		if e, ok := snap.Get(k); ok {
			if c.owns(owner, e) {
				return nil
			}
			if !c.void(snap, e) {
				return errClaimed
			}
			w = crdt.Write{Key: k, Base: e}
		}
		_, err := c.commit(ctx, w)
		switch {
		case err == nil && w.Base == nil:
			return nil
		case err == nil, errors.Is(err, crdt.ErrExists), errors.Is(err, crdt.ErrConflict), errors.Is(err, crdt.ErrNotFound):
			continue // as it is now, it is looked at again
		}
		return fmt.Errorf("claim %s: %w", k.Name, err)
	}
	return errClaimed
}

// takeAll claims numbers for a Service. If one cannot be claimed, undo gives back what was drawn: of the claims, those that
// were made.
func (c *claims) takeAll(ctx context.Context, owner string, numbers []crdt.Key, undo func()) error {
	for i, k := range numbers {
		err := c.take(ctx, owner, k)
		if err == nil {
			continue
		}
		c.lose(numbers[i:], 1)
		undo()
		c.lose(numbers[i:], -1)
		return err
	}
	return nil
}

func (c *claims) lose(numbers []crdt.Key, n int) {
	c.lostMu.Lock()
	defer c.lostMu.Unlock()
	if c.lost == nil {
		c.lost = map[crdt.Key]int{}
	}
	for _, k := range numbers {
		if c.lost[k] += n; c.lost[k] == 0 {
			delete(c.lost, k)
		}
	}
}

// drop takes a claim away if no Service uses its number.
func (c *claims) drop(k crdt.Key) {
	c.lostMu.Lock()
	lost := c.lost[k] > 0
	c.lostMu.Unlock()
	if lost {
		return
	}
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

// begin draws for a Service until end, which says what it is to claim and whether a number was another's.
func (c *claims) begin(owner string) (end func() (drawn []crdt.Key, taken bool)) {
	c.mu.Lock()
	c.owner, c.drawn, c.taken = owner, nil, false
	return func() ([]crdt.Key, bool) {
		defer c.mu.Unlock()
		drawn, taken := c.drawn, c.taken
		c.owner, c.drawn = "", nil
		return drawn, taken
	}
}

// drawAgain bounds how often a Service draws numbers that turn out to be taken.
const drawAgain = 8

// allocate has a Service draw what it does not name, upstream allocate it, and the claims made.
func (s *Server) allocate(ctx context.Context, svc, old *core.Service, dry bool, upstream func() (genericregistry.FinishFunc, error)) (genericregistry.FinishFunc, error) {
	owner := svc.Namespace + "/" + svc.Name
	asked := svc.DeepCopy()
	for attempt := 0; ; attempt++ {
		end := s.claims.begin(owner)
		s.choose(svc, old, dry)
		drew := !equality.Semantic.DeepEqual(asked.Spec, svc.Spec)
		finish, err := upstream()
		drawn, taken := end()
		if err == nil {
			if err = s.claims.takeAll(ctx, owner, drawn, func() { finish(ctx, false) }); err == nil {
				return finish, nil
			}
			if taken = errors.Is(err, errClaimed); !taken {
				return nil, storage.StatusError(core.Resource("services"), "allocate", crdt.Key{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}, err)
			}
		}
		if !taken || !drew || attempt == drawAgain {
			return nil, invalidNumber(svc, err)
		}
		*svc = *asked.DeepCopy()
	}
}

// invalidNumber is upstream's answer to a Service that names a number of another's.
func invalidNumber(svc *core.Service, err error) error {
	if !errors.Is(err, errClaimed) {
		return err
	}
	return apierrors.NewInvalid(core.Kind("Service"), svc.Name, field.ErrorList{field.Invalid(field.NewPath("spec"), svc.Spec.ClusterIPs,
		"an address or port that it names is allocated already")})
}

// Claim makes the claims of a Service's numbers say that they are its. That is so already unless two sides of a cut network
// have claimed the same, or a claim was lost.
func (s *Server) Claim(ctx context.Context, svc *corev1.Service, numbers []crdt.Key) error {
	ctx = storage.WithRequest(ctx, storage.Request{Outside: true})
	for _, k := range numbers {
		w := crdt.Write{Key: k, Object: newClaim(k, svc.Namespace, svc.Name)}
		if e, ok := s.cfg.Store.Snapshot().Get(k); ok {
			_, made := claimant(e)
			w.Base = e
			w.Object.(metav1.Object).SetCreationTimestamp(metav1.NewTime(made))
		}
		if _, err := s.backend.Commit(ctx, w); err != nil {
			return fmt.Errorf("claim %s for service %s/%s: %w", k.Name, svc.Namespace, svc.Name, err)
		}
	}
	return nil
}

// Renumber gives a Service others in place of some of its numbers: what no user may do, as they never change. It is for two
// Services that got the same one on two sides of a cut network.
func (s *Server) Renumber(ctx context.Context, svc *corev1.Service, numbers []crdt.Key) error {
	// Other nodes allocate too.
	ctx = storage.WithRequest(ctx, storage.Request{Outside: true})
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
		if err := s.renumber(ctx, next, k); err != nil {
			return fmt.Errorf("another number than %s for service %s/%s: %w", k.Name, svc.Namespace, svc.Name, err)
		}
	}
	_, err := s.cfg.Store.Commit(ctx, crdt.Write{Key: base.Key, Object: next, Base: base})
	return err
}

// renumber draws another number in place of k, and claims it.
func (s *Server) renumber(ctx context.Context, svc *corev1.Service, k crdt.Key) error {
	owner := svc.Namespace + "/" + svc.Name
	for range drawAgain {
		replace, release, err := s.another(owner, k)
		switch {
		case err != nil:
			return err
		case replace == nil:
			continue
		}
		drawn := replace.key
		switch err := s.claims.takeAll(ctx, owner, []crdt.Key{drawn}, release); {
		case errors.Is(err, errClaimed):
			continue
		case err != nil:
			return err
		}
		replace.in(svc)
		return nil
	}
	return ipallocator.ErrAllocated
}

// replacement is a number that a Service gets in place of another.
type replacement struct {
	key crdt.Key
	in  func(*corev1.Service)
}

// another draws a number of the kind of k. It is nil if what was drawn is taken meanwhile.
func (s *Server) another(owner string, k crdt.Key) (*replacement, func(), error) {
	end := s.claims.begin(owner)
	defer end()
	if k.Resource == addressClaims {
		addr, ok := s.addresses.choose(owner)
		if !ok {
			return nil, nil, ipallocator.ErrFull
		}
		if err := s.addresses.Allocate(addr.AsSlice()); err != nil {
			return nil, nil, unlessTaken(err)
		}
		return &replacement{addressClaim(addr), func(svc *corev1.Service) {
			for i := range svc.Spec.ClusterIPs {
				if svc.Spec.ClusterIPs[i] == k.Name {
					svc.Spec.ClusterIPs[i] = addr.String()
				}
			}
			if svc.Spec.ClusterIP == k.Name {
				svc.Spec.ClusterIP = addr.String()
			}
		}}, func() { s.addresses.release(addr) }, nil
	}
	port, ok := s.ports.choose(owner, nil)
	if !ok {
		return nil, nil, portallocator.ErrFull
	}
	if err := s.ports.Allocate(port); err != nil {
		return nil, nil, unlessTaken(err)
	}
	return &replacement{portClaim(port), func(svc *corev1.Service) {
		for i := range svc.Spec.Ports {
			if p := &svc.Spec.Ports[i]; strconv.Itoa(int(p.NodePort)) == k.Name {
				p.NodePort = int32(port)
			}
		}
		if strconv.Itoa(int(svc.Spec.HealthCheckNodePort)) == k.Name {
			svc.Spec.HealthCheckNodePort = int32(port)
		}
	}}, func() { s.ports.release(port) }, nil
}

// unlessTaken drops the error of a number that is taken.
func unlessTaken(err error) error {
	if errors.Is(err, ipallocator.ErrAllocated) || errors.Is(err, portallocator.ErrAllocated) {
		return nil
	}
	return err
}
