package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command prepares a program with a node's surroundings; start it inside runIn.
func (l *lab) command(ctx context.Context, n *labNode, args []string) (*exec.Cmd, error) {
	bin, err := binDir()
	if err != nil {
		return nil, err
	}
	path := bin + ":" + os.Getenv("PATH")
	program := args[0]
	if !strings.Contains(program, "/") {
		for dir := range strings.SplitSeq(path, ":") {
			if p := filepath.Join(dir, program); unix.Access(p, unix.X_OK) == nil {
				program = p
				break
			}
		}
	}
	cmd := exec.CommandContext(ctx, program, args[1:]...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "PATH=") || strings.HasPrefix(kv, "KUBECONFIG=") || strings.HasPrefix(kv, "MURMUR_")
	})
	cmd.Env = append(cmd.Env, "PATH="+path, "KUBECONFIG="+filepath.Join(l.etc(n), "murmur.yaml"),
		"MURMUR_RUN_DIR="+l.run(n), "MURMUR_CONFIG_DIR="+l.etc(n))
	return cmd, nil
}

// exec becomes a program in a node's namespace.
func (l *lab) exec(n *labNode, args []string) error {
	cmd, err := l.command(context.Background(), n, args)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = in(l.netns(n), cmd.Run)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exitCode(max(exit.ExitCode(), 1))
	}
	return err
}

// start starts a node's daemon and returns when it runs; more is appended to its flags.
func (l *lab) start(n *labNode, more ...string) error {
	if n.alive() {
		return fmt.Errorf("%s runs already", n.Name)
	}
	bin, err := binDir()
	if err != nil {
		return err
	}
	args := append([]string{
		filepath.Join(bin, "murmur"), "up", "--config", filepath.Join(l.etc(n), "config.yaml"),
		"--node-name", n.Name, "--node-ip", n.address(), "--data-dir", filepath.Join(l.disk(n), "data"),
		"--run-dir", l.run(n), "--config-dir", l.etc(n), "--cgroup-root", l.cgroup(n),
	}, more...)
	cmd, err := l.command(context.Background(), n, args)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(l.log(n), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := in(l.netns(n), cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	n.PID = cmd.Process.Pid
	n.Started, _ = startTime(n.PID)
	go func() { _ = cmd.Wait() }() // so that alive sees it end
	return l.save()
}

// kill crashes a node, or its daemon only.
func (l *lab) kill(n *labNode, daemonOnly bool) error {
	if daemonOnly {
		return l.signal(n, syscall.SIGKILL)
	}
	if err := l.crash(n); err != nil {
		return err
	}
	// What a crash leaves is the disk: a machine comes back with an empty network. The lab's own cuts stay.
	if err := errors.Join(l.unplug(n), l.plugIn(n)); err != nil {
		return err
	}
	return l.rewire()
}

// signal sends a signal that ends a daemon, and returns when it has ended.
func (l *lab) signal(n *labNode, sig syscall.Signal) error {
	if !n.alive() {
		return fmt.Errorf("the daemon of %s does not run", n.Name)
	}
	if err := syscall.Kill(n.PID, sig); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); n.alive(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("the daemon of %s does not end", n.Name)
		}
	}
	return nil
}

// crash kills every process of a node and removes what only its kernel knew: mounts, sockets, cgroups.
func (l *lab) crash(n *labNode) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		pids := l.processes(n)
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes of %s do not die: %v", n.Name, pids)
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.PID, n.Started = 0, 0
	if err := unmountBelow(l.run(n), l.disk(n)); err != nil {
		return err
	}
	if err := l.removeCgroups(n); err != nil {
		return err
	}
	if err := os.RemoveAll(l.run(n)); err != nil {
		return err
	}
	return l.save()
}

// processes lists what belongs to a node: all in its network namespace or in its cgroups.
func (l *lab) processes(n *labNode) []int {
	var want unix.Stat_t
	namespaced := unix.Stat("/run/netns/"+l.netns(n), &want) == nil
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		same := namespaced && unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) == nil && st.Ino == want.Ino && st.Dev == want.Dev
		if !same {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			same = bytes.Contains(b, []byte(":"+l.cgroup(n)+"/"))
		}
		if same && !zombie(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// stat is the part of /proc/PID/stat behind the name.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.Fields(rest)
}

func zombie(pid int) bool {
	f := stat(pid)
	return len(f) == 0 || f[0] == "Z" || f[0] == "X"
}

// startTime is when a process started, in clock ticks since boot.
func startTime(pid int) (uint64, bool) {
	f := stat(pid)
	if len(f) < 20 || zombie(pid) {
		return 0, false
	}
	t, err := strconv.ParseUint(f[19], 10, 64)
	return t, err == nil
}

// alive tells whether the node's daemon runs, and not another process with its old number.
func (n *labNode) alive() bool {
	t, ok := startTime(n.PID)
	return n.PID != 0 && ok && t == n.Started
}

// rss is a process's resident memory in bytes.
func rss(pid int) uint64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(f[1], 10, 64)
	return pages * uint64(os.Getpagesize())
}

// unmountBelow takes away every mount below some directories, the innermost first.
func unmountBelow(dirs ...string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	scan := bufio.NewScanner(bytes.NewReader(b))
	for scan.Scan() {
		f := strings.Fields(scan.Text())
		if len(f) < 5 {
			continue
		}
		for _, d := range dirs {
			if strings.HasPrefix(f[4], d+"/") {
				points = append(points, strings.ReplaceAll(f[4], `\040`, " "))
			}
		}
	}
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return nil
}

// removeCgroups removes the node's cgroups in every hierarchy, the innermost first.
func (l *lab) removeCgroups(n *labNode) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*" + l.cgroup(n))
	if err != nil {
		return err
	}
	for _, root := range append(roots, "/sys/fs/cgroup"+l.cgroup(n)) {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			// The kernel lets go of a cgroup a moment after its last process.
			for try := 0; ; try++ {
				err := os.Remove(d)
				if err == nil || errors.Is(err, os.ErrNotExist) {
					break
				}
				if try == 200 {
					return err
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	return nil
}
