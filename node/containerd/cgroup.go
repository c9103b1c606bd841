package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/node/pod"
)

// cgroups are the groups above the containers: ROOT/QOS/UID, on both versions of the interface. runc makes the containers'
// own below. A group weighs what its pods weigh together, so that a pod's share of the processor is its own requests' over
// everyone's, wherever in the tree it hangs.
type cgroups struct {
	fs   string // where the kernel's tree is mounted
	root string
	mu   sync.Mutex
}

func (g *cgroups) unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(g.fs, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

func (g *cgroups) parent(qos corev1.PodQOSClass, uid types.UID) string {
	return filepath.Join("/", g.root, strings.ToLower(string(qos)), podDirName(uid))
}

// hierarchies are the directories that hold a tree of groups each.
func (g *cgroups) hierarchies() []string {
	if g.unified() {
		return []string{g.fs}
	}
	var dirs []string
	entries, _ := os.ReadDir(g.fs)
	for _, e := range entries {
		if e.IsDir() { // not the links cpu -> cpu,cpuacct
			dirs = append(dirs, filepath.Join(g.fs, e.Name()))
		}
	}
	return dirs
}

// make creates a pod's group with its limits, or gives it others.
func (g *cgroups) make(qos corev1.PodQOSClass, uid types.UID, r pod.Resources) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	parent := g.parent(qos, uid)
	if g.unified() {
		if err := g.enable(parent); err != nil {
			return fmt.Errorf("make cgroup %s: %w", parent, err)
		}
		dir := filepath.Join(g.fs, parent)
		quota := "max"
		if r.CPUQuota > 0 {
			quota = strconv.FormatInt(r.CPUQuota, 10)
		}
		memory := "max"
		if r.Memory > 0 {
			memory = strconv.FormatInt(r.Memory, 10)
		}
		err := errors.Join(
			write(dir, "cpu.weight", strconv.FormatUint(weight(r.CPUShares), 10)),
			write(dir, "cpu.max", quota+" "+strconv.FormatUint(max(r.CPUPeriod, 100000), 10)),
			write(dir, "memory.max", memory))
		g.rebalance(g.fs, "cpu.weight", 1, 10000)
		if err != nil {
			return fmt.Errorf("limit cgroup %s: %w", parent, err)
		}
		return nil
	}
	cpu, memory := filepath.Join(g.fs, "cpu", parent), filepath.Join(g.fs, "memory", parent)
	for _, dir := range []string{cpu, memory} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup %s: %w", parent, err)
		}
	}
	// A kernel that cannot limit something has nothing to lift there.
	limit := func(dir, file string, n int64) error {
		if n <= 0 {
			if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
				return nil
			}
			n = -1
		}
		return write(dir, file, strconv.FormatInt(n, 10))
	}
	err := write(cpu, "cpu.shares", strconv.FormatUint(max(r.CPUShares, 2), 10))
	if r.CPUQuota > 0 {
		err = errors.Join(err, write(cpu, "cpu.cfs_period_us", strconv.FormatUint(max(r.CPUPeriod, 1000), 10)))
	}
	err = errors.Join(err, limit(cpu, "cpu.cfs_quota_us", r.CPUQuota), limit(memory, "memory.limit_in_bytes", r.Memory))
	g.rebalance(filepath.Join(g.fs, "cpu"), "cpu.shares", 2, 262144)
	if err != nil {
		return fmt.Errorf("limit cgroup %s: %w", parent, err)
	}
	return nil
}

// enable makes a v2 group whose parents hand the controllers down.
func (g *cgroups) enable(group string) error {
	dir := g.fs
	for element := range strings.SplitSeq(strings.Trim(group, "/"), "/") {
		available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for controller := range strings.FieldsSeq(string(available)) {
			// One at a time: a controller that cannot be handed down must not keep the others.
			_ = write(dir, "cgroup.subtree_control", "+"+controller)
		}
		dir = filepath.Join(dir, element)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// rebalance gives each QoS group the sum of its pods' weights and the root the machine's.
func (g *cgroups) rebalance(hierarchy, file string, least, most uint64) {
	root := filepath.Join(hierarchy, g.root)
	classes, _ := os.ReadDir(root)
	for _, class := range classes {
		if !class.IsDir() {
			continue
		}
		sum := uint64(0)
		dir := filepath.Join(root, class.Name())
		pods, _ := os.ReadDir(dir)
		for _, p := range pods {
			if text, err := os.ReadFile(filepath.Join(dir, p.Name(), file)); err == nil {
				n, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
				sum += n
			}
		}
		_ = write(dir, file, strconv.FormatUint(min(max(sum, least), most), 10))
	}
	machine := uint64(runtime.NumCPU()) * 1024
	if file == "cpu.weight" {
		machine = weight(machine)
	}
	_ = write(root, file, strconv.FormatUint(min(machine, most), 10))
}

// remove takes a pod's groups away, in every hierarchy and QoS class, with whatever is below. No container of the pod is left
// by then, so a process in there is one that the runtime lost: whoever is told to stop starting a container half-way may leave its first behind.
func (g *cgroups) remove(uid types.UID) error {
	var errs []error
	deadline := time.Now().Add(killWait)
	for _, h := range g.hierarchies() {
		found, _ := filepath.Glob(filepath.Join(h, g.root, "*", podDirName(uid)))
		for _, dir := range found {
			err := removeTree(dir)
			for ; errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); err = removeTree(dir) {
				killTree(dir)
				time.Sleep(killWait / 100)
			}
			errs = append(errs, err)
		}
	}
	// Not before: other pods need not wait for what does not end.
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.unified() {
		g.rebalance(g.fs, "cpu.weight", 1, 10000)
	} else {
		g.rebalance(filepath.Join(g.fs, "cpu"), "cpu.shares", 2, 262144)
	}
	return errors.Join(errs...)
}

// removeAll takes the root group away. Groups with processes stay and are an error.
func (g *cgroups) removeAll() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for _, h := range g.hierarchies() {
		errs = append(errs, removeTree(filepath.Join(h, g.root)))
	}
	return errors.Join(errs...)
}

// killWait bounds the wait for killed processes to be gone.
const killWait = time.Second

// killTree kills what runs in a group and in those below.
func killTree(dir string) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() != "cgroup.procs" {
			return nil
		}
		pids, _ := os.ReadFile(path)
		for field := range strings.FieldsSeq(string(pids)) {
			// Zero is a process that this one cannot see; to kill it would be to kill itself.
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		return nil
	})
}

// removeTree removes a group and the groups below it, deepest first.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // gone
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

func write(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644)
}

// weight converts v1 shares (2..262144) to a v2 weight (1..10000), as runc does.
func weight(shares uint64) uint64 { return 1 + (min(max(shares, 2), 262144)-2)*9999/262142 }
