package volume

import (
	"bytes"
	"encoding/pem"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// trustAnchors are the certificates of the bundles that a source asks for, by name or by signer and labels, each once.
// KEP-3257.
func trustAnchors(s *corev1.ClusterTrustBundleProjection, bundles []*certificatesv1.ClusterTrustBundle) ([]byte, error) {
	var wanted func(*certificatesv1.ClusterTrustBundle) bool
	missing := "combination of signerName and labelSelector matched zero ClusterTrustBundles"
	switch {
	case s.Name != nil:
		wanted = func(b *certificatesv1.ClusterTrustBundle) bool { return b.Name == *s.Name }
		missing = fmt.Sprintf("clustertrustbundle %q not found", *s.Name)
	case s.SignerName != nil:
		selector, err := metav1.LabelSelectorAsSelector(s.LabelSelector)
		if err != nil {
			return nil, fmt.Errorf("label selector of a clusterTrustBundle source: %w", err)
		}
		wanted = func(b *certificatesv1.ClusterTrustBundle) bool {
			return b.Spec.SignerName == *s.SignerName && selector.Matches(labels.Set(b.Labels))
		}
	default:
		return nil, fmt.Errorf("a clusterTrustBundle source needs a name or a signerName")
	}
	var out bytes.Buffer
	seen, found := map[string]bool{}, false
	for _, b := range bundles {
		if !wanted(b) {
			continue
		}
		found = true
		rest := []byte(b.Spec.TrustBundle)
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if seen[string(block.Bytes)] {
				continue
			}
			seen[string(block.Bytes)] = true
			if err := pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}); err != nil {
				return nil, err
			}
		}
	}
	if !found && (s.Optional == nil || !*s.Optional) {
		return nil, fmt.Errorf("%s", missing)
	}
	return out.Bytes(), nil
}
