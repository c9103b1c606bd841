// Murmur-runc is what containerd runs in place of runc. It opens the texts of a container's configuration, or of a command to be run in
// one, that package seal has sealed, and becomes runc with the same arguments. What it has opened is in memory, in a file without a name
// that only runc has: it is in no directory and goes with runc. Where nothing is sealed, and for all that is neither a start nor an exec, it becomes
// runc at once.
//
// runc is the one beside this program, or else the machine's.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"murmur/node/containerd/seal"
)

func main() {
	c := parse(os.Args)
	err := c.open()
	if err == nil {
		err = become(c.args)
	}
	c.report(err)
	os.Exit(1)
}

// become replaces this program by runc.
func become(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runc := filepath.Join(filepath.Dir(self), "runc")
	if _, err := os.Stat(runc); err != nil {
		if runc, err = exec.LookPath("runc"); err != nil {
			return fmt.Errorf("runc is neither beside %s nor installed", self)
		}
	}
	if err := syscall.Exec(runc, append([]string{runc}, args[1:]...), os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", runc, err)
	}
	return nil
}

// report says what went wrong where runc would: containerd reads it there.
func (c *call) report(err error) {
	if c.log == "" {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	line := []byte(err.Error())
	if c.logFormat == "json" {
		line, _ = json.Marshal(map[string]string{"level": "error", "msg": err.Error(), "time": time.Now().Format(time.RFC3339)})
	}
	f, ferr := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if ferr != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	_, _ = f.Write(append(line, '\n'))
	_ = f.Close()
}

// maxConfig bounds what is read: what containerd takes in one message, written as JSON, is far below.
const maxConfig = 128 << 20

func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxConfig {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, maxConfig)
	}
	return os.ReadFile(path)
}

// open makes the call one of runc's.
func (c *call) open() error {
	key := func() (*seal.Key, error) {
		if c.root == "" {
			return nil, errors.New("without --root there is no key to open a container's configuration with")
		}
		return seal.Load(seal.DirBeside(c.root))
	}
	switch c.command {
	case "create", "run":
		bundle, err := filepath.Abs(c.value("bundle"))
		if err != nil {
			return err
		}
		text, err := read(filepath.Join(bundle, "config.json"))
		if err != nil {
			return err
		}
		opened, err := seal.Config(text, bundle, key)
		if err != nil || opened == nil {
			return wrap("configuration of the container", err)
		}
		path, err := inMemory(opened)
		if err != nil {
			return err
		}
		// runc reads config.json in a directory: one beside the sealed one, which others go on reading, has the way to the opened.
		dir := filepath.Join(bundle, "unsealed")
		link := filepath.Join(dir, "config.json")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Symlink(path, link); err != nil {
			return err
		}
		c.set("bundle", dir)
	case "exec":
		file := c.value("process")
		if file == "" {
			return nil
		}
		text, err := read(file)
		if err != nil {
			return err
		}
		state := func() ([]byte, error) { return read(filepath.Join(c.root, c.id, "state.json")) }
		opened, err := seal.Process(text, state, key)
		if err != nil || opened == nil {
			return wrap("environment of the command", err)
		}
		path, err := inMemory(opened)
		if err != nil {
			return err
		}
		c.set("process", path)
	}
	return nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("open the %s: %w", what, err)
}

// inMemory is a path at which this process, and the one that it becomes, reads a text. runc closes the file before anything of a
// container's runs.
func inMemory(text []byte) (string, error) {
	fd, err := unix.MemfdCreate("murmur-runc", unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("murmur-runc", 0)
	}
	if err != nil {
		return "", fmt.Errorf("make a file in memory: %w", err)
	}
	for len(text) > 0 {
		n, err := unix.Write(fd, text)
		if err != nil {
			return "", fmt.Errorf("write to memory: %w", err)
		}
		text = text[n:]
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), nil
}
