package containerd

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Config of a Driver. Root, State and BinDir are needed unless External is set.
type Config struct {
	BinDir     string // has containerd, containerd-shim-runc-v2, murmur-runc and pause
	CNIBinDir  string // default BinDir/cni
	CNIConfDir string // where the network's conflist appears; default Root/net.d
	Root       string // containerd's persistent directory, its log and configuration
	State      string // containerd's runtime directory: lost at boot; at most 85 bytes long, for its socket
	Socket     string // default State/containerd.sock
	External   bool   // Socket is an existing containerd: it is used, not supervised
	// CgroupRoot is the parent of all pod cgroups, default "/murmur". Two nodes on one machine need two.
	CgroupRoot string
	// RegistryDir holds containerd's hosts.toml tree (config_path); empty: registries as named by the image.
	RegistryDir string
	// StreamAddress is where the streaming server listens, default 127.0.0.1.
	StreamAddress string
	// PodsDir has the pods' directories, in which their ids are kept; without one no pod has users of its own.
	PodsDir string
	MaxPods int // default 110; so many must find ids
	// SeccompDefault gives the runtime's default profile to containers that name none; they have none otherwise.
	SeccompDefault bool
	// SeccompDir has the profiles of type Localhost; default upstream's, /var/lib/kubelet/seccomp.
	SeccompDir string
	ImagesDir  string // image archives (*.tar) to import, now and when more appear
	Log        *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.CNIBinDir == "" {
		c.CNIBinDir = filepath.Join(c.BinDir, "cni")
	}
	if c.CNIConfDir == "" {
		c.CNIConfDir = filepath.Join(c.Root, "net.d")
	}
	if c.Socket == "" {
		c.Socket = filepath.Join(c.State, "containerd.sock")
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.SeccompDir == "" {
		c.SeccompDir = "/var/lib/kubelet/seccomp"
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = "/murmur"
	}
	if c.StreamAddress == "" {
		c.StreamAddress = "127.0.0.1"
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Plugins that a node of ours has no use for. What is not loaded costs no memory and asks for no kernel module.
var disabledPlugins = []string{
	"io.containerd.differ.v1.erofs",
	"io.containerd.image-verifier.v1.bindir",
	"io.containerd.internal.v1.opt",
	"io.containerd.internal.v1.tracing",
	"io.containerd.metrics.v1.grpc-prometheus",
	"io.containerd.monitor.container.v1.restart",
	"io.containerd.monitor.task.v1.cgroups",
	"io.containerd.mount-handler.v1.erofs",
	"io.containerd.server.v1.debug",
	"io.containerd.server.v1.grpc-tcp",
	"io.containerd.server.v1.metrics",
	"io.containerd.snapshotter.v1.blockfile",
	"io.containerd.snapshotter.v1.btrfs",
	"io.containerd.snapshotter.v1.devmapper",
	"io.containerd.snapshotter.v1.erofs",
	"io.containerd.snapshotter.v1.zfs",
	"io.containerd.tracing.processor.v1.otlp",
}

// configText is filled in by os.Expand: with text/template in the program, the linker keeps every method of every type, which is
// a quarter of it.
const configText = `# Written by murmur at every start; changes are lost.
version = 4
root = ${Root}
state = ${State}
imports = []
disabled_plugins = [${Disabled}
]

[debug]
  level = 'warn'

[plugins.'io.containerd.server.v1.grpc']
  address = ${Socket}

[plugins.'io.containerd.server.v1.ttrpc']
  address = ${TTRPC}

[plugins.'io.containerd.shim.v1.manager']
  socket_dir = ${Shims}

[plugins.'io.containerd.nri.v1.nri']
  disable = true

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  max_concurrent_downloads = 3
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = ${Pause}
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = ${Registries}

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = ${RestrictOOM}
  netns_mounts_under_state_dir = true
  enable_criu = false
  disable_apparmor = ${NoAppArmor}
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = 'runc'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = ${Runc}
        Root = ${RuncRoot}
        SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [${CNIBin}]
    conf_dir = ${CNIConf}
    use_internal_loopback = true

[plugins.'io.containerd.grpc.v1.cri']
  disable_tcp_service = true
  stream_server_address = ${StreamAddress}
  stream_server_port = '0'
`

// toml renders the configuration of containerd.
func (c Config) toml() []byte {
	var disabled strings.Builder
	for _, p := range disabledPlugins {
		fmt.Fprintf(&disabled, "\n  %q,", p)
	}
	_, apparmor := os.Stat("/sys/kernel/security/apparmor")
	fill := map[string]string{
		"Root":          strconv.Quote(filepath.Join(c.Root, "root")),
		"State":         strconv.Quote(filepath.Join(c.State, "run")),
		"Socket":        strconv.Quote(c.Socket),
		"TTRPC":         strconv.Quote(c.Socket + ".ttrpc"),
		"Shims":         strconv.Quote(c.shimDir()),
		"Disabled":      disabled.String(),
		"Pause":         strconv.Quote(PauseImage),
		"Registries":    strconv.Quote(c.RegistryDir),
		"RestrictOOM":   strconv.FormatBool(!canSetOOMScore()),
		"NoAppArmor":    strconv.FormatBool(apparmor != nil),
		"Runc":          strconv.Quote(filepath.Join(c.BinDir, unsealer)),
		"RuncRoot":      strconv.Quote(c.runcRoot()),
		"CNIBin":        strconv.Quote(c.CNIBinDir),
		"CNIConf":       strconv.Quote(c.CNIConfDir),
		"StreamAddress": strconv.Quote(c.StreamAddress),
	}
	return []byte(os.Expand(configText, func(name string) string { return fill[name] }))
}

// Limits of a unix socket's path: the kernel's, and what a shim's socket is called below its directory.
const (
	maxSocketPath  = 107
	shimSocketName = 1 + 64
)

// shimDir is where shims put their sockets: below State, or where that is too long a path, at a short one made of it.
func (c Config) shimDir() string {
	if dir := filepath.Join(c.State, "s"); len(dir)+shimSocketName <= maxSocketPath {
		return dir
	}
	return fmt.Sprintf("/run/murmur-shims/%x", sha256.Sum256([]byte(c.State)))[:len("/run/murmur-shims/")+12]
}

// check refuses what could only fail later and less clearly.
func (c Config) check() error {
	if c.External {
		return nil
	}
	if c.Root == "" || c.State == "" || c.BinDir == "" {
		return fmt.Errorf("containerd: Root, State and BinDir are all needed")
	}
	if n := len(c.Socket) + len(".ttrpc"); n > maxSocketPath {
		return fmt.Errorf("containerd: %s is %d bytes too long for a unix socket: choose a shorter run directory", c.Socket, n-maxSocketPath)
	}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", unsealer, "pause"} {
		if _, err := os.Stat(filepath.Join(c.BinDir, name)); err != nil {
			return fmt.Errorf("containerd: %s is missing from %s: build it with `make build`", name, c.BinDir)
		}
	}
	return nil
}

// canSetOOMScore reports whether this process, and so runc below it, may lower a process's oom_score_adj.
func canSetOOMScore() bool {
	const sysResource = 24 // CAP_SYS_RESOURCE
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err != nil || caps&(1<<sysResource) != 0
		}
	}
	return true
}
