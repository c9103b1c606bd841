package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	utilsysctl "k8s.io/component-helpers/node/util/sysctl"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"murmur/node/pod"
)

// The kubelet's labels, so that what knows how to read them (crictl, monitoring) can, and a restarted daemon does.
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"

	annotationHash               = "io.kubernetes.container.hash"
	annotationRestarts           = "io.kubernetes.container.restartCount"
	annotationMemoryAsked        = "io.kubernetes.container.memoryRequest"
	annotationTerminationPath    = "io.kubernetes.container.terminationMessagePath"
	annotationTerminationPolicy  = "io.kubernetes.container.terminationMessagePolicy"
	annotationPodGrace           = "io.kubernetes.pod.terminationGracePeriod"
	annotationUnseals            = "murmur.io/unseals" // of a sandbox whose containers are started by what opens sealed texts
	maxSandboxIPWait             = 5 * time.Second
	defaultGrace                 = 30 * time.Second
	maxTerminationMessage        = 4096
	maxTerminationMessageLog     = 2048
	maxTerminationMessageLogLine = 80
)

func dialUnix(ctx context.Context, addr string) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", strings.TrimPrefix(addr, "unix://"))
}

func refOf(labels map[string]string) pod.Ref {
	return pod.Ref{Namespace: labels[labelPodNamespace], Name: labels[labelPodName], UID: types.UID(labels[labelPodUID])}
}

func podLabels(p *corev1.Pod) map[string]string {
	labels := map[string]string{}
	for k, v := range p.Labels {
		labels[k] = v
	}
	labels[labelPodName], labels[labelPodNamespace], labels[labelPodUID] = p.Name, p.Namespace, string(p.UID)
	return labels
}

// sandboxConfig translates. It is a function of the spec and of the ids that the pod has: CRI wants it again with every container.
func (d *Driver) sandboxConfig(s *pod.SandboxSpec) (*cri.PodSandboxConfig, error) {
	p := s.Pod
	spaces, err := d.namespaces(s)
	if err != nil {
		return nil, err
	}
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: string(p.UID), Attempt: s.Attempt},
		Hostname:     s.Hostname,
		LogDirectory: s.LogDir,
		DnsConfig:    &cri.DNSConfig{Servers: s.DNS.Servers, Searches: s.DNS.Searches, Options: s.DNS.Options},
		Labels:       podLabels(p),
		Annotations:  d.sandboxAnnotations(p),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: d.cgroups.parent(s.QOS, p.UID),
			Sysctls:      map[string]string{},
			Resources:    resourcesOf(s.Resources),
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: spaces,
				Privileged:       privileged(p),
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			},
		},
	}
	if !p.Spec.HostNetwork {
		for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			for _, port := range c.Ports {
				if port.HostPort == 0 {
					continue
				}
				config.PortMappings = append(config.PortMappings, &cri.PortMapping{
					Protocol:      cri.Protocol(cri.Protocol_value[strings.ToUpper(string(port.Protocol))]),
					ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIp: port.HostIP})
			}
		}
	}
	if sc := p.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			config.Linux.Sysctls[utilsysctl.NormalizeName(s.Name)] = s.Value
		}
		security := config.Linux.SecurityContext
		if sc.RunAsUser != nil {
			security.RunAsUser = &cri.Int64Value{Value: *sc.RunAsUser}
		}
		if sc.RunAsGroup != nil && sc.RunAsUser != nil {
			security.RunAsGroup = &cri.Int64Value{Value: *sc.RunAsGroup}
		}
		security.SupplementalGroups = supplementalGroups(p)
		if sc.SELinuxOptions != nil {
			security.SelinuxOptions = selinux(sc.SELinuxOptions)
		}
	}
	return config, nil
}

func (d *Driver) sandboxAnnotations(p *corev1.Pod) map[string]string {
	annotations := make(map[string]string, len(p.Annotations)+1)
	for k, v := range p.Annotations {
		annotations[k] = v
	}
	delete(annotations, annotationUnseals) // ours to say
	if !d.cfg.External {
		annotations[annotationUnseals] = seals
	}
	return annotations
}

func privileged(p *corev1.Pod) bool {
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged {
			return true
		}
	}
	return false
}

func (d *Driver) namespaces(s *pod.SandboxSpec) (*cri.NamespaceOption, error) {
	p := s.Pod
	users, err := d.usersOf(p, s.Handler)
	if err != nil {
		return nil, err
	}
	o := &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Ipc: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: users}
	if p.Spec.HostNetwork {
		o.Network = cri.NamespaceMode_NODE
	}
	if p.Spec.HostIPC {
		o.Ipc = cri.NamespaceMode_NODE
	}
	if p.Spec.HostPID {
		o.Pid = cri.NamespaceMode_NODE
	} else if p.Spec.ShareProcessNamespace != nil && *p.Spec.ShareProcessNamespace {
		o.Pid = cri.NamespaceMode_POD
	}
	return o, nil
}

func supplementalGroups(p *corev1.Pod) []int64 {
	sc := p.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	var groups []int64
	if sc.FSGroup != nil {
		groups = append(groups, *sc.FSGroup)
	}
	return append(groups, sc.SupplementalGroups...)
}

func resourcesOf(r pod.Resources) *cri.LinuxContainerResources {
	return &cri.LinuxContainerResources{CpuShares: int64(r.CPUShares), CpuQuota: r.CPUQuota, CpuPeriod: int64(r.CPUPeriod),
		MemoryLimitInBytes: r.Memory, OomScoreAdj: r.OOMScoreAdj}
}

// Resize changes the cgroups of a pod and of containers in it. What containers have must fit in the pod's at any time, so that
// has no limits while they change.
func (d *Driver) Resize(ctx context.Context, s *pod.SandboxSpec, containers map[string]pod.Resources) error {
	if len(containers) > 0 {
		open := s.Resources
		open.CPUQuota, open.Memory = 0, 0
		if err := d.cgroups.make(s.QOS, s.Pod.UID, open); err != nil {
			return err
		}
	}
	var errs []error
	for id, r := range containers {
		to := resourcesOf(r)
		if r.CPUQuota == 0 {
			to.CpuQuota = -1 // zero would leave it as it is
		}
		_, err := d.runtime.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: to})
		errs = append(errs, plain(err))
		d.mu.Lock()
		delete(d.containers, id)
		d.mu.Unlock()
	}
	return errors.Join(append(errs, d.cgroups.make(s.QOS, s.Pod.UID, s.Resources))...)
}

// RunSandbox makes the pod's cgroup and sandbox.
func (d *Driver) RunSandbox(ctx context.Context, s *pod.SandboxSpec) (string, error) {
	if err := os.MkdirAll(s.LogDir, 0o755); err != nil {
		return "", fmt.Errorf("make log directory: %w", err)
	}
	if err := d.cgroups.make(s.QOS, s.Pod.UID, s.Resources); err != nil {
		return "", err
	}
	config, err := d.sandboxConfig(s)
	if err != nil {
		return "", err
	}
	r, err := d.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: s.Handler})
	if err != nil {
		return "", plain(err)
	}
	d.mu.Lock()
	d.unseals[r.PodSandboxId] = opens(config.Annotations)
	d.mu.Unlock()
	return r.PodSandboxId, nil
}

// StopSandbox kills what runs in it and takes its network away.
func (d *Driver) StopSandbox(ctx context.Context, id string) error {
	if _, err := d.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil && !notFound(err) {
		return fmt.Errorf("stop sandbox %s: %w", id, err)
	}
	return nil
}

// RemoveSandbox removes it and its containers.
func (d *Driver) RemoveSandbox(ctx context.Context, id string) error {
	if _, err := d.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil && !notFound(err) {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	d.mu.Lock()
	delete(d.sandboxes, id)
	delete(d.unseals, id)
	d.mu.Unlock()
	return nil
}

// Forget removes the pod's cgroups and lets go of its ids.
func (d *Driver) Forget(_ context.Context, uid types.UID) error {
	if err := d.cgroups.remove(uid); err != nil {
		return err
	}
	if d.users != nil {
		d.users.Release(klog.Background(), uid)
	}
	return nil
}

// List reads sandboxes and containers, asking for details only of those that changed since the last call.
func (d *Driver) List(ctx context.Context, uid types.UID) ([]pod.Sandbox, []pod.Container, error) {
	var selector map[string]string
	if uid != "" {
		selector = map[string]string{labelPodUID: string(uid)}
	}
	// Containers first: whatever belongs to a sandbox that was listed is then not missed as an orphan.
	cs, err := d.runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return nil, nil, fmt.Errorf("list containers: %w", err)
	}
	ss, err := d.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return nil, nil, fmt.Errorf("list sandboxes: %w", err)
	}
	var sandboxes []pod.Sandbox
	for _, s := range ss.Items {
		if s.Labels[labelPodUID] == "" {
			continue // not made by a kubelet
		}
		seen, err := d.sandbox(ctx, s)
		if notFound(err) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read sandbox %s: %w", s.Id, err)
		}
		sandboxes = append(sandboxes, seen)
	}
	var containers []pod.Container
	for _, c := range cs.Containers {
		if c.Labels[labelPodUID] == "" {
			continue
		}
		seen, err := d.container(ctx, c)
		if notFound(err) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read container %s: %w", c.Id, err)
		}
		containers = append(containers, seen)
	}
	slices.SortFunc(sandboxes, func(a, b pod.Sandbox) int { return b.Created.Compare(a.Created) })
	slices.SortFunc(containers, func(a, b pod.Container) int { return b.Created.Compare(a.Created) })
	if uid == "" {
		d.trim(sandboxes, containers)
	}
	return sandboxes, containers, nil
}

// trim drops cached entries of what is no more.
func (d *Driver) trim(sandboxes []pod.Sandbox, containers []pod.Container) {
	live := map[string]bool{}
	for _, s := range sandboxes {
		live[s.ID] = true
	}
	for _, c := range containers {
		live[c.ID] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.sandboxes {
		if !live[id] {
			delete(d.sandboxes, id)
		}
	}
	for id := range d.unseals {
		if !live[id] {
			delete(d.unseals, id) // one that was made since the list is asked for again
		}
	}
	for id := range d.containers {
		if !live[id] {
			delete(d.containers, id)
		}
	}
}

func (d *Driver) sandbox(ctx context.Context, s *cri.PodSandbox) (pod.Sandbox, error) {
	ready := s.State == cri.PodSandboxState_SANDBOX_READY
	d.mu.Lock()
	known, ok := d.sandboxes[s.Id]
	d.mu.Unlock()
	if ok {
		known.Ready = ready
		return known, nil
	}
	r, err := d.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: s.Id})
	if err != nil {
		return pod.Sandbox{}, err
	}
	seen := pod.Sandbox{ID: s.Id, Pod: refOf(s.Labels), Attempt: s.GetMetadata().GetAttempt(), Created: time.Unix(0, s.CreatedAt), Ready: ready}
	seen.HostNetwork = r.GetStatus().GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE
	if n := r.GetStatus().GetNetwork(); n.GetIp() != "" {
		seen.IPs = append(seen.IPs, n.Ip)
		for _, more := range n.AdditionalIps {
			seen.IPs = append(seen.IPs, more.Ip)
		}
	}
	if ready && (seen.HostNetwork || len(seen.IPs) > 0) {
		d.mu.Lock()
		d.sandboxes[s.Id] = seen
		d.mu.Unlock()
	}
	return seen, nil
}

// podDirName is the last element of a pod's cgroup.
func podDirName(uid types.UID) string { return path.Base("/" + string(uid)) }
