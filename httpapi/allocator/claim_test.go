package allocator

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"murmur/crdt"
	"murmur/crdt/store"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newServices allocates over a store in memory.
func newServices(t *testing.T) (*Services, *store.Store) {
	t.Helper()
	store, err := store.Open(store.Config{Cluster: "test"})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() { cancel(); check(t, <-done); check(t, store.Close()) })
	return New(Config{Store: store, Commit: store.Commit, Addresses: netip.MustParsePrefix("10.43.0.0/16"),
		Ports: utilnet.PortRange{Base: 30000, Size: 2768}, Log: slog.New(slog.DiscardHandler)}), store
}

// service puts a Service with an address and its claim into the store.
func service(t *testing.T, s *Services, replica *store.Store, name string, addr netip.Addr) {
	t.Helper()
	svc := &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{ClusterIP: addr.String(), ClusterIPs: []string{addr.String()}}}
	check(t, s.claims.take(t.Context(), "default/"+name, addressClaim(addr)))
	_, err := replica.Commit(t.Context(), store.Write{Key: crdt.Key{Resource: "services", Namespace: "default", Name: name}, Object: svc})
	check(t, err)
}

// TestLostClaim: a claim that turns out to be another's when it is made stays the other's, and what was claimed beside it is
// given back.
func TestLostClaim(t *testing.T) {
	s, store := newServices(t)
	ctx, c := t.Context(), &s.claims
	addr := netip.MustParseAddr("10.43.7.7")
	service(t, s, store, "s", addr)
	if err := c.take(ctx, "default/other", addressClaim(addr)); !errors.Is(err, errClaimed) {
		t.Errorf("the claim of another: %v", err)
	}
	undone := false
	free := addressClaim(addr.Next())
	err := c.takeAll(ctx, "default/other", []crdt.Key{free, addressClaim(addr)}, func() {
		undone = true
		c.release(free)
		c.release(addressClaim(addr))
	})
	if !errors.Is(err, errClaimed) || !undone {
		t.Errorf("%v, undone: %v", err, undone)
	}
	if _, ok := store.Snapshot().Get(free); ok {
		t.Error("a claim that was made for nothing stays")
	}
	if e, ok := store.Snapshot().Get(addressClaim(addr)); !ok || !c.owns("default/s", e) {
		t.Error("the other's claim is gone")
	}
}

// TestReleasedWhileOthersDraw: what is released while a Service draws is no write that others wait for; the claim is
// dropped when the drawing has ended, by whoever drew.
func TestReleasedWhileOthersDraw(t *testing.T) {
	s, store := newServices(t)
	addr := netip.MustParseAddr("10.43.7.7")
	check(t, s.claims.take(t.Context(), "default/gone", addressClaim(addr)))
	end := s.claims.begin("default/draws")
	check(t, s.Addresses().Release(addr.AsSlice()))
	if _, ok := store.Snapshot().Get(addressClaim(addr)); !ok {
		t.Error("a claim was dropped while a Service draws")
	}
	end()
	s.claims.settle()
	if _, ok := store.Snapshot().Get(addressClaim(addr)); ok {
		t.Error("the claim of what was released stays")
	}
	// And at once if nobody draws.
	check(t, s.claims.take(t.Context(), "default/gone", addressClaim(addr)))
	check(t, s.Addresses().Release(addr.AsSlice()))
	if _, ok := store.Snapshot().Get(addressClaim(addr)); ok {
		t.Error("the claim of what was released stays, although nobody draws")
	}
}
