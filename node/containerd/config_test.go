package containerd

import (
	"strings"
	"testing"
)

func TestShimDir(t *testing.T) {
	for state, want := range map[string]string{
		"/run/murmur/containerd":                        "/run/murmur/containerd/s",
		"/tmp/" + strings.Repeat("long/", 10) + "state": "/run/murmur-shims/",
	} {
		got := Config{State: state}.shimDir()
		if !strings.HasPrefix(got, want) || len(got)+shimSocketName > maxSocketPath {
			t.Errorf("%s: %s", state, got)
		}
	}
	long := "/" + strings.Repeat("x", 100)
	_, err := New(Config{Root: "/r", State: long, BinDir: "/b"})
	if err == nil || !strings.Contains(err.Error(), "choose a shorter run directory") {
		t.Errorf("%v", err)
	}
	_, err = New(Config{Root: "/r", State: "/s", BinDir: "/nowhere"})
	if err == nil || !strings.Contains(err.Error(), "containerd is missing from /nowhere") {
		t.Errorf("%v", err)
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]string{
		"busybox": "docker.io/library/busybox:latest", "a/b:1": "docker.io/a/b:1", "murmur.io/pause:1": PauseImage, "localhost:5000/x": "localhost:5000/x:latest"} {
		if got := fullName(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
