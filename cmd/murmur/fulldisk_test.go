package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFullDisk fills the disk under a running node: writes are refused with a line that says why, reads go on, the daemon
// stays, and when there is room again all is as if nothing had been. A daemon that starts on a full disk says so and ends.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to run a node on a small file system")
	}
	dir, err := bin()
	if err != nil {
		t.Skip(err)
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("mount a small file system: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	}()
	lab := func(args ...string) (string, error) {
		out, err := exec.Command(filepath.Join(dir, "murmur-lab"), append([]string{"--name", labName + "f"}, args...)...).CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := lab(args...)
		if err != nil {
			t.Fatalf("murmur-lab %v: %v\n%s", args, err, out)
		}
		return out
	}
	must("up", "--nodes=1", "--dir="+disk)
	defer must("down")
	kubectl := func(args ...string) (string, error) {
		return lab(append([]string{"exec", "n1", "--", "kubectl"}, args...)...)
	}

	if out, err := kubectl("create", "configmap", "before", "--from-literal=a=b"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	for range 5 {
		out, err := kubectl("create", "configmap", "during", "--from-literal=a="+strings.Repeat("x", 50<<10))
		if err == nil || !strings.Contains(out, "the disk is full") || !strings.Contains(out, "make room there") {
			t.Fatalf("a write on a full disk: %v\n%s", err, out)
		}
	}
	if out, err := kubectl("get", "configmaps", "-o", "name"); err != nil || !strings.Contains(out, "configmap/before") || strings.Contains(out, "during") {
		t.Errorf("a read on a full disk: %v\n%s", err, out)
	}
	if out := must("status", "-o", "json"); !strings.Contains(out, `"running"`) {
		t.Fatalf("the daemon ended:\n%s", must("logs", "n1"))
	}

	// Crashed and started, it cannot go on; it says why.
	must("kill", "n1", "--daemon")
	must("start", "n1")
	await(t, "the daemon to end", func() bool { return !strings.Contains(must("status", "-o", "json"), `"running"`) })

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	must("start", "n1")
	await(t, "a write when there is room again", func() bool {
		_, err := kubectl("create", "configmap", "after", "--from-literal=a=b")
		return err == nil
	})
	// And without a restart between.
	fill(t, filler)
	if out, err := kubectl("delete", "configmap", "after"); err == nil || !strings.Contains(out, "the disk is full") {
		t.Errorf("a delete on a full disk: %v\n%s", err, out)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if out, err := kubectl("delete", "configmap", "after"); err != nil {
		t.Errorf("a delete when there is room again: %v\n%s", err, out)
	}
	if out, err := kubectl("get", "configmaps", "-o", "name"); err != nil || !strings.Contains(out, "configmap/before") || strings.Contains(out, "after") {
		t.Errorf("at last: %v\n%s", err, out)
	}
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}
