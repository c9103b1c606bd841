package allocator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/util/dryrun"
	core "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/storage"
)

// Config is what allocation takes.
type Config struct {
	Store *store.Store
	// Commit makes a write as the request in its context asks for: at one node for all, if it came from outside.
	Commit func(ctx context.Context, w store.Write) (*store.Entry, error)
	// Addresses and Ports are the ranges.
	Addresses netip.Prefix
	Ports     utilnet.PortRange
	Log       *slog.Logger
}

// Services gives Services their numbers.
type Services struct {
	cfg       Config
	claims    claims
	addresses *addresses
	ports     *ports
}

// New allocates from the ranges. It starts nothing.
func New(cfg Config) *Services {
	s := &Services{cfg: cfg}
	s.claims.cfg = &s.cfg
	s.addresses = newAddresses(cfg.Store, &s.claims, cfg.Addresses)
	s.ports = newPorts(cfg.Store, &s.claims, cfg.Ports)
	return s
}

// Addresses is upstream's allocator of cluster addresses.
func (s *Services) Addresses() ipallocator.Interface { return s.addresses }

// Ports is upstream's allocator of node ports.
func (s *Services) Ports() portallocator.Interface { return s.ports }

// Install has a Service ask for the address and ports of its name where it asks for any; upstream's
// allocation, which follows, then finds them named.
func (s *Services) Install(store *genericregistry.Store) {
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

func (s *Services) choose(svc, old *core.Service, dry bool) {
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

// drawAgain bounds how often a Service draws numbers that turn out to be taken.
const drawAgain = 8

// allocate has a Service draw what it does not name, upstream allocate it, and the claims made.
func (s *Services) allocate(ctx context.Context, svc, old *core.Service, dry bool, upstream func() (genericregistry.FinishFunc, error)) (genericregistry.FinishFunc, error) {
	owner := svc.Namespace + "/" + svc.Name
	asked := svc.DeepCopy()
	for attempt := 0; ; attempt++ {
		end := s.claims.begin(owner)
		s.choose(svc, old, dry)
		drew := !equality.Semantic.DeepEqual(asked.Spec, svc.Spec)
		finish, err := upstream()
		drawn, taken := end()
		s.claims.settle()
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
func (s *Services) Claim(ctx context.Context, svc *corev1.Service, numbers []crdt.Key) error {
	ctx = storage.WithRequest(ctx, storage.Request{Outside: true})
	for _, k := range numbers {
		w := store.Write{Key: k, Object: newClaim(k, svc.Namespace, svc.Name)}
		if e, ok := s.cfg.Store.Snapshot().Get(k); ok {
			_, made := claimant(e)
			w.Base = e
			w.Object.(metav1.Object).SetCreationTimestamp(metav1.NewTime(made))
		}
		if _, err := s.cfg.Commit(ctx, w); err != nil {
			return fmt.Errorf("claim %s for service %s/%s: %w", k.Name, svc.Namespace, svc.Name, err)
		}
	}
	return nil
}

// Renumber gives a Service others in place of some of its numbers: what no user may do, as they never change. It is for two
// Services that got the same one on two sides of a cut network.
func (s *Services) Renumber(ctx context.Context, svc *corev1.Service, numbers []crdt.Key) error {
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
	_, err := s.cfg.Store.Commit(ctx, store.Write{Key: base.Key, Object: next, Base: base})
	return err
}

// renumber draws another number in place of k, and claims it.
func (s *Services) renumber(ctx context.Context, svc *corev1.Service, k crdt.Key) error {
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
func (s *Services) another(owner string, k crdt.Key) (*replacement, func(), error) {
	end := s.claims.begin(owner)
	defer s.claims.settle()
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
