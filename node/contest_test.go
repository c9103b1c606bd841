package node

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"murmur/node/proxy"
)

// TestContestedAddressesAreTold: by one node of those that see each other.
func TestContestedAddressesAreTold(t *testing.T) {
	service := func(name string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}
	}
	all := []proxy.Contest{{Service: service("late"), At: proxy.Frontend{Protocol: "TCP", Addr: netip.MustParseAddr("203.0.113.9"), Port: 80}, Holder: service("early")}}
	events := record.NewFakeRecorder(4)
	for _, self := range []string{"n1", "n2"} {
		contested(self, func() []string { return []string{"n2", "n1"} }, events)(all)
	}
	if len(events.Events) != 1 {
		t.Fatalf("%d events, want one", len(events.Events))
	}
	if got, want := <-events.Events, "Warning ExternalAddressTaken 203.0.113.9:80/TCP is served by the older Service a/early"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
