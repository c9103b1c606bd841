package httpapi

import (
	"context"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestAllocation: what Services draw depends on their names alone, stays clear of the reserved, and is never drawn twice.
func TestAllocation(t *testing.T) {
	draw := func(n *node, name string) *corev1.Service {
		obj, err := n.As("admin", "system:masters").Create(context.Background(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Name: "a", Port: 80}, {Name: "b", Port: 81}}},
		})
		check(t, err)
		return obj.(*corev1.Service)
	}
	one, two := newNode(t, nil), newNode(t, nil)
	seen := map[string]bool{}
	for i := range 40 {
		name := fmt.Sprintf("s%d", i)
		a := draw(one, name)
		if i%10 == 0 {
			b := draw(two, name)
			if a.Spec.ClusterIP != b.Spec.ClusterIP || a.Spec.Ports[1].NodePort != b.Spec.Ports[1].NodePort {
				t.Errorf("%s: %s %v on one side, %s %v on the other", name, a.Spec.ClusterIP, a.Spec.Ports, b.Spec.ClusterIP, b.Spec.Ports)
			}
		}
		for _, k := range []string{a.Spec.ClusterIP, fmt.Sprint(a.Spec.Ports[0].NodePort), fmt.Sprint(a.Spec.Ports[1].NodePort)} {
			if seen[k] {
				t.Errorf("%s drawn twice", k)
			}
			seen[k] = true
		}
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { draw(one, fmt.Sprintf("c%d", i)) })
	}
	wg.Wait()
}

// slowPrimary decides at once, but for the claims of one Service, which wait.
type slowPrimary struct {
	store *store.Store
	of    string
	asked chan struct{}
	until chan struct{}
}

func (h *slowPrimary) Commit(ctx context.Context, w store.Write) (*store.Entry, error) {
	if o, ok := w.Object.(*networkingv1.IPAddress); ok && o.Spec.ParentRef.Name == h.of {
		h.asked <- struct{}{}
		select {
		case <-h.until:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return h.store.Commit(ctx, w)
}

func (h *slowPrimary) TranslateVersion(context.Context, crdt.Key, store.Version) (store.Version, bool) {
	return 0, false
}

// TestClaimsWaitForNobody: while the claim of one Service's address waits for another node, other Services are made; and the one that
// waits gets an address of its own.
func TestClaimsWaitForNobody(t *testing.T) {
	h := &slowPrimary{of: "slow", asked: make(chan struct{}, 10), until: make(chan struct{})}
	n := newNode(t, func(c *Config) { h.store, c.Primary = c.Store, h })
	c, ctx := n.typed(), context.Background()
	service := func(name, ip string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}}}
	}
	slow := make(chan *corev1.Service, 1)
	go func() {
		made, err := c.CoreV1().Services("default").Create(ctx, service("slow", ""), metav1.CreateOptions{})
		if err != nil {
			t.Error(err)
		}
		slow <- made
	}()
	<-h.asked
	var made []*corev1.Service
	for _, name := range []string{"a", "b", "c"} {
		svc, err := c.CoreV1().Services("default").Create(ctx, service(name, ""), metav1.CreateOptions{})
		check(t, err)
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: "more", Port: 81})
		svc.Spec.Ports[0].Name = "first"
		svc, err = c.CoreV1().Services("default").Update(ctx, svc, metav1.UpdateOptions{})
		check(t, err)
		made = append(made, svc)
	}
	close(h.until)
	made = append(made, <-slow)
	seen := map[string]bool{}
	for _, svc := range made {
		numbers := []string{svc.Spec.ClusterIP}
		for _, p := range svc.Spec.Ports {
			numbers = append(numbers, fmt.Sprint(p.NodePort))
		}
		for _, k := range numbers {
			if seen[k] || k == "" || k == "0" {
				t.Errorf("%s has %s, which another has too", svc.Name, k)
			}
			seen[k] = true
		}
	}
	// A number that is claimed for another, as only the primary knows, is refused; the other's claim stays.
	taken := made[0].Spec.ClusterIP
	if _, err := c.CoreV1().Services("default").Create(ctx, service("thief", taken), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an address that is another's: %v", err)
	}
	if _, ok := n.store.Snapshot().Get(crdt.Key{Resource: "networking.k8s.io/ipaddresses", Name: taken}); !ok {
		t.Error("a claim went with an attempt to take it")
	}
}
