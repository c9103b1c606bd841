package containerd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"murmur/node/containerd/seal"
	"murmur/node/pod"
	"murmur/node/pod/podtest"
)

// TestSealing: what becomes of containers whose texts cannot be opened, or need not be.
func TestSealing(t *testing.T) {
	d, cfg := real(t)
	ctx, dir := t.Context(), t.TempDir()
	const value = "5ecret-of-this-test"
	serial := int32(0)
	sandbox := func(name, uid string) *pod.SandboxSpec {
		p := podtest.Pod(name, "sleep", "1000")
		p.UID = types.UID(uid)
		p.Annotations = map[string]string{annotationUnseals: "what its owner says"}
		return &pod.SandboxSpec{Pod: p, Hostname: name, LogDir: filepath.Join(dir, name), QOS: corev1.PodQOSBestEffort}
	}
	container := func(s *pod.SandboxSpec, sandboxID string, change func(*pod.ContainerSpec)) string {
		t.Helper()
		serial++
		spec := &pod.ContainerSpec{Pod: s.Pod, Restarts: serial, Sandbox: s, SandboxID: sandboxID, Container: &s.Pod.Spec.Containers[0], Command: texts([]string{"sleep", "1000"}),
			Env: []pod.Variable{{Name: "SECRET", Text: pod.Text{Value: value, Secret: true}}}, Image: podtest.Image, ImageID: podtest.Image, LogPath: "c.log"}
		change(spec)
		id, err := d.CreateContainer(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = d.StopContainer(ctx, id, 0)
			_ = d.RemoveContainer(ctx, id)
		})
		return id
	}
	as := func(*pod.ContainerSpec) {}
	sees := func(id string) {
		t.Helper()
		if out, code, err := d.Exec(ctx, id, []string{"env"}, 10*time.Second); err != nil || code != 0 || !strings.Contains(string(out), "SECRET="+value+"\n") {
			t.Errorf("sees %q, %d, %v", out, code, err)
		}
	}
	refused := func(id, why string) {
		t.Helper()
		if err := d.StartContainer(ctx, id); err == nil || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), value) {
			t.Errorf("start: %v, want %s", err, why)
		}
		_, containers, err := d.List(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range containers {
			if c.ID == id && (c.State == pod.Running || strings.Contains(c.Message, value)) {
				t.Errorf("it is %s: %s", c.State, c.Message)
			}
		}
	}

	s := sandbox("sealed", "33333333-2222-3333-4444-555555555555")
	sandboxID, err := d.RunSandbox(ctx, s)
	if err != nil {
		t.Fatal(err)
	}

	// The key is in memory, for root alone, and a daemon that starts anew takes it over.
	var fs unix.Statfs_t
	info, err := os.Stat(cfg.sealDir())
	if err := errors.Join(err, unix.Statfs(cfg.sealDir(), &fs)); err != nil || fs.Type != unix.TMPFS_MAGIC || info.Mode().Perm() != 0o700 {
		t.Fatalf("the key's directory: file system %x, %v", fs.Type, err)
	}
	before, err := d.keptKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.keepKey(); err != nil || !before.Kept(cfg.sealDir()) {
		t.Fatalf("the key is another one: %v", err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Count(string(mounts), " "+cfg.sealDir()+" ") != 1 {
		t.Errorf("%d file systems are mounted on the key's directory, %v", strings.Count(string(mounts), " "+cfg.sealDir()+" "), err)
	}

	started := container(s, sandboxID, as)
	if err := d.StartContainer(ctx, started); err != nil {
		t.Fatal(err)
	}
	sees(started)
	// Nothing that runc was given is open in the container.
	for _, of := range []string{"self", "1"} {
		out, _, err := d.Exec(ctx, started, []string{"sh", "-c", "ls -l /proc/" + of + "/fd"}, 10*time.Second)
		if err != nil || strings.Contains(string(out), "memfd") || strings.Contains(string(out), value) {
			t.Errorf("%s has open %s, %v", of, out, err)
		}
	}
	// A command may fail with runc's own words.
	if out, code, err := d.Exec(ctx, started, []string{"not-there"}, 10*time.Second); err == nil && code == 0 || strings.Contains(string(out), value) || err != nil && strings.Contains(err.Error(), value) {
		t.Errorf("%q %d %v", out, code, err)
	}

	refused(container(s, sandboxID, func(spec *pod.ContainerSpec) { spec.Command[0] = pod.Text{Value: value, Secret: true} }), "the program that is to run is named by a Secret")
	refused(container(s, sandboxID, func(spec *pod.ContainerSpec) { spec.Env[0].Value = value + "\x00" }), "variable SECRET: the Secret has a zero byte")
	// What is sealed, taken by another who found it.
	found := ""
	if key, err := d.keptKey(); err != nil {
		t.Fatal(err)
	} else {
		found = key.Seal(value, seal.Owner("another", "c"))
	}
	stolen, err := d.containerConfig(&pod.ContainerSpec{Pod: s.Pod, Sandbox: s, Container: &s.Pod.Spec.Containers[0], Command: texts([]string{"sleep", "1000"}), Image: podtest.Image, ImageID: podtest.Image,
		Env: []pod.Variable{{Name: "FOUND", Text: pod.Text{Value: found}}}, LogPath: "c.log"}, func(t pod.Text) string { return t.Value })
	if err != nil {
		t.Fatal(err)
	}
	config, err := d.sandboxConfig(s)
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: sandboxID, Config: stolen, SandboxConfig: config})
	if err != nil {
		t.Fatal(err)
	}
	refused(r.ContainerId, "variable FOUND: it was sealed for another container")
	if err := d.RemoveContainer(ctx, r.ContainerId); err != nil {
		t.Fatal(err)
	}

	// The key goes, and with it what was sealed under it; what is made from then on has another.
	waiting := container(s, sandboxID, as)
	if err := os.Remove(filepath.Join(cfg.sealDir(), "key")); err != nil {
		t.Fatal(err)
	}
	refused(waiting, "the key of this boot is not there")
	// A daemon that goes on writes down what it has.
	again := container(s, sandboxID, as)
	if err := d.StartContainer(ctx, again); err != nil {
		t.Fatal(err)
	}
	sees(again)
	sees(started)
	for _, id := range []string{waiting, again} {
		if err := d.StopContainer(ctx, id, 0); err != nil {
			t.Fatal(err)
		}
		if err := d.RemoveContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	waiting = container(s, sandboxID, as)
	if err := os.Remove(filepath.Join(cfg.sealDir(), "key")); err != nil {
		t.Fatal(err)
	}
	if err := d.keepKey(); err != nil { // as a daemon does that starts
		t.Fatal(err)
	}
	refused(waiting, "it was sealed for another container or under another key")
	if out, code, err := d.Exec(ctx, started, []string{"env"}, 10*time.Second); err == nil && code == 0 || strings.Contains(string(out), "murmur-sealed") {
		t.Errorf("a command runs without what it should have: %q %d %v", out, code, err)
	}
	if places := written(cfg)(t, value); len(places) > 0 {
		t.Errorf("the value is in %q", places)
	}

	// A sandbox as an older daemon made it, whose containers are started by runc: they get what they should, and it is written down.
	old := sandbox("old", "44444444-2222-3333-4444-555555555555")
	if config, err = d.sandboxConfig(old); err != nil {
		t.Fatal(err)
	}
	delete(config.Annotations, annotationUnseals)
	if err := os.MkdirAll(old.LogDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := d.cgroups.make(old.QOS, old.Pod.UID, pod.Resources{}); err != nil {
		t.Fatal(err)
	}
	sb, err := d.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	plain := container(old, sb.PodSandboxId, as)
	if err := d.StartContainer(ctx, plain); err != nil {
		t.Fatal(err)
	}
	sees(plain)
	if places := written(cfg)(t, value); len(places) == 0 {
		t.Error("nothing finds what is written down, so that nothing is shown above")
	}
}
