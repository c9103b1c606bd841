package admit

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	authenticationapi "k8s.io/kubernetes/pkg/apis/authentication"
	coordinationapi "k8s.io/kubernetes/pkg/apis/coordination"
	core "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/auth/nodeidentifier"
)

// NodeName is the node that a user is.
func NodeName(u user.Info) (string, bool) {
	if u == nil {
		return "", false
	}
	return nodeidentifier.NewDefaultNodeIdentifier().NodeIdentity(u)
}

// nodeRestriction keeps a node to its own: its Node, its Lease, the status and end of pods bound to it, and tokens for
// them.
type nodeRestriction struct {
	*admission.Handler
	pod func(namespace, name string) (*corev1.Pod, bool)
}

func (n nodeRestriction) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, ok := NodeName(a.GetUserInfo())
	if !ok {
		return nil
	}
	refuse := func(why string) error { return admission.NewForbidden(a, fmt.Errorf("node %q %s", node, why)) }
	switch a.GetResource().GroupResource() {
	case core.Resource("nodes"):
		name := a.GetName()
		if n, ok := a.GetObject().(*core.Node); ok && name == "" {
			name = n.Name
		}
		if name != node {
			return refuse(fmt.Sprintf("is not allowed to modify node %q", name))
		}
	case core.Resource("serviceaccounts"):
		request, ok := a.GetObject().(*authenticationapi.TokenRequest)
		if !ok || a.GetSubresource() != "token" {
			return refuse("can only request tokens of service accounts")
		}
		ref := request.Spec.BoundObjectRef
		if ref == nil || ref.Kind != "Pod" || ref.Name == "" {
			return refuse("requested a token not bound to a pod")
		}
		pod, ok := n.pod(a.GetNamespace(), ref.Name)
		if !ok || ref.UID != pod.UID || pod.Spec.NodeName != node || pod.Spec.ServiceAccountName != a.GetName() {
			return refuse("requested a token bound to a pod that is not its own")
		}
	case coordinationapi.Resource("leases"):
		name := a.GetName()
		if l, ok := a.GetObject().(*coordinationapi.Lease); ok && name == "" {
			name = l.Name
		}
		if a.GetNamespace() != "kube-node-lease" || name != node {
			return refuse("can only access node lease with the same name as the requesting node")
		}
	case core.Resource("pods"):
		pod, _ := a.GetOldObject().(*core.Pod)
		if a.GetOperation() == admission.Create && a.GetSubresource() == "" {
			pod, _ = a.GetObject().(*core.Pod)
			if pod != nil && pod.Annotations[core.MirrorPodAnnotationKey] == "" {
				return refuse("can only create mirror pods")
			}
		}
		if pod != nil && pod.Spec.NodeName != node {
			return refuse("can only change pods with spec.nodeName set to itself")
		}
	}
	return nil
}
