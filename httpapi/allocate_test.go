package httpapi

import (
	"context"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
