package pod

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/security/apparmor"
)

// Features are what the kernel and the runtime of this node can enforce.
type Features struct {
	// UserNamespaces and AppArmor say why the node has them not; nil if it has.
	UserNamespaces, AppArmor error
	// UserNamespacesHostNetwork: a pod may have its own users on the node's network.
	UserNamespacesHostNetwork bool
	// StrictGroups: the policy Strict of supplementalGroupsPolicy is kept.
	StrictGroups bool
	// RecursiveReadOnly: what is mounted below a read-only mount can be read-only, too.
	RecursiveReadOnly bool
}

// ErrNotSupported is why a node does not have what its runtime does not name.
var ErrNotSupported = errors.New("the runtime does not say that it does")

// Reasons for which a pod ends before it begins, as upstream's kubelet names them.
const (
	reasonOS       = "PodOSNotSupported"
	reasonSysctl   = "SysctlForbidden"
	reasonAppArmor = "AppArmor"
	reasonGroups   = "SupplementalGroupsPolicyNotSupported"
	reasonFeature  = "PodFeatureUnsupported"
)

// Unenforceable tells why a node cannot keep what a pod's security fields say; empty if it can. A pod never runs with less
// than it asks for: what is neither enforced here nor by the runtime is a reason.
func Unenforceable(p *corev1.Pod, f Features, sysctls Sysctls) (reason, message string) {
	if os := p.Spec.OS; os != nil && os.Name != corev1.Linux {
		return reasonOS, "Failed to admit pod as the OS field doesn't match node OS"
	}
	sc := p.Spec.SecurityContext
	if sc == nil {
		sc = &corev1.PodSecurityContext{}
	}
	if policy := sc.SupplementalGroupsPolicy; policy != nil && *policy == corev1.SupplementalGroupsPolicyStrict && !f.StrictGroups {
		return reasonGroups, fmt.Sprintf("SupplementalGroupsPolicy=%s is not supported in this node", *policy)
	}
	for _, s := range sc.Sysctls {
		if err := sysctls.check(s.Name, p.Spec.HostNetwork, p.Spec.HostIPC, hostUsers(p)); err != nil {
			return reasonSysctl, fmt.Sprintf("forbidden sysctl: %v", err)
		}
	}
	if !hostUsers(p) {
		switch {
		case f.UserNamespaces != nil:
			return reasonFeature, fmt.Sprintf("can't set `spec.hostUsers: false`, runtime does not support user namespaces: %v", f.UserNamespaces)
		case p.Spec.HostPID || p.Spec.HostIPC:
			return reasonFeature, "can't set `spec.hostUsers: false` with hostPID or hostIPC"
		case p.Spec.HostNetwork && !f.UserNamespacesHostNetwork:
			return reasonFeature, "can't set `spec.hostUsers: false` with hostNetwork: runtime does not support it"
		}
	}
	if err := labels(sc.SELinuxOptions); err != nil {
		return reasonFeature, err.Error()
	}
	if sc.WindowsOptions != nil {
		return reasonFeature, "windowsOptions: this node runs Linux"
	}
	for c := range podutil.ContainerIter(&p.Spec, podutil.AllContainers) {
		if reason, message = unenforceable(p, c, f); reason != "" {
			return reason, message
		}
	}
	return "", ""
}

// unenforceable is the part that each container has for itself: one that is added to a running pod is asked alone.
func unenforceable(p *corev1.Pod, c *corev1.Container, f Features) (reason, message string) {
	profile := apparmor.GetProfile(p, c)
	if profile != nil && profile.Type != corev1.AppArmorProfileTypeUnconfined {
		if f.AppArmor != nil {
			return reasonAppArmor, fmt.Sprintf("Cannot enforce AppArmor: %v", f.AppArmor)
		}
		if profile.Type == corev1.AppArmorProfileTypeLocalhost && (profile.LocalhostProfile == nil || *profile.LocalhostProfile == "") {
			return reasonAppArmor, fmt.Sprintf("Cannot enforce AppArmor: invalid empty AppArmor profile name: %q", profile)
		}
	}
	sc := c.SecurityContext
	if sc == nil {
		return "", ""
	}
	if sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount && hostUsers(p) {
		return reasonFeature, fmt.Sprintf("container %s: procMount %s needs hostUsers: false, or it could change the node", c.Name, *sc.ProcMount)
	}
	if err := labels(sc.SELinuxOptions); err != nil {
		return reasonFeature, fmt.Sprintf("container %s: %v", c.Name, err)
	}
	if sc.WindowsOptions != nil {
		return reasonFeature, fmt.Sprintf("container %s: windowsOptions: this node runs Linux", c.Name)
	}
	return "", ""
}

// unconfined is the SELinux type that asks for no confinement.
const unconfined = "spc_t"

// labels refuses SELinux labels that confine, which nothing here does. A level only keeps apart what a type confines: admission warns of it.
func labels(o *corev1.SELinuxOptions) error {
	if o == nil || o.User == "" && o.Role == "" && (o.Type == "" || o.Type == unconfined) {
		return nil
	}
	return errors.New("seLinuxOptions: SELinux labels are not supported by this node")
}

// hostUsers tells whether a pod's users are the node's.
func hostUsers(p *corev1.Pod) bool { return p.Spec.HostUsers == nil || *p.Spec.HostUsers }

// UsersOfItsOwn tells whether a pod is to have users of its own, in a user namespace.
func UsersOfItsOwn(p *corev1.Pod) bool { return !hostUsers(p) }
