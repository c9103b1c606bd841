package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	corev1 "k8s.io/api/core/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
)

// TestFullDisk: while there is no room writes are refused and everything that is there can be read; when there is room
// again writes go on, and nothing that was acknowledged is lost.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=40m"); err != nil {
		t.Skipf("mount a small file system: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	ctx, cancel := context.WithCancel(t.Context())
	open := func() (*Store, func()) {
		s, err := Open(Config{Dir: filepath.Join(dir, "store"), Cluster: "test"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		return s, func() {
			stop()
			if err := errors.Join(<-done, s.Close()); err != nil {
				t.Error(err)
			}
		}
	}
	defer cancel()
	put := func(s *Store, name, value string) error {
		k := crdt.Key{Resource: "configmaps", Namespace: "default", Name: name}
		_, err := s.Commit(ctx, Write{Key: k, Object: &corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
			Data:       map[string]string{"v": value},
		}})
		return err
	}
	has := func(s *Store, name string) bool {
		_, ok := s.Snapshot().Get(crdt.Key{Resource: "configmaps", Namespace: "default", Name: name})
		return ok
	}
	s, stop := open()
	if err := put(s, "before", "x"); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	fill := func() {
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		block := make([]byte, 64<<10)
		for {
			if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	for range 100 {
		if err := put(s, "during", strings.Repeat("y", 100<<10)); !errors.Is(err, ErrFull) {
			t.Fatalf("a write on a full disk: %v", err)
		}
	}
	if !has(s, "before") || has(s, "during") {
		t.Error("on a full disk the store does not hold what it held")
	}
	if err := s.Close(); !errors.Is(err, ErrFull) {
		t.Errorf("closed on a full disk: %v", err)
	}
	if _, err := Open(Config{Dir: filepath.Join(dir, "other"), Cluster: "test"}); !errors.Is(err, ErrFull) {
		t.Errorf("opened on a full disk: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := put(s, "after", "z"); err != nil {
		t.Errorf("a write when there is room again: %v", err)
	}
	stop()
	s, stop = open()
	defer stop()
	if !has(s, "before") || has(s, "during") || !has(s, "after") {
		t.Error("after a restart the store does not hold what it acknowledged")
	}
}
