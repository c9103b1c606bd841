// Package durable replaces files as a whole: whoever reads one, at any moment and after any crash, finds what was there before or what was
// written, and once the writer has been told, what was written. That takes a file beside it, two syncs and a rename, in this order;
// each is easily forgotten, so there is one place for it. Files that grow (logs, the store's) are not its business, nor are those
// that are made anew at each start.
package durable

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Write makes b the content of the file at path, whose directory must be there.
func Write(path string, b []byte, mode fs.FileMode) error {
	return Replace(path, mode, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(b))
		return err
	})
}

// Replace makes what write writes the content of the file at path. Until then it is in a file beside it that only its owner can read, whose name
// begins with a dot; if write fails, that is removed and the file at path stays as it was.
func Replace(path string, mode fs.FileMode, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, gone(f.Name()))
		}
	}()
	err = write(f)
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// gone removes a file; one that was renamed has another's name.
func gone(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes a rename in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
