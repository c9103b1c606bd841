package volume

import (
	"encoding/pem"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestTrustAnchors: by name or by signer and labels, each anchor once, and what is missing is an error unless optional.
func TestTrustAnchors(t *testing.T) {
	cert := func(s string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(s)}))
	}
	bundle := func(name, signer, tier, pem string) *certificatesv1.ClusterTrustBundle {
		return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"tier": tier}},
			Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: pem}}
	}
	bundles := []*certificatesv1.ClusterTrustBundle{
		bundle("plain", "", "", cert("a")),
		bundle("s:1", "s", "live", "a word before\n"+cert("b")+cert("c")),
		bundle("s:2", "s", "live", cert("c")+cert("d")),
		bundle("s:3", "s", "test", cert("e")),
		bundle("t:1", "t", "live", cert("f")),
	}
	name := func(s string) *string { return &s }
	yes := true
	for _, c := range []struct {
		what   string
		source corev1.ClusterTrustBundleProjection
		want   string
		fails  bool
	}{
		{"by name", corev1.ClusterTrustBundleProjection{Name: name("plain")}, cert("a"), false},
		{"by a name that is not there", corev1.ClusterTrustBundleProjection{Name: name("gone")}, "", true},
		{"by a name that need not be there", corev1.ClusterTrustBundleProjection{Name: name("gone"), Optional: &yes}, "", false},
		{"by signer and label", corev1.ClusterTrustBundleProjection{SignerName: name("s"),
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "live"}}}, cert("b") + cert("c") + cert("d"), false},
		{"by signer, everything", corev1.ClusterTrustBundleProjection{SignerName: name("s"), LabelSelector: &metav1.LabelSelector{}},
			cert("b") + cert("c") + cert("d") + cert("e"), false},
		{"by signer, nothing", corev1.ClusterTrustBundleProjection{SignerName: name("s")}, "", true},
		{"by signer, nothing, optional", corev1.ClusterTrustBundleProjection{SignerName: name("s"), Optional: &yes}, "", false},
	} {
		got, err := trustAnchors(&c.source, bundles)
		if string(got) != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %v\n%s", c.what, err, strings.TrimSpace(string(got)))
		}
	}
}
