package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, c := range []struct {
		text string
		mode fs.FileMode
	}{{"a", 0o600}, {"longer", 0o644}, {"", 0o600}} {
		if err := Write(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err != nil || statErr != nil || string(b) != c.text || info.Mode().Perm() != c.mode {
			t.Errorf("%q %v, %v %v, want %+v", b, info.Mode(), err, statErr, c)
		}
		if got := names(t, filepath.Dir(path)); got != "file" {
			t.Errorf("there are %s", got)
		}
	}
}

// TestReplaceFails: what is half written is never seen, and does not stay.
func TestReplaceFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := Write(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := Replace(path, 0o600, func(w io.Writer) error {
		if _, err := io.WriteString(w, "half"); err != nil {
			return err
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "before" {
			t.Errorf("while it is written: %q %v", b, err)
		}
		info, err := os.Stat(w.(*os.File).Name())
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("while it is written: %v %v", info, err)
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "before" {
		t.Errorf("%q %v", b, err)
	}
	if got := names(t, filepath.Dir(path)); got != "file" {
		t.Errorf("there are %s", got)
	}
	// A name that cannot be taken.
	dir := filepath.Join(filepath.Dir(path), "dir")
	if err := os.MkdirAll(filepath.Join(dir, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if got := names(t, filepath.Dir(path)); got != "dir file" {
		t.Errorf("there are %s", got)
	}
	if err := Write(filepath.Join(dir, "none", "x"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no directory: %v", err)
	}
}
