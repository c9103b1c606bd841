package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"murmur/crdt/primary"
	"murmur/crdt/store"
)

// together is the view of a node for which all are alive.
type together struct {
	names []string
}

func (v together) Alive() []string          { return v.names }
func (v together) Unheard() bool            { return false }
func (v together) Changed() <-chan struct{} { return nil }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

type pipeConn struct {
	net.Conn
	peer string
}

func (c pipeConn) RemoteAddr() net.Addr { return pipeAddr(c.peer) }

type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return pipeAddr("") }

// newNodes are the APIs of nodes that see each other. They exchange what they have only if gossip says so.
func newNodes(t *testing.T, n int, gossip bool, change ...func(*Config)) []*node {
	t.Helper()
	var names []string
	listeners := map[string]*pipeListener{}
	for i := range n {
		name := fmt.Sprint("n", i+1)
		names = append(names, name)
		listeners[name] = &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	}
	var nodes []*node
	var all []*primary.Coordinator
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, name := range names {
		var coordinator *primary.Coordinator
		nodes = append(nodes, newNode(t, func(c *Config) {
			var err error
			coordinator, err = primary.New(primary.Config{
				Store: c.Store, Node: name, View: together{names}, Listener: listeners[name],
				Owner: func(v store.Version) string {
					for i, o := range nodes {
						if v.Of(o.store.Origin()) {
							return names[i]
						}
					}
					return ""
				},
				Dial: func(ctx context.Context, to string) (net.Conn, error) {
					a, b := net.Pipe()
					select {
					case listeners[to].conns <- pipeConn{b, name}:
						return pipeConn{a, to}, nil
					case <-listeners[to].done:
						return nil, errors.New("closed")
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				},
			})
			check(t, err)
			c.Node, c.Primary = name, coordinator
			for _, f := range change {
				f(c)
			}
		}))
		all = append(all, coordinator)
	}
	for _, h := range all {
		wg.Go(func() { _ = h.Run(ctx) })
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	if gossip {
		wg.Go(func() {
			for ctx.Err() == nil {
				for _, from := range nodes {
					for _, to := range nodes {
						deltas, err := from.store.Delta(to.store.Vector())
						check(t, err)
						for d := range deltas {
							_, _, _ = to.store.Merge(ctx, d)
						}
					}
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	return nodes
}

// typed is client-go's client of a node.
func (n *node) typed() kubernetes.Interface {
	n.t.Helper()
	c, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: n.url, QPS: -1}, n.client("admin", "system:masters"))
	check(n.t, err)
	return c
}

func cm(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: map[string]string{"v": value}}
}

func TestTwoNodesOneWinner(t *testing.T) {
	nodes := newNodes(t, 3, false)
	ctx := context.Background()
	clients := []kubernetes.Interface{nodes[0].typed(), nodes[1].typed(), nodes[2].typed()}

	for i := range 20 {
		name := fmt.Sprint("race-", i)
		// The same name at once on all nodes, which hear of each other by nothing but the primary.
		wins, refusals := race(3, func(n int) error {
			_, err := clients[n].CoreV1().ConfigMaps("default").Create(ctx, cm(name, fmt.Sprint(n)), metav1.CreateOptions{})
			return err
		}, apierrors.IsAlreadyExists)
		if wins != 1 || refusals != 2 {
			t.Fatalf("%s: created %d times, refused %d times", name, wins, refusals)
		}
		// A version read on one node, used at all: who lost the race has what won, so the node knows what it stood for.
		read, err := clients[i%3].CoreV1().ConfigMaps("default").Get(ctx, name, metav1.GetOptions{})
		check(t, err)
		wins, refusals = race(3, func(n int) error {
			mine := read.DeepCopy()
			mine.Data["v"] = fmt.Sprint("updated by ", n)
			_, err := clients[n].CoreV1().ConfigMaps("default").Update(ctx, mine, metav1.UpdateOptions{})
			return err
		}, apierrors.IsConflict)
		if wins != 1 || refusals != 2 {
			t.Fatalf("%s: updated %d times, refused %d times", name, wins, refusals)
		}
	}
}

// race does the same n times at once, and counts successes and those refusals that are of the right kind.
func race(n int, do func(int) error, right func(error) bool) (wins, refusals int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			err := do(i)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				wins++
			case right(err):
				refusals++
			}
		})
	}
	wg.Wait()
	return wins, refusals
}

// TestVersionsOfOtherNodes: what was read on one node is what a precondition on another is checked against.
func TestVersionsOfOtherNodes(t *testing.T) {
	nodes := newNodes(t, 2, false)
	ctx := context.Background()
	a, b := nodes[0].typed().CoreV1().ConfigMaps("default"), nodes[1].typed().CoreV1().ConfigMaps("default")
	made, err := a.Create(ctx, cm("x", "1"), metav1.CreateOptions{})
	check(t, err)
	made.Data["v"] = "2"
	second, err := b.Update(ctx, made, metav1.UpdateOptions{})
	check(t, err)
	if _, err = b.Update(ctx, made, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("the same version a second time: %v, want a conflict", err)
	}
	patch := func(c interface {
		Patch(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (*corev1.ConfigMap, error)
	}, version string) error {
		_, err := c.Patch(ctx, "x", types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"resourceVersion":%q},"data":{"p":"1"}}`, version), metav1.PatchOptions{})
		return err
	}
	if err := patch(a, made.ResourceVersion); !apierrors.IsConflict(err) {
		t.Errorf("a patch of an old version: %v, want a conflict", err)
	}
	check(t, patch(a, second.ResourceVersion))
	old := second.ResourceVersion
	if err := a.Delete(ctx, "x", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &old}}); !apierrors.IsConflict(err) {
		t.Errorf("a deletion of an old version: %v, want a conflict", err)
	}
	if nobody := "3553000000000000000"; patch(a, nobody) == nil {
		t.Error("a version that nobody made was taken")
	}
	fresh, err := a.Get(ctx, "x", metav1.GetOptions{})
	check(t, err)
	check(t, b.Delete(ctx, "x", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &fresh.ResourceVersion}}))
}

// TestLeasesHaveOneHolder: electors on different nodes renew and take over one lease in turn.
func TestLeasesHaveOneHolder(t *testing.T) {
	nodes := newNodes(t, 3, true)
	ctx := context.Background()
	var mu sync.Mutex
	held := map[string]string{} // by transition
	wins, _ := race(3, func(n int) error {
		leases := nodes[n].typed().CoordinationV1().Leases("default")
		me := fmt.Sprint("e", n)
		for range 30 {
			l, err := leases.Get(ctx, "l", metav1.GetOptions{})
			transitions := int32(0)
			if apierrors.IsNotFound(err) {
				_, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "l"},
					Spec: coordinationv1.LeaseSpec{HolderIdentity: &me, LeaseTransitions: &transitions}}, metav1.CreateOptions{})
			} else if err == nil {
				transitions = *l.Spec.LeaseTransitions + 1
				l.Spec.HolderIdentity, l.Spec.LeaseTransitions = &me, &transitions
				_, err = leases.Update(ctx, l, metav1.UpdateOptions{})
			}
			if err == nil {
				mu.Lock()
				at := fmt.Sprint(transitions)
				held[at] = strings.TrimSpace(held[at] + " " + me)
				mu.Unlock()
			} else if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
				return err
			}
		}
		return nil
	}, func(error) bool { return false })
	if wins != 3 {
		t.Fatal("an elector met an error that is no conflict")
	}
	for at, who := range held {
		if strings.Contains(who, " ") {
			t.Errorf("at transition %s the lease was given to %s", at, who)
		}
	}
	if len(held) < 30 {
		t.Errorf("only %d transitions", len(held))
	}
}

// TestNumbersHaveOneService: nodes that hear of each other by nothing but the primary allocate from small ranges, by draw and by name.
func TestNumbersHaveOneService(t *testing.T) {
	nodes := newNodes(t, 2, false, func(c *Config) {
		c.ServiceCIDR, c.NodePorts = netip.MustParsePrefix("10.9.0.0/26"), utilnet.PortRange{Base: 30000, Size: 40}
	})
	ctx := context.Background()
	clients := []kubernetes.Interface{nodes[0].typed(), nodes[1].typed()}
	service := func(name, ip string, port int32) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80, NodePort: port}}}}
	}
	wins, refusals := race(2, func(n int) error {
		_, err := clients[n].CoreV1().Services("default").Create(ctx, service(fmt.Sprint("named-", n), "10.9.0.5", 0), metav1.CreateOptions{})
		return err
	}, apierrors.IsInvalid)
	if wins != 1 || refusals != 1 {
		t.Errorf("one address by name: got by %d, refused to %d", wins, refusals)
	}
	wins, refusals = race(2, func(n int) error {
		_, err := clients[n].CoreV1().Services("default").Create(ctx, service(fmt.Sprint("port-", n), "", 30007), metav1.CreateOptions{})
		return err
	}, apierrors.IsInvalid)
	if wins != 1 || refusals != 1 {
		t.Errorf("one port by name: got by %d, refused to %d", wins, refusals)
	}
	var mu sync.Mutex
	seen := map[string]string{}
	wins, _ = race(2, func(n int) error {
		for i := range 15 {
			name := fmt.Sprintf("s-%d-%d", n, i)
			svc, err := clients[n].CoreV1().Services("default").Create(ctx, service(name, "", 0), metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			mu.Lock()
			for _, number := range []string{svc.Spec.ClusterIP, fmt.Sprint(svc.Spec.Ports[0].NodePort)} {
				if who := seen[number]; who != "" {
					t.Errorf("%s and %s have %s", who, name, number)
				}
				seen[number] = name
			}
			mu.Unlock()
		}
		return nil
	}, func(err error) bool { t.Error(err); return false })
	if wins != 2 {
		t.Error("a node could not allocate although there was room")
	}

	// What a Service had is free when it is gone, and the claims say so.
	check(t, clients[0].CoreV1().Services("default").Delete(ctx, "s-0-0", metav1.DeleteOptions{}))
	for e := range nodes[0].store.Snapshot().Range("networking.k8s.io/ipaddresses", "", "") {
		if a, err := store.As[networkingv1.IPAddress](e); err != nil || a.Spec.ParentRef.Name == "s-0-0" {
			t.Errorf("%s is still claimed for a Service that is deleted", e.Key.Name)
		}
	}
}
