package node

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestPrivateSocket: the admin socket is root's from the first moment that it is there, under any umask, also in place of
// one that was left behind; and it goes when it is closed.
func TestPrivateSocket(t *testing.T) {
	dir := t.TempDir()
	path := Socket(dir)
	old, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false)
	old.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	defer syscall.Umask(syscall.Umask(0))
	var done atomic.Bool
	open := make(chan string)
	go func() {
		seen := ""
		for !done.Load() {
			if info, err := os.Lstat(path); err == nil && info.Mode().Perm() != 0o600 {
				seen = info.Mode().String()
			}
			if info, err := os.Lstat(filepath.Join(dir, ".new")); err == nil && info.Mode().Perm() != 0o700 {
				seen = info.Mode().String()
			}
		}
		open <- seen
	}()
	for range 200 {
		l, err := listenPrivate(path)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Fatal("the socket is still there")
		}
	}
	done.Store(true)
	if seen := <-open; seen != "" {
		t.Errorf("it was %s for a moment", seen)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := listenPrivate(path)
	if err != nil {
		t.Fatalf("in place of what was left behind: %v", err)
	}
	l.Close()
	if _, err := listenPrivate(filepath.Join(dir, strings.Repeat("x", 120), "s")); err == nil {
		t.Error("a directory that is not there")
	}
}
