package main

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// private keeps what a daemon has in memory, and what it and its children make, from others on this machine: no core is
// written of a process that holds the cluster's keys, and nothing is everybody's to write because of the umask that the daemon was
// started with. Containers may still raise their limit of cores: only the soft one is lowered.
func private() error {
	syscall.Umask(syscall.Umask(0o077) | 0o022)
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return fmt.Errorf("read the limit of core files: %w", err)
	}
	core.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return fmt.Errorf("allow no core file: %w", err)
	}
	return nil
}
