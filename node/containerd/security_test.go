package containerd

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"murmur/node/pod/podtest"
)

func TestSecurity(t *testing.T) {
	w, d, _ := world(t)
	strict := podtest.Pod("strict", "sleep", "1000")
	strict.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(1000)), RunAsGroup: ptr(int64(1001)),
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}, Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "80"}}}
	strict.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr(true), AllowPrivilegeEscalation: ptr(false),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	host := podtest.Pod("host", "sleep", "1000")
	host.Spec.HostNetwork, host.Spec.HostPID = true, true
	host.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)}
	root := podtest.Pod("root", "sleep", "1000")
	root.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr(true)}
	shared := podtest.Pod("shared", "sleep", "1000")
	shared.Spec.ShareProcessNamespace = ptr(true)
	for _, p := range []*corev1.Pod{strict, host, root, shared} {
		w.Create("pods", p)
	}
	p := w.Until("strict", "ready", podtest.Ready)
	status := output(t, d, p, "cat", "/proc/1/status")
	for _, want := range []string{"Uid:\t1000\t", "Gid:\t1001\t", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in:\n%s", want, status)
		}
	}
	if got := output(t, d, p, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"); got != "80\n" {
		t.Errorf("sysctl: %q", got)
	}
	output(t, d, p, "sh", "-c", "! touch /x 2>/dev/null")

	p = w.Until("host", "ready", podtest.Ready)
	if p.Status.PodIP != "192.0.2.1" {
		t.Errorf("address %s of a pod on the node's network", p.Status.PodIP)
	}
	own, _ := os.Readlink("/proc/self/ns/net")
	if got := output(t, d, p, "stat", "-c", "%N", "/proc/1/ns/net"); got == "" {
		t.Error("no network namespace")
	} else if got := output(t, d, p, "sh", "-c", "stat -c %N /proc/self/ns/net"); !strings.Contains(got, own) {
		t.Errorf("network namespace %s, want %s", got, own)
	}
	if !strings.Contains(output(t, d, p, "cat", "/etc/hosts"), "(host network)") {
		t.Error("hosts file is not the node's")
	}

	p = w.Until("root", "CreateContainerConfigError", podtest.Waiting("CreateContainerConfigError"))
	if m := p.Status.ContainerStatuses[0].State.Waiting.Message; !strings.HasPrefix(m, "container has runAsNonRoot and image will run as root") {
		t.Errorf("message %q", m)
	}
	p = w.Until("shared", "ready", podtest.Ready)
	if got := output(t, d, p, "cat", "/proc/1/cmdline"); !strings.HasPrefix(got, "/pause") {
		t.Errorf("first process %q", got)
	}
}

// TestManyPods: twenty pods at once all run, each has its own address, and all go.
func TestManyPods(t *testing.T) {
	w, _, _ := world(t)
	began := time.Now()
	for i := range 20 {
		w.Create("pods", podtest.Pod(fmt.Sprintf("many-%d", i), "sleep", "1000"))
	}
	ips := map[string]bool{}
	for i := range 20 {
		ips[w.Until(fmt.Sprintf("many-%d", i), "ready", podtest.Ready).Status.PodIP] = true
	}
	t.Logf("20 pods ready after %v", time.Since(began))
	if len(ips) != 20 {
		t.Errorf("%d addresses for 20 pods", len(ips))
	}
}

// TestImagesDir: archives in the directory are imported, those that come later, too.
func TestImagesDir(t *testing.T) {
	d, cfg := real(t)
	stopRuns[d]()
	cfg.ImagesDir = t.TempDir()
	second, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	stop := run(t, second)
	defer stop()
	var tar bytes.Buffer
	if err := (Archive{Name: "later:2", Files: map[string]string{"/bin/busybox": "/bin/busybox"}, Cmd: []string{"/bin/busybox"}}).Write(&tar); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.ImagesDir+"/later.tar", tar.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.ImagesDir+"/broken.tar", []byte("not a tar"), 0o644); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		image, err := second.Image(t.Context(), "later:2")
		if err != nil {
			t.Fatal(err)
		}
		if image != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the archive is not imported")
		}
	}
}
