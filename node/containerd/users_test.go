package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/node/pod/podtest"
)

// withUsers skips where the kernel or runc cannot map users, loudly: it is the machine that lacks something.
func withUsers(t *testing.T, d *Driver) {
	t.Helper()
	f, err := d.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f.UserNamespaces != nil {
		t.Skipf("THIS MACHINE HAS NO USER NAMESPACES FOR PODS: %v", f.UserNamespaces)
	}
}

// TestUsersOfItsOwn: root in a pod with users of its own is nobody on the node, its volumes are its own in its own ids, and two pods
// never have the same.
func TestUsersOfItsOwn(t *testing.T) {
	w, d, cfg := world(t)
	withUsers(t, d)
	w.Create("configmaps", configMap("cm", map[string]string{"key": "value"}))
	unmasked := corev1.UnmaskedProcMount
	make := func(name string) *corev1.Pod {
		p := podtest.Pod(name, "sleep", "1000")
		p.Spec.HostUsers = ptr(false)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(2000))}
		p.Spec.Volumes = []corev1.Volume{
			{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}},
			{Name: "secret", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}}},
		}
		for _, v := range p.Spec.Volumes {
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
		}
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "disk", MountPath: "/sub", SubPath: "a/b"})
		return p
	}
	first, second := make("first"), make("second")
	second.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{ProcMount: &unmasked}
	w.Create("pods", first)
	w.Create("pods", second)
	maps := map[string]bool{}
	for _, name := range []string{"first", "second"} {
		p := w.Until(name, "ready", podtest.Ready)
		fields := strings.Fields(output(t, d, p, "cat", "/proc/self/uid_map"))
		if len(fields) != 3 || fields[0] != "0" || fields[1] == "0" || fields[2] != "65536" {
			t.Errorf("%s: uid_map %v", name, fields)
		}
		if groups := strings.Fields(output(t, d, p, "cat", "/proc/self/gid_map")); strings.Join(groups, " ") != strings.Join(fields, " ") {
			t.Errorf("%s: gid_map %v", name, groups)
		}
		maps[fields[1]] = true
		if got := output(t, d, p, "cat", "/config/key", "/secret/name"); got != "value"+name {
			t.Errorf("%s reads %q", name, got)
		}
		output(t, d, p, "sh", "-c", "echo x > /disk/file && echo x > /memory/file && echo x > /sub/file && echo x > /etc/own")
		if got := output(t, d, p, "stat", "-c", "%u %g", "/disk/file", "/config/..data/key"); got != "0 2000\n0 2000\n" {
			t.Errorf("%s: owners %q", name, got)
		}
		if got := output(t, d, p, "cat", "/etc/hosts"); !strings.Contains(got, p.Status.PodIP) {
			t.Errorf("%s: hosts file %q", name, got)
		}
		// On the node the process is nobody's, and what it wrote to a volume is as in the pod.
		_, containers, err := d.List(t.Context(), p.UID)
		if err != nil || len(containers) != 1 {
			t.Fatal(containers, err)
		}
		if got, err := os.ReadFile(filepath.Join(cfg.PodsDir, string(p.UID), "volumes/kubernetes.io~empty-dir/disk/file")); err != nil || string(got) != "x\n" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if out, code, err := d.Exec(t.Context(), containers[0].ID, []string{"sh", "-c", "echo 1 > /proc/sys/kernel/panic_on_warn"}, 0); err == nil && code == 0 {
			t.Errorf("%s changed the node: %s", name, out)
		}
	}
	if len(maps) != 2 {
		t.Errorf("two pods have the ids %v", maps)
	}
	if got := output(t, d, w.Get("first"), "sh", "-c", "cat /proc/timer_list 2>/dev/null | wc -c; grep -c ' /proc/[a-z]' /proc/self/mountinfo"); !strings.HasPrefix(got, "0\n") {
		t.Errorf("masked /proc shows %q", got)
	}
	if got := output(t, d, w.Get("second"), "sh", "-c", "grep -c ' /proc/[a-z]' /proc/self/mountinfo || true"); got != "0\n" {
		t.Errorf("unmasked /proc is covered by %q", got)
	}
	// A daemon that starts anew finds the ids of its pods, a container that starts anew has the same.
	before := output(t, d, w.Get("first"), "cat", "/proc/self/uid_map")
	d.readUsers()
	id := w.Get("first").Status.ContainerStatuses[0].ContainerID
	podtest.Change(w, "pods", "first", func(p *corev1.Pod) { p.Spec.Containers[0].Image = podtest.Image + "@x" })
	w.Until("first", "InvalidImageName", podtest.Waiting("InvalidImageName"))
	podtest.Change(w, "pods", "first", func(p *corev1.Pod) { p.Spec.Containers[0].Image = podtest.Image })
	p := w.Until("first", "runs again", func(p *corev1.Pod) bool { return podtest.Ready(p) && p.Status.ContainerStatuses[0].ContainerID != id })
	if after := output(t, d, p, "cat", "/proc/self/uid_map"); after != before {
		t.Errorf("ids %q, were %q", after, before)
	}
}

// TestUsersUnreadable: what cannot be read of a pod's ids keeps no node from starting, and no pod of theirs runs as the node's.
func TestUsersUnreadable(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/pods/u1", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/pods/u1/userns", []byte("not json"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{External: true, Socket: dir + "/none.sock", PodsDir: dir + "/pods"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u2"}, Spec: corev1.PodSpec{HostUsers: ptr(false)}}
	if users, err := d.usersOf(p, ""); err == nil {
		t.Errorf("users %v", users)
	}
	if d.userNamespaces(nil, "") == nil {
		t.Error("it says that pods can have users of their own")
	}
	if users, err := d.usersOf(&corev1.Pod{}, ""); err != nil || users.GetUids() != nil {
		t.Errorf("a pod that asks for none: %v, %v", users, err)
	}
}

const refuseMkdir = `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_AARCH64"],"syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`

// TestSeccomp: which profile a container has, with and without the node's default, and none that is not there.
func TestSeccomp(t *testing.T) {
	w, d, cfg := world(t)
	if err := os.MkdirAll(cfg.SeccompDir+"/own", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.SeccompDir+"/own/no-mkdir.json", []byte(refuseMkdir), 0o644); err != nil {
		t.Fatal(err)
	}
	local := func(name string) *corev1.SeccompProfile {
		return &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &name}
	}
	create := func(name string, pod, container *corev1.SeccompProfile) {
		p := podtest.Pod(name, "sleep", "1000")
		p.Spec.SecurityContext = &corev1.PodSecurityContext{SeccompProfile: pod}
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{SeccompProfile: container, Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_TIME"}}}
		w.Create("pods", p)
	}
	filtered := func(name, want string) *corev1.Pod {
		t.Helper()
		p := w.Until(name, "ready", podtest.Ready)
		if got := output(t, d, p, "grep", "Seccomp:", "/proc/1/status"); got != "Seccomp:\t"+want+"\n" {
			t.Errorf("%s: %q, want %s", name, got, want)
		}
		return p
	}
	unconfined, standard := &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}, &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	create("none", nil, nil)
	create("default", standard, nil)
	create("over", standard, unconfined)
	create("local", nil, local("own/no-mkdir.json"))
	create("pod-local", local("own/no-mkdir.json"), nil)
	create("missing", nil, local("own/none.json"))
	p := filtered("none", "0")
	output(t, d, p, "mkdir", "/x")
	if got := output(t, d, p, "grep", "CapEff", "/proc/1/status"); !strings.Contains(got, "a") && strings.TrimSpace(strings.TrimPrefix(got, "CapEff:")) == "00000000a80425fb" {
		t.Errorf("SYS_TIME was not added: %q", got)
	}
	filtered("default", "2")
	filtered("over", "0")
	for _, name := range []string{"local", "pod-local"} {
		p = filtered(name, "2")
		output(t, d, p, "sh", "-c", "! mkdir /x 2>/dev/null")
	}
	p = w.Until("missing", "CreateContainerError", podtest.Waiting("CreateContainerError"))
	if m := p.Status.ContainerStatuses[0].State.Waiting.Message; !strings.Contains(m, "none.json") {
		t.Errorf("message %q", m)
	}
	d.cfg.SeccompDefault = true
	create("by-default", nil, nil)
	create("by-default-over", nil, unconfined)
	filtered("by-default", "2")
	filtered("by-default-over", "0")
}

// TestGroups: as whom and in which groups a container runs.
func TestGroups(t *testing.T) {
	w, d, _ := world(t)
	strict := corev1.SupplementalGroupsPolicyStrict
	p := podtest.Pod("groups", "sleep", "1000")
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr(int64(1000)), RunAsGroup: ptr(int64(1000)), FSGroup: ptr(int64(2000)),
		SupplementalGroups: []int64{3000, 3001}, SupplementalGroupsPolicy: &strict}
	p.Spec.Volumes = []corev1.Volume{{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "disk", MountPath: "/disk"}}
	own := podtest.Container("own", "sleep", "1000")
	own.SecurityContext = &corev1.SecurityContext{RunAsUser: ptr(int64(1001)), RunAsGroup: ptr(int64(1002))}
	p.Spec.Containers = append(p.Spec.Containers, own)
	w.Create("pods", p)
	p = w.Until("groups", "ready", podtest.Ready)
	if got := output(t, d, p, "sh", "-c", "id -u; id -g; grep Groups: /proc/self/status; echo > /disk/x; stat -c %g /disk/x"); got != "1000\n1000\nGroups:\t1000 2000 3000 3001 \n2000\n" {
		t.Errorf("first container: %q", got)
	}
	p.Status.ContainerStatuses[0] = p.Status.ContainerStatuses[1]
	if got := output(t, d, p, "sh", "-c", "id -u; id -g; grep Groups: /proc/self/status"); got != "1001\n1002\nGroups:\t1002 2000 3000 3001 \n" {
		t.Errorf("second container: %q", got)
	}
}
