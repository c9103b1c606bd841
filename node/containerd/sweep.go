package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// remains are the processes that a containerd of ours left when it could not be asked any more: shims, which carry its socket in
// their arguments, and what runs in the cgroups below ours.
func (d *Driver) remains() []int {
	shim := []byte("\x00-address\x00" + d.cfg.Socket + "\x00")
	group := ":/" + strings.Trim(d.cfg.CgroupRoot, "/") + "/"
	var pids []int
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || pid == os.Getpid() {
			continue
		}
		groups, _ := os.ReadFile(proc + "/cgroup")
		args, _ := os.ReadFile(proc + "/cmdline")
		if bytes.Contains(groups, []byte(group)) || bytes.Contains(args, shim) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sweep kills what remains and unmounts what is mounted below containerd's directories.
func (d *Driver) sweep() error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		pids := d.remains()
		if len(pids) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && (strings.HasPrefix(fields[4], d.cfg.Root+"/") || strings.HasPrefix(fields[4], d.cfg.State+"/")) {
			points = append(points, fields[4])
		}
	}
	var errs []error
	for i := len(points) - 1; i >= 0; i-- {
		if err := unix.Unmount(points[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("unmount %s: %w", points[i], err))
		}
	}
	return errors.Join(errs...)
}
