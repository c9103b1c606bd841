package node

import (
	"context"
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
	"time"

	"murmur/node/containerd"
	"murmur/node/member"
	"murmur/node/network"
)

// need is a program of the host, and what installs it.
type need struct{ program, install string }

// needs lists the programs of the host that a node uses, in the order of first use.
var needs = []need{
	{"iptables", "apt-get install iptables"},
	{"iptables-restore", "apt-get install iptables"},
}

// Check is one thing that a node needs of its machine.
type Check struct {
	// Name says what is looked at.
	Name string
	// Problem says what to do about it; nil if it is as it should be.
	Problem error
}

// Checks looks at everything that a node with this configuration needs, without becoming one. While a daemon runs on the
// same run directory its ports and its disk are in use by right, and are not looked at.
func Checks(ctx context.Context, c Config) ([]Check, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	out := []Check{{"user is root", root()}}
	for _, n := range needs {
		out = append(out, Check{"program " + n.program, n.installed()})
	}
	if c.Containerd == "" {
		for _, p := range release {
			out = append(out, Check{"release has " + p, released(c.BinDir, p)})
		}
		_, err := containerd.Runc(c.BinDir)
		out = append(out, Check{"program runc", err})
	}
	if s, err := NewAdmin(c.RunDir).Status(ctx); err == nil {
		return append(out, Check{fmt.Sprintf("the daemon of %s runs here", s.Node), nil}), nil
	}
	for _, p := range c.ports() {
		out = append(out, Check{fmt.Sprintf("port %s %s", p.address, p.network), p.free(c.NodeIP)})
	}
	return append(out, Check{"data directory " + c.DataDir, usable(c)}), nil
}

// preflight says what is missing on this machine, before anything is changed on it.
func preflight(c Config) error {
	if err := root(); err != nil {
		return err
	}
	for _, n := range needs {
		if err := n.installed(); err != nil {
			return err
		}
	}
	if c.Containerd == "" {
		for _, p := range release {
			if err := released(c.BinDir, p); err != nil {
				return err
			}
		}
		if _, err := containerd.Runc(c.BinDir); err != nil {
			return err
		}
	}
	return nil
}

func root() error {
	if os.Geteuid() != 0 {
		return errors.New("a node must run as root: it mounts volumes, makes namespaces and programs iptables")
	}
	return nil
}

func (n need) installed() error {
	if _, err := exec.LookPath(n.program); err != nil {
		return fmt.Errorf("%s is not installed: %s", n.program, n.install)
	}
	return nil
}

// release lists the programs that come with this one.
var release = []string{"containerd", "containerd-shim-runc-v2", "murmur-runc", "pause", "cni/bridge", "cni/host-local", "cni/loopback", "cni/portmap"}

func released(binDir, program string) error {
	if _, err := os.Stat(filepath.Join(binDir, program)); err != nil {
		return fmt.Errorf("%s is not in %s, which comes with murmur: install the whole release, or `make build`", program, binDir)
	}
	return nil
}

// usable looks at the data directory without making it.
func usable(c Config) error {
	id, err := member.Load(c.DataDir)
	if err != nil {
		return err
	}
	if id == nil && exists(filepath.Join(c.DataDir, "store")) {
		return member.Missing(c.DataDir)
	}
	// The nearest directory that is there is the one that must take it.
	dir := c.DataDir
	for !exists(dir) {
		dir = filepath.Dir(dir)
	}
	f, err := os.CreateTemp(dir, ".murmur-check-*")
	if err != nil {
		return fmt.Errorf("%w; give a writable --data-dir", err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// port is one that a node listens on.
type port struct{ network, address, flag string }

func (c Config) ports() []port {
	own := func(p uint16) string { return netip.AddrPortFrom(c.NodeIP, p).String() }
	return []port{
		{"tcp", fmt.Sprint(":", c.HTTPSPort), "--https-listen-port"},
		{"tcp", own(c.GossipPort), "--gossip-port"},
		{"udp", own(c.GossipPort), "--gossip-port"},
		{"tcp", own(c.StreamPort), "--stream-port"},
	}
}

// ownPorts are those that pods cannot have, as sched.AnnotationPorts says them.
func (c Config) ownPorts() string {
	return fmt.Sprintf("%d/TCP,%d/TCP,%d/UDP,%d/TCP,%d/UDP", c.HTTPSPort, c.GossipPort, c.GossipPort, c.StreamPort, network.TunnelPort)
}

// ports says which of the node's ports another program has, before the node becomes anything: a node that found out
// later would have founded or joined a cluster already.
func ports(c Config) error {
	for _, p := range c.ports() {
		if err := p.free(c.NodeIP); err != nil {
			return err
		}
	}
	return nil
}

func (p port) free(nodeIP netip.Addr) error {
	var l io.Closer
	var err error
	if p.network == "udp" {
		l, err = net.ListenPacket(p.network, p.address)
	} else {
		l, err = net.Listen(p.network, p.address)
	}
	switch {
	case err == nil:
		return l.Close()
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("another program listens on %s port %s: stop it, or give another %s", p.network, p.address, p.flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s is not an address of this machine: give one that is with --node-ip", nodeIP)
	}
	return fmt.Errorf("try %s: %w", p.flag, err)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lockPatience is how long a directory may stay locked by what a killed daemon left: a sync that it waited for is not cut short, and
// with it goes on a slow disk.
const lockPatience = 5 * time.Second

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
	// A daemon that was killed may have had a child that was just starting and still has its files open.
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	for end := time.Now().Add(lockPatience); err != nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
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
