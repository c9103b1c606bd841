package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/node/pod"
	"murmur/node/pod/podtest"
	"murmur/node/volume"
)

const bin = "../../bin"

// TestMain runs the tests again in a network namespace of their own: bridges, addresses and rules go with it.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv("MURMUR_TEST_NETNS") != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), "MURMUR_TEST_NETNS=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// stopRuns ends the Run of a test's Driver before the test does.
var stopRuns = map[*Driver]func(){}

// real starts a containerd of the test's own, with a bridge network and a busybox image, and takes everything away at the end.
func real(t *testing.T) (*Driver, Config) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: containerd makes namespaces, mounts and cgroups")
	}
	abs, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{abs + "/containerd", abs + "/containerd-shim-runc-v2", abs + "/murmur-runc", abs + "/pause", abs + "/cni/bridge", "/bin/busybox"} {
		if _, err := os.Stat(path); err != nil {
			t.Skipf("%s is missing: `make build` makes the binaries, the package busybox-static brings /bin/busybox", path)
		}
	}
	if _, err := Runc(abs); err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("bring up lo: %v: %s", err, out)
	}
	dir, err := os.MkdirTemp("/tmp", "mct")
	if err != nil {
		t.Fatal(err)
	}
	// As the daemon's directories are: the users of a pod that has its own pass through.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	cfg := Config{BinDir: abs, Root: dir + "/root", State: dir + "/state", CgroupRoot: "/" + filepath.Base(dir), PodsDir: dir + "/pods", SeccompDir: dir + "/seccomp",
		Log: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	writeCNI(t, dir+"/root/net.d", "mct0", "10.99.0.0/24")
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := exec.Command("mountpoint", "-q", dir).Run(); err == nil {
			t.Errorf("%s is a mount", dir)
		}
		if mounts, _ := os.ReadFile("/proc/self/mountinfo"); bytes.Contains(mounts, []byte(dir)) {
			t.Errorf("mounts left behind below %s", dir)
			for line := range strings.Lines(string(mounts)) {
				if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir) {
					_ = syscall.Unmount(fields[4], syscall.MNT_DETACH)
				}
			}
		}
		os.RemoveAll(dir)
	})
	stopRuns[d] = run(t, d)
	t.Cleanup(func() {
		stopRuns[d]() // Shutdown wants nobody who starts containerd again
		delete(stopRuns, d)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := d.Shutdown(ctx, 0); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		d.Close()
		if t.Failed() {
			log, _ := os.ReadFile(cfg.Root + "/containerd.log")
			t.Logf("containerd.log begins:\n%s", log[:min(len(log), 2000)])
		}
		for _, h := range d.cgroups.hierarchies() {
			if _, err := os.Stat(h + cfg.CgroupRoot); err == nil {
				t.Errorf("cgroup %s%s left behind", h, cfg.CgroupRoot)
			}
		}
	})
	importBusybox(t, d)
	return d, cfg
}

// run runs a Driver until the returned function is called, or the test ends.
func run(t *testing.T, d *Driver) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	select {
	case <-d.Up():
	case err := <-done:
		done <- err
		t.Fatalf("run: %v", err)
	case <-time.After(30 * time.Second):
		log, _ := os.ReadFile(d.logPath())
		t.Fatalf("containerd does not come up:\n%s", log)
	}
	return stop
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

func writeCNI(t *testing.T, dir, bridge, subnet string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"murmur-test","plugins":[
 {"type":"bridge","bridge":%q,"isGateway":true,"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":%q}]]}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}`, bridge, dir+"/../ipam", subnet)
	if err := os.WriteFile(dir+"/10-murmur.conflist", []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
}

func importBusybox(t *testing.T, d *Driver) {
	t.Helper()
	links := map[string]string{}
	for _, name := range []string{"sh", "cat", "echo", "sleep", "ls", "id", "env", "hostname", "nc", "httpd", "wget", "touch", "stat", "ip", "mount", "true", "false", "kill", "ps", "test", "dd", "seq", "mkdir", "grep", "date"} {
		links["/bin/"+name] = "busybox"
	}
	var tar bytes.Buffer
	archive := Archive{Name: "test.local/busybox:1", Files: map[string]string{"/bin/busybox": "/bin/busybox"}, Links: links,
		Entrypoint: []string{"/bin/sh"}, Env: []string{"PATH=/bin"}}
	if err := archive.Write(&tar); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Import(t.Context(), &tar); err != nil {
		t.Fatal(err)
	}
}

func TestPodRuns(t *testing.T) {
	d, cfg := real(t)
	ctx := t.Context()
	if err := d.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	image, err := d.Image(ctx, "test.local/busybox:1")
	if err != nil || image == nil {
		t.Fatalf("image: %v, %v", image, err)
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: types.UID("11111111-2222-3333-4444-555555555555")},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Command: []string{"sh", "-c", "echo hello; exec sleep 1000"}}}}}
	sandbox := &pod.SandboxSpec{Pod: p, Hostname: "web", LogDir: filepath.Join(cfg.Root, "logs", "web"), QOS: corev1.PodQOSBestEffort, Resources: pod.Resources{CPUShares: 2}}
	began := time.Now()
	sid, err := d.RunSandbox(ctx, sandbox)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("sandbox in %v", time.Since(began))
	cid, err := d.CreateContainer(ctx, &pod.ContainerSpec{Pod: p, Sandbox: sandbox, SandboxID: sid, Container: &p.Spec.Containers[0], Command: texts(p.Spec.Containers[0].Command),
		Image: "test.local/busybox:1", ImageID: image.ID, LogPath: "c.log", Hash: "h"})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.StartContainer(ctx, cid); err != nil {
		t.Fatal(err)
	}
	t.Logf("container in %v", time.Since(began))
	ss, cs, err := d.List(ctx, p.UID)
	if err != nil || len(ss) != 1 || len(cs) != 1 {
		t.Fatalf("list: %v %v %v", ss, cs, err)
	}
	if !ss[0].Ready || len(ss[0].IPs) != 1 || !strings.HasPrefix(ss[0].IPs[0], "10.99.0.") {
		t.Errorf("sandbox: %+v", ss[0])
	}
	if cs[0].State != pod.Running || cs[0].Name != "c" || cs[0].Hash != "h" {
		t.Errorf("container: %+v", cs[0])
	}
	out, code, err := d.Exec(ctx, cid, []string{"hostname"}, 5*time.Second)
	if err != nil || code != 0 || string(out) != "web\n" {
		t.Errorf("exec: %q %d %v", out, code, err)
	}
}

func TestConform(t *testing.T) {
	d, cfg := real(t)
	dir := filepath.Dir(cfg.Root)
	podtest.Conform(t, podtest.New(t, d, volume.New(volume.Config{Dir: dir + "/pods"}), dir), func(t *testing.T, p *corev1.Pod) pod.Resources {
		group := d.cgroups.parent(p.Status.QOSClass, p.UID)
		number := func(elements ...string) int64 {
			text, err := os.ReadFile(filepath.Join(append([]string{d.cgroups.fs}, elements...)...))
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if d.cgroups.unified() {
			return pod.Resources{CPUQuota: number(group, "cpu.max"), Memory: number(group, "memory.max")}
		}
		return pod.Resources{CPUQuota: number("cpu", group, "cpu.cfs_quota_us"), Memory: number("memory", group, "memory.limit_in_bytes")}
	}, written(cfg))
}

// texts are those of a command as the API has it.
func texts(words []string) (out []pod.Text) {
	for _, w := range words {
		out = append(out, pod.Text{Value: w})
	}
	return out
}

// written looks for a text in all that containerd, its shims and runc have on a disk or in memory: the state directory is looked through as if it were on a disk.
func written(cfg Config) func(*testing.T, string) []string {
	return func(t *testing.T, text string) (places []string) {
		t.Helper()
		looked := 0
		look := func(path string) {
			content, err := os.ReadFile(path)
			if err != nil {
				return // made and removed as containers come and go
			}
			looked++
			if bytes.Contains(content, []byte(text)) {
				places = append(places, path)
			}
		}
		for _, dir := range []string{cfg.Root, cfg.State} {
			err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err != nil {
					return nil
				}
				// The root filesystems of containers, and layers of images.
				if e.IsDir() && (e.Name() == "rootfs" || e.Name() == "io.containerd.snapshotter.v1.overlayfs" || e.Name() == "io.containerd.content.v1.content") {
					return fs.SkipDir
				}
				if e.Type().IsRegular() {
					look(path)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		commands, err := filepath.Glob(filepath.Join(os.TempDir(), "runc-process*"))
		if err != nil || looked < 5 {
			t.Fatalf("looked at %d files, %v", looked, err)
		}
		for _, path := range commands {
			look(path)
		}
		return places
	}
}
