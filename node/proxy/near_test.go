package proxy

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNear: which endpoints a Service's trafficDistribution leaves, on a node that has one, on one whose zone has some, and on one that has neither.
func TestNear(t *testing.T) {
	node := func(name, zone string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}}}
	}
	view := View{Nodes: []*corev1.Node{node("n1", "x"), node("n2", "x"), node("n3", "y"), node("n4", "z"), node("n5", "x")}}
	all := []Endpoint{{Node: "n1", Ready: true}, {Node: "n2", Ready: true}, {Node: "n3", Ready: true}}
	for _, c := range []struct{ here, distribution, want string }{
		{"n1", "", "[n1 n2 n3]"},
		{"n1", corev1.ServiceTrafficDistributionPreferSameNode, "[n1]"},
		{"n5", corev1.ServiceTrafficDistributionPreferSameNode, "[n1 n2]"},
		{"n1", corev1.ServiceTrafficDistributionPreferSameZone, "[n1 n2]"},
		{"n1", corev1.ServiceTrafficDistributionPreferClose, "[n1 n2]"},
		{"n4", corev1.ServiceTrafficDistributionPreferClose, "[n1 n2 n3]"},
		{"n4", corev1.ServiceTrafficDistributionPreferSameNode, "[n1 n2 n3]"},
		{"n1", "SomethingNew", "[n1 n2 n3]"},
	} {
		svc := &corev1.Service{}
		if c.distribution != "" {
			svc.Spec.TrafficDistribution = &c.distribution
		}
		var got []string
		for _, e := range newIndex(view, Config{Node: c.here}).choose(svc, all).cluster {
			got = append(got, e.Node)
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%s on %s: %v, want %s", c.distribution, c.here, got, c.want)
		}
	}
}
