package node

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSettings(t *testing.T) {
	s := (Settings{ServiceCIDR: netip.MustParsePrefix("10.96.0.0/12")}).over(DefaultSettings())
	if err := s.check(); err != nil || s.ClusterDNS.String() != "10.96.0.10" || s.ClusterCIDR.String() != "10.42.0.0/16" {
		t.Errorf("defaults filled in as %+v, %v", s, err)
	}
	for want, bad := range map[string]Settings{
		"at most /23":               {ClusterCIDR: netip.MustParsePrefix("10.0.0.0/24")},
		"IPv4":                      {ClusterCIDR: netip.MustParsePrefix("fd00::/48")},
		"overlap":                   {ClusterCIDR: netip.MustParsePrefix("10.43.0.0/20")},
		"is not in --service-cidr":  {ClusterDNS: netip.MustParseAddr("10.0.0.1")},
		"--cluster-domain":          {ClusterDomain: "not a domain"},
		"--service-node-port-range": {NodePorts: "lots"},
	} {
		if err := bad.over(DefaultSettings()).check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error with %q", bad, err, want)
		}
	}
	cluster := Settings{}.over(DefaultSettings())
	if err := (Settings{}).differs(cluster); err != nil {
		t.Errorf("nothing given contradicts the cluster: %v", err)
	}
	if err := (Settings{ClusterDomain: "other"}).differs(cluster); err == nil || !strings.Contains(err.Error(), "--cluster-domain") {
		t.Errorf("another domain: %v", err)
	}
}

// Two nodes may choose the same block on two sides of a partition: the younger gives it up.
func TestRegistrationChoosesAFreeBlock(t *testing.T) {
	r := &registration{
		id: "id1", serf: netip.MustParseAddrPort("10.0.0.1:7946"), settings: DefaultSettings(),
		labels: map[string]string{"zone": "a"}, taints: []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}},
		fresh: func() *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}} },
	}
	n, err := r.wanted(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n.Spec.PodCIDR == "" || n.Labels["zone"] != "a" || len(n.Spec.Taints) != 1 || n.Annotations[annotationID] != "id1" {
		t.Errorf("new node: %+v %+v", n.ObjectMeta, n.Spec)
	}
	n.CreationTimestamp = metav1.Unix(2000, 0)
	older := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2", CreationTimestamp: metav1.Unix(1000, 0)}, Spec: corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR}}
	n.Spec.Taints = nil // by its user
	next, err := r.wanted(n, []*corev1.Node{n, older})
	if err != nil || next.Spec.PodCIDR == n.Spec.PodCIDR || next.Spec.PodCIDR == "" {
		t.Errorf("block %s, lost to an older node, became %s, %v", n.Spec.PodCIDR, next.Spec.PodCIDR, err)
	}
	if len(next.Spec.Taints) != 0 {
		t.Error("a taint that was taken away came back")
	}
	older.CreationTimestamp = metav1.Unix(3000, 0)
	if next, err = r.wanted(n, []*corev1.Node{n, older}); err != nil || next.Spec.PodCIDR != n.Spec.PodCIDR {
		t.Errorf("block %s, kept against a younger node, became %s, %v", n.Spec.PodCIDR, next.Spec.PodCIDR, err)
	}
}
