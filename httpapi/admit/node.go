package admit

import (
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/kubernetes/pkg/auth/nodeidentifier"
)

// NodeName is the node that a user is.
func NodeName(u user.Info) (string, bool) {
	if u == nil {
		return "", false
	}
	return nodeidentifier.NewDefaultNodeIdentifier().NodeIdentity(u)
}
