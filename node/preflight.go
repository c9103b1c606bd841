package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// needs lists the programs of the host that a node uses, and what installs them.
var needs = []struct{ program, install string }{
	{"runc", "apt-get install runc"},
	{"iptables", "apt-get install iptables"},
	{"iptables-restore", "apt-get install iptables"},
}

// preflight says what is missing on this machine, before anything is changed on it.
func preflight(c Config) error {
	if os.Geteuid() != 0 {
		return errors.New("a node must run as root: it mounts volumes, makes namespaces and programs iptables")
	}
	for _, n := range needs {
		if _, err := exec.LookPath(n.program); err != nil {
			return fmt.Errorf("%s is not installed: %s", n.program, n.install)
		}
	}
	if c.Containerd == "" {
		for _, p := range []string{"containerd", "containerd-shim-runc-v2", "pause", "cni/bridge"} {
			if _, err := os.Stat(filepath.Join(c.BinDir, p)); err != nil {
				return fmt.Errorf("%s is not in %s, which comes with murmur: install the whole release, or `make build`", p, c.BinDir)
			}
		}
	}
	return nil
}

// lock keeps a second daemon off the data directory until the file is closed.
func lock(dataDir string) (*os.File, error) {
	if err := os.MkdirAll(dataDir, 0o711); err != nil {
		return nil, fmt.Errorf("make the data directory: %w; give a writable --data-dir", err)
	}
	path := filepath.Join(dataDir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(path)
		_ = f.Close()
		return nil, fmt.Errorf("another murmur (pid %s) runs in %s; stop it, or give another --data-dir", strings.TrimSpace(string(pid)), dataDir)
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	return f, err
}
