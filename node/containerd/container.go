package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/security/apparmor"
	"k8s.io/kubernetes/pkg/securitycontext"

	"murmur/node/pod"
)

// CreateContainer makes a container in its sandbox, not running yet.
func (d *Driver) CreateContainer(ctx context.Context, s *pod.ContainerSpec) (string, error) {
	text, err := d.texts(ctx, s)
	if err != nil {
		return "", err
	}
	config, err := d.containerConfig(s, text)
	if err != nil {
		return "", err
	}
	sandbox, err := d.sandboxConfig(s.Sandbox)
	if err != nil {
		return "", err
	}
	r, err := d.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: s.SandboxID, Config: config, SandboxConfig: sandbox})
	if err != nil {
		return "", plain(err)
	}
	return r.ContainerId, nil
}

// containerConfig translates. text is how a text is written down.
func (d *Driver) containerConfig(s *pod.ContainerSpec, text func(pod.Text) string) (*cri.ContainerConfig, error) {
	c := s.Container
	labels := map[string]string{labelPodName: s.Pod.Name, labelPodNamespace: s.Pod.Namespace, labelPodUID: string(s.Pod.UID), labelContainerName: c.Name}
	annotations := map[string]string{
		annotationHash:              s.Hash,
		annotationRestarts:          strconv.Itoa(int(s.Restarts)),
		annotationMemoryAsked:       strconv.FormatInt(c.Resources.Requests.Memory().Value(), 10),
		annotationTerminationPath:   c.TerminationMessagePath,
		annotationTerminationPolicy: string(c.TerminationMessagePolicy),
	}
	if g := s.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
		annotations[annotationPodGrace] = strconv.FormatInt(*g, 10)
	}
	config := &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: c.Name, Attempt: uint32(s.Restarts)},
		Image:       &cri.ImageSpec{Image: s.ImageID, UserSpecifiedImage: s.Image},
		WorkingDir:  c.WorkingDir,
		Labels:      labels,
		Annotations: annotations,
		LogPath:     s.LogPath,
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		Linux:       &cri.LinuxContainerConfig{Resources: resourcesOf(s.Resources)},
	}
	if d.cgroups.unified() {
		config.Linux.Resources.Unified = map[string]string{"memory.oom.group": "1"}
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		config.StopSignal = cri.Signal(cri.Signal_value[string(*c.Lifecycle.StopSignal)])
	}
	for _, t := range s.Command {
		config.Command = append(config.Command, text(t))
	}
	for _, t := range s.Args {
		config.Args = append(config.Args, text(t))
	}
	for _, e := range s.Env {
		config.Envs = append(config.Envs, &cri.KeyValue{Key: e.Name, Value: []byte(text(e.Text))})
	}
	for _, m := range s.Mounts {
		mount := &cri.Mount{ContainerPath: m.Target, HostPath: m.Source, Readonly: m.ReadOnly, RecursiveReadOnly: m.Recursive, SelinuxRelabel: false}
		switch m.Propagation {
		case corev1.MountPropagationBidirectional:
			mount.Propagation = cri.MountPropagation_PROPAGATION_BIDIRECTIONAL
		case corev1.MountPropagationHostToContainer:
			mount.Propagation = cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		}
		if m.Image != "" {
			mount.Image, mount.ImageSubPath = &cri.ImageSpec{Image: m.Image, UserSpecifiedImage: m.Image}, m.SubPath
		}
		config.Mounts = append(config.Mounts, mount)
	}
	security, err := d.securityContext(s)
	if err != nil {
		return nil, err
	}
	config.Linux.SecurityContext = security
	// What the pod's users own on the node's disks has the ids that they have in the pod.
	users := security.NamespaceOptions.UsernsOptions
	for _, m := range config.Mounts {
		m.UidMappings, m.GidMappings = users.GetUids(), users.GetGids()
	}
	return config, nil
}

func (d *Driver) securityContext(s *pod.ContainerSpec) (*cri.LinuxContainerSecurityContext, error) {
	effective := securitycontext.DetermineEffectiveSecurityContext(s.Pod, s.Container)
	spaces, err := d.namespaces(s.Sandbox)
	if err != nil {
		return nil, err
	}
	sc := &cri.LinuxContainerSecurityContext{
		NamespaceOptions:   spaces,
		SupplementalGroups: supplementalGroups(s.Pod),
		NoNewPrivs:         securitycontext.AddNoNewPrivileges(effective),
		MaskedPaths:        securitycontext.ConvertToRuntimeMaskedPaths(effective.ProcMount),
		ReadonlyPaths:      securitycontext.ConvertToRuntimeReadonlyPaths(effective.ProcMount),
		Seccomp:            &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined},
	}
	if d.cfg.SeccompDefault {
		sc.Seccomp.ProfileType = cri.SecurityProfile_RuntimeDefault
	}
	if s.Target != "" {
		sc.NamespaceOptions.Pid, sc.NamespaceOptions.TargetId = cri.NamespaceMode_TARGET, s.Target
	}
	if p := s.Pod.Spec.SecurityContext; p != nil && p.SupplementalGroupsPolicy != nil {
		policy, ok := cri.SupplementalGroupsPolicy_value[string(*p.SupplementalGroupsPolicy)]
		if !ok {
			return nil, fmt.Errorf("unsupported supplementalGroupsPolicy: %s", *p.SupplementalGroupsPolicy)
		}
		sc.SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy(policy)
	}
	if c := effective.Capabilities; c != nil {
		sc.Capabilities = &cri.Capability{}
		for _, name := range c.Add {
			sc.Capabilities.AddCapabilities = append(sc.Capabilities.AddCapabilities, string(name))
		}
		for _, name := range c.Drop {
			sc.Capabilities.DropCapabilities = append(sc.Capabilities.DropCapabilities, string(name))
		}
	}
	sc.Privileged = effective.Privileged != nil && *effective.Privileged
	sc.ReadonlyRootfs = effective.ReadOnlyRootFilesystem != nil && *effective.ReadOnlyRootFilesystem
	switch {
	case effective.RunAsUser != nil:
		sc.RunAsUser = &cri.Int64Value{Value: *effective.RunAsUser}
	case s.User != nil:
		sc.RunAsUser = &cri.Int64Value{Value: *s.User}
	default:
		sc.RunAsUsername = s.Username
	}
	if effective.RunAsGroup != nil {
		if sc.RunAsUser == nil && sc.RunAsUsername == "" {
			sc.RunAsUser = &cri.Int64Value{Value: 0}
		}
		sc.RunAsGroup = &cri.Int64Value{Value: *effective.RunAsGroup}
	}
	if effective.SELinuxOptions != nil {
		sc.SelinuxOptions = selinux(effective.SELinuxOptions)
	}
	profile := effective.SeccompProfile
	if profile == nil && s.Pod.Spec.SecurityContext != nil {
		profile = s.Pod.Spec.SecurityContext.SeccompProfile
	}
	if s.Container.SecurityContext != nil && s.Container.SecurityContext.SeccompProfile != nil {
		profile = s.Container.SecurityContext.SeccompProfile
	}
	if profile != nil {
		switch profile.Type {
		case corev1.SeccompProfileTypeUnconfined:
			sc.Seccomp.ProfileType = cri.SecurityProfile_Unconfined
		case corev1.SeccompProfileTypeRuntimeDefault:
			sc.Seccomp.ProfileType = cri.SecurityProfile_RuntimeDefault
		case corev1.SeccompProfileTypeLocalhost:
			if profile.LocalhostProfile == nil || *profile.LocalhostProfile == "" {
				return nil, fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost")
			}
			sc.Seccomp.ProfileType, sc.Seccomp.LocalhostRef = cri.SecurityProfile_Localhost, filepath.Join(d.cfg.SeccompDir, *profile.LocalhostProfile)
		default:
			return nil, fmt.Errorf("seccompProfile type %q is not known", profile.Type)
		}
	}
	if sc.Apparmor, err = appArmorProfile(s.Pod, s.Container); err != nil {
		return nil, err
	}
	return sc, nil
}

// appArmorProfile is nil where the runtime's own choice is to stand: its default profile where the kernel has AppArmor.
func appArmorProfile(p *corev1.Pod, c *corev1.Container) (*cri.SecurityProfile, error) {
	profile := apparmor.GetProfile(p, c)
	if profile == nil {
		return nil, nil
	}
	switch profile.Type {
	case corev1.AppArmorProfileTypeUnconfined:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}, nil
	case corev1.AppArmorProfileTypeRuntimeDefault:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}, nil
	case corev1.AppArmorProfileTypeLocalhost:
		if profile.LocalhostProfile == nil || *profile.LocalhostProfile == "" {
			return nil, errors.New("missing localhost apparmor profile name")
		}
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: *profile.LocalhostProfile}, nil
	}
	return nil, fmt.Errorf("unknown apparmor profile type: %q", profile.Type)
}

func selinux(o *corev1.SELinuxOptions) *cri.SELinuxOption {
	return &cri.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

// StartContainer starts a created container.
func (d *Driver) StartContainer(ctx context.Context, id string) error {
	_, err := d.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
	return plain(err)
}

// StopContainer signals, waits, kills.
func (d *Driver) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	seconds := int64((grace + time.Second - 1) / time.Second)
	if _, err := d.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: seconds}); err != nil && !notFound(err) {
		return fmt.Errorf("stop container %s: %w", id, err)
	}
	return nil
}

// RemoveContainer removes a container that has ended.
func (d *Driver) RemoveContainer(ctx context.Context, id string) error {
	if _, err := d.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id}); err != nil && !notFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	d.mu.Lock()
	delete(d.containers, id)
	d.mu.Unlock()
	return nil
}

var states = map[cri.ContainerState]pod.State{
	cri.ContainerState_CONTAINER_CREATED: pod.Created,
	cri.ContainerState_CONTAINER_RUNNING: pod.Running,
	cri.ContainerState_CONTAINER_EXITED:  pod.Exited,
	cri.ContainerState_CONTAINER_UNKNOWN: pod.Unknown,
}

func (d *Driver) container(ctx context.Context, c *cri.Container) (pod.Container, error) {
	state := states[c.State]
	d.mu.Lock()
	known, ok := d.containers[c.Id]
	d.mu.Unlock()
	if ok && known.State == state {
		return known, nil
	}
	r, err := d.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.Id})
	if err != nil {
		return pod.Container{}, err
	}
	s := r.GetStatus()
	number := func(key string, otherwise int64) int64 {
		n, err := strconv.ParseInt(s.Annotations[key], 10, 64)
		if err != nil {
			return otherwise
		}
		return n
	}
	at := func(nanos int64) time.Time {
		if nanos <= 0 {
			return time.Time{}
		}
		return time.Unix(0, nanos)
	}
	seen := pod.Container{
		ID: c.Id, SandboxID: c.PodSandboxId, Pod: refOf(s.Labels), Name: s.Labels[labelContainerName],
		Restarts: int32(number(annotationRestarts, 0)), Hash: s.Annotations[annotationHash],
		Grace: time.Duration(number(annotationPodGrace, int64(defaultGrace/time.Second))) * time.Second,
		State: states[s.State], Created: at(s.CreatedAt), Started: at(s.StartedAt), Finished: at(s.FinishedAt),
		ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message,
		Image: s.GetImage().GetUserSpecifiedImage(), ImageID: s.ImageRef, LogPath: s.LogPath,
		MemoryAsked: number(annotationMemoryAsked, -1),
	}
	if r := s.GetResources().GetLinux(); r != nil {
		seen.Resources = &pod.Resources{CPUShares: uint64(r.CpuShares), CPUQuota: max(r.CpuQuota, 0), CPUPeriod: uint64(r.CpuPeriod), Memory: r.MemoryLimitInBytes}
	}
	if seen.Image == "" {
		seen.Image = s.GetImage().GetImage()
	}
	if seen.State == pod.Exited {
		if text := terminationMessage(s); text != "" {
			seen.Message = strings.TrimPrefix(seen.Message+": "+text, ": ")
		}
	}
	// Running, the fields change only through Resize; ended, not at all. Anything else is asked for again.
	if seen.State == pod.Running || seen.State == pod.Exited {
		d.mu.Lock()
		d.containers[c.Id] = seen
		d.mu.Unlock()
	}
	return seen, nil
}

// terminationMessage is what the container left for us: its message file, or the end of its log when it asked for that.
func terminationMessage(s *cri.ContainerStatus) string {
	if target := s.Annotations[annotationTerminationPath]; target != "" {
		for _, m := range s.Mounts {
			if m.ContainerPath != target {
				continue
			}
			if text := tailOf(m.HostPath, maxTerminationMessage); text != "" {
				return text
			}
		}
	}
	if s.Annotations[annotationTerminationPolicy] != string(corev1.TerminationMessageFallbackToLogsOnError) || s.ExitCode == 0 {
		return ""
	}
	var b strings.Builder
	lines := strings.Split(strings.TrimSuffix(tailOf(s.LogPath, 64<<10), "\n"), "\n")
	for _, line := range lines[max(0, len(lines)-maxTerminationMessageLogLine):] {
		// 2016-10-06T00:17:09.669794202Z stdout F text
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
			b.WriteString(fields[3])
			if fields[2] == "F" {
				b.WriteByte('\n')
			}
		}
	}
	text := b.String()
	return text[max(0, len(text)-maxTerminationMessageLog):]
}

// tailOf is the end of a small file, empty if there is none.
func tailOf(path string, limit int64) string {
	// What a container put there may be a link to a file of this machine, or a pipe that nobody writes.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	text, _ := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-limit), limit))
	return string(text)
}
