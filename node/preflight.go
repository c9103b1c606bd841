package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
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

// ports says which of the node's ports another program has, before the node becomes anything: a node that found out
// later would have founded or joined a cluster already.
func ports(c Config) error {
	own := func(p uint16) string { return netip.AddrPortFrom(c.NodeIP, p).String() }
	for _, p := range []struct{ network, address, flag string }{
		{"tcp", fmt.Sprint(":", c.HTTPSPort), "--https-listen-port"},
		{"tcp", own(c.GossipPort), "--gossip-port"},
		{"udp", own(c.GossipPort), "--gossip-port"},
		{"tcp", own(c.StreamPort), "--stream-port"},
	} {
		var l io.Closer
		var err error
		if p.network == "udp" {
			l, err = net.ListenPacket(p.network, p.address)
		} else {
			l, err = net.Listen(p.network, p.address)
		}
		switch {
		case err == nil:
			_ = l.Close()
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("another program listens on %s port %s: stop it, or give another %s", p.network, p.address, p.flag)
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			return fmt.Errorf("%s is not an address of this machine: give one that is with --node-ip", c.NodeIP)
		default:
			return fmt.Errorf("try %s: %w", p.flag, err)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
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
