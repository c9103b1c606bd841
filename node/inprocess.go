package node

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"murmur/crdt"
	"murmur/gossip"
	"murmur/httpapi"
)

// podToken asks the API in this process, as this node, for a token of a pod's ServiceAccount.
func (n *Node) podToken(ctx context.Context, namespace, serviceAccount, audience string, seconds int64, p *corev1.Pod) (string, time.Time, error) {
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID},
	}}
	if audience != "" {
		req.Spec.Audiences = []string{audience}
	}
	got, err := n.api.Own(gossip.NodeUser(n.id.NodeName), "system:nodes").Token(ctx, namespace, serviceAccount, req)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("token of ServiceAccount %s/%s: %w", namespace, serviceAccount, err)
	}
	return got.Status.Token, got.Status.ExpirationTimestamp.Time, nil
}

// podCertificate asks the API in this process, as this node, for a certificate of a pod. Policies and webhooks are asked as of any client:
// which pods ask which signer is theirs to say, and a signer's answer goes through them as well.
func (n *Node) podCertificate(ctx context.Context, req *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
	got, err := n.api.As(gossip.NodeUser(n.id.NodeName), "system:nodes").Create(ctx, req)
	if err != nil {
		return nil, err
	}
	return got.(*certificatesv1.PodCertificateRequest), nil
}

// ensureDNSService makes the Service by which cluster DNS is known. No rules follow from it: every node answers on
// its address itself.
func (n *Node) ensureDNSService(ctx context.Context, c *httpapi.Client) error {
	ports := []corev1.ServicePort{
		{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
		{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
	}
	key := crdt.Key{Resource: "services", Namespace: metav1.NamespaceSystem, Name: "kube-dns"}
	present := func() bool { _, ok := n.store.Snapshot().Get(key); return ok }
	if present() {
		return nil
	}
	_, err := c.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: key.Name, Namespace: key.Namespace,
			Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/name": "murmur-dns"},
		},
		Spec: corev1.ServiceSpec{ClusterIP: n.settings.ClusterDNS.String(), Ports: ports},
	})
	// Another node may have made it meanwhile, and with it taken the address.
	if err != nil && !present() {
		return fmt.Errorf("create the Service of cluster DNS: %w", err)
	}
	return nil
}
