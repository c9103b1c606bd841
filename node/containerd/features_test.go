package containerd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"

	"murmur/node/pod"
	"murmur/node/pod/podtest"
	"murmur/node/volume"
)

func ptr[T any](v T) *T { return &v }

// world is a node with everything real.
func world(t *testing.T) (*podtest.World, *Driver, Config) {
	t.Helper()
	d, cfg := real(t)
	dir := filepath.Dir(cfg.Root)
	tokens := func(_ context.Context, namespace, account, audience string, seconds int64, p *corev1.Pod) (string, time.Time, error) {
		return fmt.Sprintf("token for %s/%s at %s in %s", namespace, account, audience, p.Name), time.Now().Add(time.Duration(seconds) * time.Second), nil
	}
	return podtest.New(t, d, volume.New(volume.Config{Dir: dir + "/pods", Tokens: tokens}), dir), d, cfg
}

// output runs a command in a pod's container.
func output(t *testing.T, d *Driver, p *corev1.Pod, cmd ...string) string {
	t.Helper()
	id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	out, code, err := d.Exec(t.Context(), id, cmd, 10*time.Second)
	if err != nil || code != 0 {
		t.Errorf("%v: exit code %d, %v: %s", cmd, code, err, out)
	}
	return string(out)
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: data}
}

func TestVolumes(t *testing.T) {
	w, d, _ := world(t)
	host := t.TempDir()
	p := podtest.Pod("vols", "sleep", "1000")
	p.Labels = map[string]string{"app": "x"}
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(2000)), RunAsUser: ptr(int64(1000)), SupplementalGroups: []int64{3000}}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: ptr(resource.MustParse("1Mi"))}}},
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "config"}}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secret", DefaultMode: ptr(int32(0o400)), Items: []corev1.KeyToPath{{Key: "k", Path: "sub/file"}}}}},
		{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "api"}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
				{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "c", Resource: "limits.cpu"}}}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Optional: ptr(true)}}}}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host + "/new", Type: ptr(corev1.HostPathDirectoryOrCreate)}}},
	}
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "WHERE", Value: "here"}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "empty", MountPath: "/empty"}, {Name: "memory", MountPath: "/memory"}, {Name: "config", MountPath: "/config"},
		{Name: "secret", MountPath: "/secret"}, {Name: "all", MountPath: "/all", ReadOnly: true}, {Name: "host", MountPath: "/host", ReadOnly: true},
		{Name: "empty", MountPath: "/part", SubPath: "a/b"}, {Name: "empty", MountPath: "/expr", SubPathExpr: "$(WHERE)"},
		{Name: "config", MountPath: "/one/file", SubPath: "a"},
	}
	w.Create("pods", p)
	w.Eventually(10*time.Second, "FailedMount", func() error {
		if want := `FailedMount: MountVolume.SetUp failed for volume "config" : configmap "config" not found`; !strings.Contains(w.Events.String(), want) {
			return fmt.Errorf("no event %q", want)
		}
		return nil
	})
	w.Create("secrets", &corev1.Secret{TypeMeta: metav1.TypeMeta{Kind: "Secret", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "secret", Namespace: "default"}, Data: map[string][]byte{"k": []byte("hidden")}})
	w.Create("configmaps", configMap("config", map[string]string{"a": "1", "b": "2"}))
	p = w.Until("vols", "ready", podtest.Ready)

	for cmd, want := range map[string]string{
		"cat /config/a /config/b":        "12",
		"cat /one/file":                  "1",
		"cat /secret/sub/file":           "hidden",
		"cat /all/token":                 "token for default/default at api in vols",
		"cat /all/labels":                `app="x"`,
		"id":                             "uid=1000 gid=0 groups=0,2000,3000\n",
		"stat -c %a:%g /empty":           "2777:2000\n",
		"stat -L -c %a /secret/sub/file": "440\n",
	} {
		if got := output(t, d, p, strings.Fields(cmd)...); got != want {
			t.Errorf("%s: %q, want %q", cmd, got, want)
		}
	}
	output(t, d, p, "sh", "-c", "touch /empty/f /part/f /expr/f && test -f /empty/a/b/f && test -f /empty/here/f")
	output(t, d, p, "sh", "-c", "! touch /config/x 2>/dev/null && ! touch /host/x 2>/dev/null && ! dd if=/dev/zero of=/memory/big bs=1M count=2 2>/dev/null")
	if got := output(t, d, p, "sh", "-c", "cat /all/cpu"); got == "" || got == "0" {
		t.Errorf("cpu limit %q", got)
	}
	podtest.Change(w, "configmaps", "config", func(c *corev1.ConfigMap) { c.Data["a"] = "changed" })
	w.Eventually(10*time.Second, "live update", func() error {
		if got := output(t, d, p, "cat", "/config/a"); got != "changed" {
			return fmt.Errorf("still %q", got)
		}
		return nil
	})
	if got := output(t, d, p, "cat", "/one/file"); got != "1" { // a sub-path stays what it was
		t.Errorf("sub-path: %q", got)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if !bytes.Contains(mounts, []byte(w.Volumes.Dir(p.UID))) {
		t.Error("no volume is a mount")
	}
	w.Delete("vols")
	w.Until("vols", "gone", podtest.Gone)
	mounts, _ = os.ReadFile("/proc/self/mountinfo")
	if bytes.Contains(mounts, []byte(string(p.UID))) {
		t.Error("mounts are left behind")
	}
	if _, err := os.Stat(w.Volumes.Dir(p.UID)); err == nil {
		t.Error("directory is left behind")
	}
	if _, err := os.Stat(host + "/new"); err != nil {
		t.Error("hostPath was removed with the pod")
	}
}

func TestEnvironment(t *testing.T) {
	w, d, _ := world(t)
	w.Create("services", &corev1.Service{TypeMeta: metav1.TypeMeta{Kind: "Service", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"},
		Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.1", Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}}}})
	w.Create("configmaps", configMap("env", map[string]string{"FROM": "map", "KEY": "v"}))
	p := podtest.Pod("env", "sh", "-c", `echo "arg $0"; exec sleep 1000`, "$(GREETING)")
	p.Spec.Hostname, p.Spec.Subdomain = "me", "sub"
	p.Spec.HostAliases = []corev1.HostAlias{{IP: "198.51.100.1", Hostnames: []string{"alias"}}}
	c := &p.Spec.Containers[0]
	c.Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")}}
	c.EnvFrom = []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}}
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}
	}
	c.Env = []corev1.EnvVar{{Name: "NAME", ValueFrom: field("metadata.name")}, {Name: "IP", ValueFrom: field("status.podIP")}, {Name: "NODE", ValueFrom: field("spec.nodeName")},
		{Name: "HOST", ValueFrom: field("status.hostIP")}, {Name: "GREETING", Value: "hello $(NAME) $$(NAME) $(UNKNOWN)"},
		{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory"}}},
		{Name: "KEY", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}, Key: "KEY"}}}}
	w.Create("pods", p)
	p = w.Until("env", "ready", podtest.Ready)
	env := output(t, d, p, "env")
	for _, want := range []string{"NAME=env", "IP=" + p.Status.PodIP, "NODE=n1", "HOST=192.0.2.1", "GREETING=hello env $(NAME) $(UNKNOWN)", "MEM=67108864", "KEY=v",
		"P_FROM=map", "KUBERNETES_SERVICE_HOST=10.43.0.1", "KUBERNETES_SERVICE_PORT=443", "HOSTNAME=me"} {
		if !strings.Contains(env, want+"\n") {
			t.Errorf("no %s in:\n%s", want, env)
		}
	}
	if got, want := output(t, d, p, "cat", "/etc/resolv.conf"), "search default.svc.cluster.local svc.cluster.local cluster.local"; !strings.HasPrefix(got, want) ||
		!strings.Contains(got, "nameserver 10.43.0.10\n") || !strings.Contains(got, "options ndots:5") {
		t.Errorf("resolv.conf: %s", got)
	}
	if got := output(t, d, p, "cat", "/etc/hosts"); !strings.Contains(got, p.Status.PodIP+"\tme.sub.default.svc.cluster.local\tme\n") || !strings.Contains(got, "198.51.100.1\talias\n") {
		t.Errorf("hosts: %s", got)
	}
	if p.Status.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("QoS class %s", p.Status.QOSClass)
	}
	// The pod's own cgroup and the container's below it.
	if !d.cgroups.unified() {
		parent := d.cgroups.parent(corev1.PodQOSBurstable, p.UID)
		for path, want := range map[string]string{
			"cpu" + parent + "/cpu.shares": "256", "cpu" + parent + "/cpu.cfs_quota_us": "50000", "memory" + parent + "/memory.limit_in_bytes": "67108864",
			"cpu" + filepath.Dir(parent) + "/cpu.shares": "256",
		} {
			if got, err := os.ReadFile(filepath.Join(d.cgroups.fs, path)); err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s: %q, want %s (%v)", path, got, want, err)
			}
		}
		below, _ := filepath.Glob(filepath.Join(d.cgroups.fs, "memory", parent, "*", "memory.limit_in_bytes"))
		if len(below) != 2 { // sandbox and container
			t.Errorf("cgroups below the pod's: %v", below)
		}
	}
	stats, err := d.Stats(t.Context())
	if err != nil || len(stats) != 1 || stats[0].Name != "c" || stats[0].Memory == 0 || stats[0].CPU == 0 {
		t.Errorf("stats: %+v %v", stats, err)
	}
}

func TestLogs(t *testing.T) {
	w, _, _ := world(t)
	read := func(name string, o *corev1.PodLogOptions) (string, error) {
		var b bytes.Buffer
		err := w.Kubelet.Logs(t.Context(), "default", name, o, &b)
		return b.String(), err
	}
	p := podtest.Pod("logs", "sh", "-c", "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three; exec sleep 1")
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	w.Create("pods", p)
	w.Until("logs", "running", podtest.Phase(corev1.PodRunning))
	var followed bytes.Buffer
	if err := w.Kubelet.Logs(t.Context(), "default", "logs", &corev1.PodLogOptions{Follow: true}, &followed); err != nil || followed.String() != "one\ntwo\nthree\n" {
		t.Errorf("follow: %q %v", followed.String(), err) // ends with the container
	}
	w.Until("logs", "succeeded", podtest.Phase(corev1.PodSucceeded))
	for _, c := range []struct {
		opts corev1.PodLogOptions
		want string
	}{
		{corev1.PodLogOptions{}, "one\ntwo\nthree\n"},
		{corev1.PodLogOptions{TailLines: ptr(int64(1))}, "three\n"},
		{corev1.PodLogOptions{LimitBytes: ptr(int64(5))}, "one\nt"},
		{corev1.PodLogOptions{SinceTime: &metav1.Time{Time: time.Now().Add(time.Hour)}}, ""},
		{corev1.PodLogOptions{Stream: ptr(corev1.LogStreamStderr)}, "two\n"},
	} {
		if got, err := read("logs", &c.opts); err != nil || got != c.want {
			t.Errorf("%+v: %q %v", c.opts, got, err)
		}
	}
	if got, err := read("logs", &corev1.PodLogOptions{Timestamps: true}); err != nil || !regexp.MustCompile(`^\d{4}-\d\d-\d\dT[0-9:.]+Z one\n`).MatchString(got) {
		t.Errorf("timestamps: %q %v", got, err)
	}
	for name, want := range map[string]string{"nothing": "not found", "logs": `previous terminated container "c" in pod "logs" not found`} {
		if _, err := read(name, &corev1.PodLogOptions{Previous: true}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := read("logs", &corev1.PodLogOptions{Container: "x"}); err == nil || err.Error() != "container x is not valid for pod logs" {
		t.Errorf("%v", err)
	}
	// Of a container that crashes, this run and the one before it; the reason of the end is in its own words.
	crash := podtest.Pod("crash", "sh", "-c", "echo run; echo why > /dev/termination-log; exit 3")
	w.Create("pods", crash)
	got := w.Until("crash", "CrashLoopBackOff", podtest.Waiting("CrashLoopBackOff"))
	if s := got.Status.ContainerStatuses[0].LastTerminationState.Terminated; s.Message != "why\n" || s.ExitCode != 3 {
		t.Errorf("last state: %+v", s)
	}
	for _, previous := range []bool{false, true} {
		if got, err := read("crash", &corev1.PodLogOptions{Previous: previous}); err != nil || got != "run\n" {
			t.Errorf("previous=%v: %q %v", previous, got, err)
		}
	}
	fallback := podtest.Pod("fallback", "sh", "-c", "echo last words; exit 1")
	fallback.Spec.RestartPolicy = corev1.RestartPolicyNever
	fallback.Spec.Containers[0].TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	w.Create("pods", fallback)
	got = w.Until("fallback", "failed", podtest.Phase(corev1.PodFailed))
	if s := got.Status.ContainerStatuses[0].State.Terminated; s.Message != "last words\n" {
		t.Errorf("state: %+v", s)
	}
}

func TestStreams(t *testing.T) {
	w, d, _ := world(t)
	p := podtest.Pod("web", "sh", "-c", "mkdir -p /www; echo page > /www/index.html; exec httpd -f -p 8080 -h /www")
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, HostPort: 18080, Protocol: corev1.ProtocolTCP}}
	get := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromString("http")}}
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: get, PeriodSeconds: 1}
	p.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1}
	p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"touch", "/started"}}},
		PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo stopping > /proc/1/fd/1"}}}}
	w.Create("pods", p)
	p = w.Until("web", "ready", podtest.Ready)
	output(t, d, p, "test", "-f", "/started")
	resp, err := http.Get("http://" + p.Status.PodIP + ":8080/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "page\n" {
		t.Errorf("page: %q", body)
	}
	url, err := w.Kubelet.Exec(t.Context(), "default", "web", &corev1.PodExecOptions{Command: []string{"sh", "-c", "cat; exit 7"}, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: url.Host}, "POST", url)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("typed"), Stdout: &out})
	if out.String() != "typed" || err == nil || !strings.Contains(err.Error(), "7") {
		t.Errorf("exec: %q %v", out.String(), err)
	}
	forward, err := w.Kubelet.PortForward(t.Context(), "default", "web", &corev1.PodPortForwardOptions{Ports: []int32{8080}})
	if err != nil || forward.Host == "" {
		t.Errorf("port forward: %v %v", forward, err)
	}
	if attach, err := w.Kubelet.Attach(t.Context(), "default", "web", &corev1.PodAttachOptions{Stdout: true}); err != nil || attach.Host == "" {
		t.Errorf("attach: %v %v", attach, err)
	}
	if rules, err := exec.Command("iptables-save", "-t", "nat").CombinedOutput(); err == nil && !strings.Contains(string(rules), "--dport 18080") && !strings.Contains(string(rules), "--dports 18080") {
		t.Errorf("host port 18080 is not mapped:\n%s", rules)
	}
}

// TestContainerdDies: the containers go on without it, and it comes back by itself.
func TestContainerdDies(t *testing.T) {
	w, d, _ := world(t)
	w.Create("pods", podtest.Pod("steady", "sleep", "1000"))
	before := w.Until("steady", "ready", podtest.Ready)
	first := d.running()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.Eventually(15*time.Second, "a new containerd", func() error {
		if pid := d.running(); pid == 0 || pid == first {
			return fmt.Errorf("pid %d", pid)
		}
		_, err := d.Version(t.Context())
		return err
	})
	w.Create("pods", podtest.Pod("after", "sleep", "1000"))
	w.Until("after", "ready", podtest.Ready)
	after := w.Get("steady")
	if !podtest.Ready(after) || after.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID || after.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("status: %+v", after.Status)
	}
}

// TestMachineCrash: daemon, containerd, shims and containers die at once; the pods run again from the disk.
func TestMachineCrash(t *testing.T) {
	w, d, _ := world(t)
	w.Create("pods", podtest.Pod("again", "sleep", "1000"))
	before := w.Until("again", "ready", podtest.Ready)
	w.Stop()
	pid := d.running()
	_ = syscall.Kill(pid, syscall.SIGKILL)
	remains := d.remains()
	if len(remains) < 3 {
		t.Fatalf("found only %v: shim, pause and container should be there", remains)
	}
	for _, p := range remains {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
	w.Start()
	after := w.Until("again", "runs again", func(p *corev1.Pod) bool {
		return podtest.Ready(p) && p.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID
	})
	if c := after.Status.ContainerStatuses[0]; c.RestartCount != 1 || after.UID != before.UID {
		t.Errorf("container: %+v", c)
	}
}

// TestShutdownWithoutContainerd: containerd was killed, its shims and containers go on; Shutdown leaves nothing of them.
func TestShutdownWithoutContainerd(t *testing.T) {
	d, _ := real(t)
	p := podtest.Pod("left", "sleep", "1000")
	p.UID = "22222222-2222-3333-4444-555555555555"
	dir := t.TempDir()
	sandbox := &pod.SandboxSpec{Pod: p, Hostname: "left", LogDir: dir, QOS: corev1.PodQOSBestEffort}
	id, err := d.RunSandbox(t.Context(), sandbox)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.CreateContainer(t.Context(), &pod.ContainerSpec{Pod: p, Sandbox: sandbox, SandboxID: id, Container: &p.Spec.Containers[0], Command: texts(p.Spec.Containers[0].Command), Image: podtest.Image, ImageID: podtest.Image, LogPath: "c.log"})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.StartContainer(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	stopRuns[d]() // so that it is not started again
	if err := syscall.Kill(d.running(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for d.running() != 0 {
		time.Sleep(10 * time.Millisecond)
	}
	if n := len(d.remains()); n < 3 {
		t.Fatalf("%d processes remain: shim, pause and container should", n)
	}
	if err := d.Shutdown(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if left := d.remains(); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// TestAdoption: a second Driver on the same directories, as a restarted daemon makes one, finds containerd and changes nothing.
func TestAdoption(t *testing.T) {
	w, d, cfg := world(t)
	w.Create("pods", podtest.Pod("kept", "sleep", "1000"))
	w.Until("kept", "ready", podtest.Ready)
	pid := d.running()
	second, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	stop := run(t, second)
	defer stop()
	if got := second.running(); got != pid {
		t.Errorf("containerd was %d and is %d", pid, got)
	}
	_, containers, err := second.List(t.Context(), "")
	if err != nil || len(containers) != 1 || containers[0].State != pod.Running {
		t.Errorf("containers: %+v %v", containers, err)
	}
}

// TestImageVolume: an image is mounted as it is, or a part of it, and nobody can write there.
func TestImageVolume(t *testing.T) {
	w, d, _ := world(t)
	p := podtest.Pod("image", "sleep", "1000")
	p.Spec.Volumes = []corev1.Volume{{Name: "image", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: podtest.Image, PullPolicy: corev1.PullIfNotPresent}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "image", MountPath: "/whole"}, {Name: "image", MountPath: "/part", SubPath: "bin"}}
	w.Create("pods", p)
	p = w.Until("image", "runs", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	if whole, part := output(t, d, p, "ls", "/whole/bin"), output(t, d, p, "ls", "/part"); !strings.Contains(whole, "sleep") || whole != part {
		t.Errorf("the image has %q in bin, its part is %q", whole, part)
	}
	id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	if out, code, err := d.Exec(t.Context(), id, []string{"touch", "/whole/new"}, 10*time.Second); err != nil || code == 0 || !strings.Contains(string(out), "Read-only") {
		t.Errorf("writing there: %d, %v, %q", code, err, out)
	}

	for name, c := range map[string]struct {
		image  corev1.ImageVolumeSource
		path   string
		reason string
	}{
		"absent":  {corev1.ImageVolumeSource{Reference: "test.local/absent:1", PullPolicy: corev1.PullNever}, "", "ErrImageNeverPull"},
		"no-path": {corev1.ImageVolumeSource{Reference: podtest.Image, PullPolicy: corev1.PullNever}, "no/such", "CreateContainerError"},
	} {
		p := podtest.Pod(name, "sleep", "1000")
		p.Spec.Volumes = []corev1.Volume{{Name: "image", VolumeSource: corev1.VolumeSource{Image: &c.image}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "image", MountPath: "/whole", SubPath: c.path}}
		w.Create("pods", p)
		p = w.Until(name, "waits", func(p *corev1.Pod) bool {
			return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == c.reason
		})
		t.Logf("%s: %s", name, p.Status.ContainerStatuses[0].State.Waiting.Message)
	}
}
