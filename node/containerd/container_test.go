package containerd

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"murmur/node/pod"
)

// TestContainerConfig: what the runtime is told of a container.
func TestContainerConfig(t *testing.T) {
	d := &Driver{cgroups: cgroups{fs: t.TempDir()}}
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Command: []string{"a"}, Args: []string{"b"}, WorkingDir: "/w", Stdin: true, StdinOnce: true, TTY: true}}}}
	got, err := d.containerConfig(&pod.ContainerSpec{Pod: p, Container: &p.Spec.Containers[0], Sandbox: &pod.SandboxSpec{Pod: p},
		Mounts: []pod.Mount{{Source: "/s", Target: "/t", Propagation: corev1.MountPropagationHostToContainer, ReadOnly: true, Recursive: true}}})
	if err != nil {
		t.Fatal(err)
	}
	if got.Command[0] != "a" || got.Args[0] != "b" || got.WorkingDir != "/w" || !got.Stdin || !got.StdinOnce || !got.Tty {
		t.Errorf("%+v", got)
	}
	if m := got.Mounts[0]; m.HostPath != "/s" || m.ContainerPath != "/t" || m.Propagation.String() != "PROPAGATION_HOST_TO_CONTAINER" || !m.Readonly || !m.RecursiveReadOnly {
		t.Errorf("%+v", m)
	}
}
