package containerd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"murmur/node/pod"
)

// TestLostProcess: what the runtime lost in a pod's group ends with the group.
func TestLostProcess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to make cgroups")
	}
	g := &cgroups{fs: "/sys/fs/cgroup", root: "murmur-lost-" + strconv.Itoa(os.Getpid())}
	t.Cleanup(func() {
		if err := g.removeAll(); err != nil {
			t.Error(err)
		}
	})
	if err := g.make(corev1.PodQOSBestEffort, "u1", pod.Resources{CPUShares: 2}); err != nil {
		t.Fatal(err)
	}
	lost := exec.Command("sleep", "1000")
	if err := lost.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- lost.Wait() }()
	hierarchy := g.fs
	if !g.unified() {
		hierarchy = filepath.Join(g.fs, "cpu")
	}
	below := filepath.Join(hierarchy, g.parent(corev1.PodQOSBestEffort, "u1"), "c1")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := write(below, "cgroup.procs", strconv.Itoa(lost.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if err := g.remove("u1"); err != nil {
		t.Error(err)
	}
	<-ended
	if s := lost.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGKILL {
		t.Errorf("the process ended with %v", s)
	}
	if _, err := os.Stat(filepath.Dir(below)); !os.IsNotExist(err) {
		t.Errorf("the group is there: %v", err)
	}
}
