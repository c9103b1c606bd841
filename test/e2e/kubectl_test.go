package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"murmur/node/containerd"
)

// toolbox is an image with a shell and the usual small programs, the host's static busybox, and with this test program:
// static C programs cannot resolve names. It must be static too, as the Makefile builds it (CGO_ENABLED=0).
func toolbox(t *testing.T) string {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is missing: make deps")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	links := map[string]string{}
	for _, name := range []string{"sh", "tar", "cat", "ls", "sleep", "echo", "wget", "nslookup", "id", "env", "test", "true", "nc"} {
		links["bin/"+name] = "busybox"
	}
	path := filepath.Join(t.TempDir(), "toolbox.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	archive := containerd.Archive{
		Name: "example.murmur.io/toolbox:1", Files: map[string]string{"bin/busybox": busybox, "bin/e2e": self}, Links: links,
		Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sleep", "1000000"},
	}
	if err := archive.Write(f); err != nil {
		t.Fatal(err)
	}
	return path
}

// What people do with kubectl to pods, from a node that does not run them, with the bundled kubectl and the machine's.
func TestKubectlReachesPodsFromAnyNode(t *testing.T) {
	l := up(t, "e-ctl", 2)
	l.do("load", toolbox(t))
	l.apply("n1", `
apiVersion: v1
kind: Pod
metadata: {name: box, labels: {app: box}}
spec:
  nodeName: n2
  terminationGracePeriodSeconds: 1
  containers:
  - name: box
    image: example.murmur.io/toolbox:1
    command: [/bin/sh, -c, "i=0; while true; do echo tick $i; i=$((i+1)); sleep 1; done"]
  - name: web
    image: example.murmur.io/hello:1
`)
	l.kubectl("n1", "wait", "--for=condition=Ready", "pod/box", "--timeout=60s")
	kubectls := []string{filepath.Join(repo, "bin", "kubectl")}
	if p, err := exec.LookPath("kubectl"); err == nil && p != kubectls[0] {
		kubectls = append(kubectls, p)
	}
	for _, k := range kubectls {
		t.Run(k, func(t *testing.T) {
			run := func(stdin string, args ...string) string {
				t.Helper()
				cmd := l.command(append([]string{"exec", "n1", "--", k}, args...)...)
				cmd.Stdin = strings.NewReader(stdin)
				var out, stderr bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &stderr
				if err := cmd.Run(); err != nil {
					t.Errorf("kubectl %s: %v: %s", strings.Join(args, " "), err, stderr.String())
				}
				return out.String()
			}
			if out := run("", "logs", "box", "-c", "box", "--tail=1"); !strings.HasPrefix(out, "tick") {
				t.Errorf("logs: %q", out)
			}
			if out := run("from stdin", "exec", "-i", "box", "-c", "box", "--", "cat"); out != "from stdin" {
				t.Errorf("exec -i cat: %q", out)
			}
			cmd := l.command("exec", "n1", "--", k, "exec", "box", "-c", "box", "--", "sh", "-c", "exit 7")
			if err := cmd.Run(); cmd.ProcessState.ExitCode() != 7 {
				t.Errorf("exec of a command that exits 7: %v", err)
			}
			dir := t.TempDir()
			content := strings.Repeat("0123456789abcdef", 20000)
			if err := os.WriteFile(filepath.Join(dir, "there"), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			run("", "cp", filepath.Join(dir, "there"), "box:/tmp/file", "-c", "box")
			run("", "cp", "box:/tmp/file", filepath.Join(dir, "back"), "-c", "box")
			if b, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || string(b) != content {
				t.Errorf("cp there and back: %d bytes of %d, %v", len(b), len(content), err)
			}
			forward := l.command("exec", "n1", "--", k, "port-forward", "pod/box", "18080:8080")
			if err := forward.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = forward.Process.Kill(); _ = forward.Wait() }()
			l.within(10*time.Second, "port-forward answers", func() error { return l.curl("n1", "http://127.0.0.1:18080/") })
			follow := l.command("exec", "n1", "--", "timeout", "3", k, "logs", "-f", "box", "-c", "box", "--tail=0")
			if out, _ := follow.Output(); strings.Count(string(out), "tick") < 2 {
				t.Errorf("logs -f for 3 s: %q", out)
			}
			tty := l.command("exec", "n1", "--", "script", "-qec", fmt.Sprintf("%s exec -it box -c box -- sh -c 'test -t 0 && echo a terminal'", k), "/dev/null")
			if out, err := tty.CombinedOutput(); err != nil || !strings.Contains(string(out), "a terminal") {
				t.Errorf("exec -it: %v: %s", err, out)
			}
			for _, args := range [][]string{
				{"describe", "pod", "box"}, {"describe", "node", "n2"}, {"get", "events"}, {"events"}, {"explain", "pod.spec.containers"},
				{"top", "--help"}, {"api-resources"}, {"auth", "can-i", "create", "pods"}, {"get", "pods", "-A", "-o", "wide"},
				{"label", "pod", "box", "k=" + t.Name()[len(t.Name())-4:], "--overwrite"}, {"annotate", "pod", "box", "a=b", "--overwrite"},
			} {
				run("", args...)
			}
		})
	}
	began := time.Now()
	l.kubectl("n1", "delete", "pod", "box")
	t.Logf("deleted after %s", time.Since(began))
}

// What goes wrong with a pod is said where people look for it.
func TestFailingPodsSayWhy(t *testing.T) {
	l := up(t, "e-why", 1)
	l.do("load", toolbox(t))
	l.apply("n1", `
apiVersion: v1
kind: Pod
metadata: {name: noimage}
spec: {containers: [{name: c, image: "nowhere.invalid/nothing:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec: {containers: [{name: c, image: "example.murmur.io/toolbox:1", command: [sh, -c, "echo bye; exit 3"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: huge}
spec: {containers: [{name: c, image: "example.murmur.io/toolbox:1", resources: {requests: {cpu: "1000"}}}]}
`)
	for pod, want := range map[string]string{
		"noimage": "ImagePullBackOff", "crash": "CrashLoopBackOff", "huge": "0/1 nodes are available: 1 Insufficient cpu",
	} {
		took := l.within(time.Minute, pod+" says "+want, func() error {
			out, err := l.tryKubectl("n1", "get", "pod", pod, "-o", "jsonpath={.status.conditions[*].message} {.status.containerStatuses[*].state.waiting}")
			if err == nil && !strings.Contains(out, want) {
				err = fmt.Errorf("it says %q", out)
			}
			return err
		})
		t.Logf("%s after %s", want, took)
	}
	if out := l.kubectl("n1", "logs", "crash", "--previous"); out != "bye\n" {
		t.Errorf("log of the crashed container: %q", out)
	}
	if out := l.kubectl("n1", "describe", "pod", "huge"); !strings.Contains(out, "FailedScheduling") {
		t.Errorf("describe names no FailedScheduling event:\n%s", out)
	}
	if out := l.do("exec", "n1", "--", "murmur", "explain", "pod/huge"); !strings.Contains(out, "Insufficient cpu") {
		t.Errorf("explain: %s", out)
	}
}
