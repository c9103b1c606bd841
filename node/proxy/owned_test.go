package proxy

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNodesTakeNoService: a node that says its address, or its pods', is a Service's takes it from nobody.
func TestNodesTakeNoService(t *testing.T) {
	cfg := Config{ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), ClusterDNS: netip.MustParseAddr("10.43.0.10"), NodeIP: netip.MustParseAddr("192.168.0.1")}
	for _, block := range []string{"10.43.0.0/24", "0.0.0.0/0", "10.0.0.0/8"} {
		o := newOwned(View{Nodes: []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n2"}, Spec: corev1.NodeSpec{PodCIDR: block},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.43.0.1"}, {Type: corev1.NodeInternalIP, Address: "192.168.0.2"}}}}}}, cfg)
		for addr, want := range map[string]bool{"10.43.0.1": false, "10.43.7.7": false, "8.8.8.8": false, "192.168.0.2": true, "192.168.0.1": true, "10.42.3.3": true, "10.43.0.10": true} {
			if got := o.closed(netip.MustParseAddr(addr)); got != want {
				t.Errorf("with %s: %s is closed: %v", block, addr, got)
			}
		}
	}
}
