package containerd

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"murmur/node/pod"
)

// TestContainerConfig: what the runtime is told of a container.
func TestContainerConfig(t *testing.T) {
	d := &Driver{cgroups: cgroups{fs: t.TempDir()}}
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Command: []string{"$(A)"}, Args: []string{"$(B)"}, WorkingDir: "/w", Stdin: true, StdinOnce: true, TTY: true}}}}
	got, err := d.containerConfig(&pod.ContainerSpec{Pod: p, Container: &p.Spec.Containers[0], Sandbox: &pod.SandboxSpec{Pod: p},
		Command: []pod.Text{{Value: "a"}}, Args: []pod.Text{{Value: "b"}, {Value: "c", Secret: true}}, Env: []pod.Variable{{Name: "V", Text: pod.Text{Value: "d", Secret: true}}},
		Mounts: []pod.Mount{{Source: "/s", Target: "/t", Propagation: corev1.MountPropagationHostToContainer, ReadOnly: true, Recursive: true}}}, func(t pod.Text) string {
		if t.Secret {
			return "sealed"
		}
		return t.Value
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Command[0] != "a" || got.Args[0] != "b" || got.Args[1] != "sealed" || got.Envs[0].Key != "V" || string(got.Envs[0].Value) != "sealed" || got.WorkingDir != "/w" || !got.Stdin || !got.StdinOnce || !got.Tty {
		t.Errorf("%+v", got)
	}
	if m := got.Mounts[0]; m.HostPath != "/s" || m.ContainerPath != "/t" || m.Propagation.String() != "PROPAGATION_HOST_TO_CONTAINER" || !m.Readonly || !m.RecursiveReadOnly {
		t.Errorf("%+v", m)
	}
}

// TestWhatKeepsAPodApart: how the runtime is told of namespaces, kernel parameters and AppArmor profiles.
func TestWhatKeepsAPodApart(t *testing.T) {
	d := &Driver{cgroups: cgroups{fs: t.TempDir()}}
	for name, c := range map[string]struct {
		spec corev1.PodSpec
		want *cri.NamespaceOption
	}{
		"as it is":  {corev1.PodSpec{}, &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
		"hostIPC":   {corev1.PodSpec{HostIPC: true}, &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_NODE}},
		"hostPID":   {corev1.PodSpec{HostPID: true}, &cri.NamespaceOption{Pid: cri.NamespaceMode_NODE}},
		"processes": {corev1.PodSpec{ShareProcessNamespace: ptr(true)}, &cri.NamespaceOption{Pid: cri.NamespaceMode_POD}},
	} {
		got, err := d.namespaces(&pod.SandboxSpec{Pod: &corev1.Pod{Spec: c.spec}})
		if err != nil || got.Pid != c.want.Pid || got.Ipc != c.want.Ipc || got.Network != c.want.Network {
			t.Errorf("%s: %v %v, want %v", name, got, err, c.want)
		}
	}
	p := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net/core/somaxconn", Value: "512"}},
		AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: ptr("of-the-pod")}}, Containers: []corev1.Container{{Name: "c"}, {Name: "own",
		SecurityContext: &corev1.SecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: ptr("its-own")}}}}}}
	config, err := d.sandboxConfig(&pod.SandboxSpec{Pod: p})
	if err != nil || config.Linux.Sysctls["net.core.somaxconn"] != "512" {
		t.Errorf("sysctls %v, %v", config, err)
	}
	for i, want := range []string{"of-the-pod", "its-own"} {
		got, err := appArmorProfile(p, &p.Spec.Containers[i])
		if err != nil || got.ProfileType != cri.SecurityProfile_Localhost || got.LocalhostRef != want {
			t.Errorf("AppArmor profile %v %v, want %s", got, err, want)
		}
	}
	p.Spec.SecurityContext.AppArmorProfile.LocalhostProfile = ptr("")
	if _, err := appArmorProfile(p, &p.Spec.Containers[0]); err == nil {
		t.Error("a profile without a name")
	}
}
