package main

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPrivate(t *testing.T) {
	var before, after unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &before); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_CORE, &before) })
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: before.Max, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	was := syscall.Umask(0)
	t.Cleanup(func() { syscall.Umask(was) })
	for _, c := range []struct{ had, want int }{{0, 0o022}, {0o022, 0o022}, {0o077, 0o077}, {0o002, 0o022}} {
		syscall.Umask(c.had)
		if err := private(); err != nil {
			t.Fatal(err)
		}
		if got := syscall.Umask(0); got != c.want {
			t.Errorf("umask %o became %o, want %o", c.had, got, c.want)
		}
	}
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &after); err != nil || after.Cur != 0 || after.Max != before.Max {
		t.Errorf("limit of cores %+v, %v; was %+v", after, err, before)
	}
}
