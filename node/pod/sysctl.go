package pod

import (
	"fmt"
	"strings"

	utilversion "k8s.io/apimachinery/pkg/util/version"
	utilsysctl "k8s.io/component-helpers/node/util/sysctl"
	utilkernel "k8s.io/kubernetes/pkg/util/kernel"
)

// safeSysctls are those that a pod may set without being allowed to, with the kernel since which each is a namespace's own; upstream's
// list (pkg/kubelet/sysctl), which a test compares.
var safeSysctls = map[string]string{
	"kernel.shm_rmid_forced":              "",
	"net.ipv4.ip_local_port_range":        "",
	"net.ipv4.tcp_syncookies":             "",
	"net.ipv4.ping_group_range":           "",
	"net.ipv4.ip_unprivileged_port_start": "",
	"net.ipv4.ip_local_reserved_ports":    utilkernel.IPLocalReservedPortsNamespacedKernelVersion,
	"net.ipv4.tcp_keepalive_time":         utilkernel.TCPKeepAliveTimeNamespacedKernelVersion,
	"net.ipv4.tcp_fin_timeout":            utilkernel.TCPFinTimeoutNamespacedKernelVersion,
	"net.ipv4.tcp_keepalive_intvl":        utilkernel.TCPKeepAliveIntervalNamespacedKernelVersion,
	"net.ipv4.tcp_keepalive_probes":       utilkernel.TCPKeepAliveProbesNamespacedKernelVersion,
	"net.ipv4.tcp_rmem":                   utilkernel.TCPReceiveMemoryNamespacedKernelVersion,
	"net.ipv4.tcp_wmem":                   utilkernel.TCPTransmitMemoryNamespacedKernelVersion,
	"net.ipv4.tcp_slow_start_after_idle":  utilkernel.TCPSlowStartAfterIdleNamespacedKernelVersion,
	"net.ipv4.tcp_notsent_lowat":          utilkernel.TCPNotSentLowatNamespacedKernelVersion,
}

// Sysctls are the kernel parameters that pods of a node may set. The zero value allows none.
type Sysctls struct {
	names, prefixes map[string]utilsysctl.Namespace
}

// NewSysctls allows the safe ones that this kernel keeps apart, and the unsafe ones given, by name or as NAME.*: what
// the kubelet's --allowed-unsafe-sysctls takes.
func NewSysctls(unsafe []string) (Sysctls, error) {
	kernel, err := utilkernel.GetVersion()
	if err != nil {
		return Sysctls{}, fmt.Errorf("find the kernel's version: %w", err)
	}
	return newSysctls(kernel, unsafe)
}

func newSysctls(kernel *utilversion.Version, unsafe []string) (Sysctls, error) {
	s := Sysctls{names: map[string]utilsysctl.Namespace{}, prefixes: map[string]utilsysctl.Namespace{}}
	for name, since := range safeSysctls {
		if since == "" || kernel.AtLeast(utilversion.MustParseGeneric(since)) {
			s.names[name], _, _ = utilsysctl.GetNamespace(name)
		}
	}
	for _, pattern := range unsafe {
		namespace, name, prefix := utilsysctl.GetNamespace(pattern)
		switch {
		case strings.Trim(pattern, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/*") != "" || strings.Contains(strings.TrimSuffix(pattern, "*"), "*"):
			return Sysctls{}, fmt.Errorf("--allowed-unsafe-sysctls %q: want a name like kernel.msgmax, or the beginning of one with a star at its end", pattern)
		case namespace == utilsysctl.UnknownNamespace:
			return Sysctls{}, fmt.Errorf("--allowed-unsafe-sysctls %q: not known to be a namespace's own, so a pod would set it for the node", pattern)
		case prefix:
			s.prefixes[name] = namespace
		default:
			s.names[name] = namespace
		}
	}
	return s, nil
}

// check tells why a pod may not set a parameter, in upstream's words.
func (s Sysctls) check(name string, hostNetwork, hostIPC, hostUsers bool) error {
	name = utilsysctl.NormalizeName(name)
	namespace, ok := s.names[name]
	if !ok {
		for prefix, ns := range s.prefixes {
			if strings.HasPrefix(name, prefix) {
				namespace, ok = ns, true
			}
		}
	}
	if !ok {
		return fmt.Errorf("%q not allowlisted", name)
	}
	if namespace == utilsysctl.IPCNamespace && hostIPC || namespace == utilsysctl.NetNamespace && hostNetwork || namespace == utilsysctl.UserNamespace && hostUsers {
		return fmt.Errorf("%q not allowed with host %s enabled", name, namespace)
	}
	return nil
}
