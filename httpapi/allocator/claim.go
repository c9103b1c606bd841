package allocator

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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"

	"murmur/crdt"
	"murmur/crdt/store"
)

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
func claimant(e *store.Entry) (owner string, made time.Time) {
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

	// mu is held while numbers are drawn for one Service. What follows is about that Service.
	mu sync.Mutex
	// owner is its "namespace/name".
	owner string
	// drawn are the numbers that it is to claim.
	drawn []crdt.Key
	// taken: a number turned out to be another's.
	taken bool

	// notes guards what follows: the numbers that requests under way have drawn and did not get, whose claims are others',
	// and the claims to be dropped, of numbers that Services no longer use.
	notes    sync.Mutex
	lost     map[crdt.Key]int
	released []*store.Entry
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

func (c *claims) owns(owner string, e *store.Entry) bool {
	of, _ := claimant(e)
	return of == owner
}

// void tells whether a claim is older than any Service that it could be for, and no Service uses its number.
func (c *claims) void(snap *store.Snapshot, e *store.Entry) bool {
	owner, made := claimant(e)
	if time.Since(made) < claimLife {
		return false
	}
	namespace, name, _ := strings.Cut(owner, "/")
	svc, ok := store.Get[corev1.Service](snap, crdt.Key{Resource: "services", Namespace: namespace, Name: name})
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
		w := store.Write{Key: k, Object: newClaim(k, namespace, name)}
		if e, ok := snap.Get(k); ok {
			if c.owns(owner, e) {
				return nil
			}
			if !c.void(snap, e) {
				return errClaimed
			}
			w = store.Write{Key: k, Base: e}
		}
		_, err := c.cfg.Commit(ctx, w)
		switch {
		case err == nil && w.Base == nil:
			return nil
		case err == nil, errors.Is(err, store.ErrExists), errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
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
	c.notes.Lock()
	defer c.notes.Unlock()
	if c.lost == nil {
		c.lost = map[crdt.Key]int{}
	}
	for _, k := range numbers {
		if c.lost[k] += n; c.lost[k] == 0 {
			delete(c.lost, k)
		}
	}
}

// release notes that a Service no longer uses a number, and drops its claim if no Service does. Upstream releases numbers
// also while it allocates; claims are not dropped then, as others wait to draw, but when that has ended.
func (c *claims) release(k crdt.Key) {
	e, ok := c.cfg.Store.Snapshot().Get(k)
	if !ok {
		return
	}
	c.notes.Lock()
	if c.lost[k] == 0 {
		c.released = append(c.released, e)
	}
	c.notes.Unlock()
	// If somebody is drawing, this goroutine perhaps, the note is found when that has ended.
	if c.mu.TryLock() {
		c.mu.Unlock()
		c.settle()
	}
}

// settle drops the claims of what was released. It is called after each drawing.
func (c *claims) settle() {
	c.notes.Lock()
	released := c.released
	c.released = nil
	c.notes.Unlock()
	for _, e := range released {
		c.drop(e)
	}
}

// drop takes a claim away if it is what it was, and no Service uses its number.
func (c *claims) drop(e *store.Entry) {
	by := store.ByAddress
	if e.Key.Resource == portClaims {
		by = store.ByPort
	}
	for _, svc := range store.Find[corev1.Service](c.cfg.Store.Snapshot(), by, e.Key.Name, "services", "") {
		if uses(svc, e.Key) {
			return
		}
	}
	// If it cannot be dropped now it is void after a while.
	if _, err := c.cfg.Store.Commit(context.Background(), store.Write{Key: e.Key, Base: e}); err != nil {
		c.cfg.Log.Debug("drop a claim", "of", e.Key, "err", err)
	}
}

// begin draws for a Service until end, which says what it is to claim and whether a number was another's. settle is to
// follow.
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
