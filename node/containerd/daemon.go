package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

// startTimeout is how long a containerd may take until its socket answers.
const startTimeout = 60 * time.Second

// supervise keeps one containerd running until ctx ends, then leaves it running. up is called with each one that answers.
func (d *Driver) supervise(ctx context.Context, up func(context.Context) error) error {
	const first, last = 200 * time.Millisecond, 30 * time.Second
	backoff := first
	for {
		began := time.Now()
		err := d.superviseOnce(ctx, up)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > time.Minute {
			backoff = first
		}
		d.cfg.Log.Error("containerd is down, starting it again", "err", err, "in", backoff)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, last)
	}
}

// superviseOnce adopts or starts a containerd and returns when that one ended.
func (d *Driver) superviseOnce(ctx context.Context, up func(context.Context) error) error {
	config := d.cfg.toml()
	for _, dir := range []string{d.cfg.Root, d.cfg.State, d.cfg.CNIConfDir, filepath.Dir(d.cfg.Socket), d.cfg.shimDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make containerd's directories: %w", err)
		}
	}
	if err := d.keepKey(); err != nil {
		return err
	}
	pid := d.running()
	before, _ := os.ReadFile(d.configPath())
	if pid != 0 && !bytes.Equal(before, config) {
		// Shims hold the containers: a containerd may be exchanged at any time.
		d.cfg.Log.Info("containerd's configuration changed, restarting it")
		if err := end(pid, 10*time.Second); err != nil {
			return err
		}
		pid = 0
	}
	if pid == 0 {
		if err := os.WriteFile(d.configPath(), config, 0o600); err != nil {
			return fmt.Errorf("write containerd's configuration: %w", err)
		}
		var err error
		if pid, err = d.start(); err != nil {
			return err
		}
		d.cfg.Log.Info("started containerd", "pid", pid)
	} else {
		d.cfg.Log.Info("adopted the running containerd", "pid", pid)
	}

	gone := make(chan error, 1)
	go func() { gone <- waitPID(ctx, pid) }()
	began := time.Now()
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := d.Version(attempt)
		cancel()
		if err == nil {
			break
		}
		if time.Since(began) > startTimeout {
			_ = end(pid, 5*time.Second)
			<-gone
			return fmt.Errorf("containerd did not answer within %v (see %s): %w", startTimeout, d.logPath(), err)
		}
		select {
		case <-ctx.Done():
			return <-gone
		case err := <-gone:
			if err != nil {
				return err
			}
			return fmt.Errorf("containerd ended while starting: %s", d.lastWords())
		case <-time.After(25 * time.Millisecond):
		}
	}
	if err := up(ctx); err != nil && ctx.Err() == nil {
		d.cfg.Log.Error("containerd runs but cannot be used yet", "err", err)
		_ = end(pid, 10*time.Second)
		<-gone
		return err
	}
	if err := <-gone; err != nil {
		return err
	}
	return fmt.Errorf("containerd ended: %s", d.lastWords())
}

func (d *Driver) configPath() string { return filepath.Join(d.cfg.Root, "config.toml") }
func (d *Driver) pidPath() string    { return filepath.Join(d.cfg.State, "containerd.pid") }
func (d *Driver) logPath() string    { return filepath.Join(d.cfg.Root, "containerd.log") }

// start runs containerd in its own session, so that nothing sent to the daemon's group reaches it.
func (d *Driver) start() (int, error) {
	log, err := os.OpenFile(d.logPath(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return 0, fmt.Errorf("open containerd's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(d.cfg.BinDir, "containerd"), "--config", d.configPath())
	cmd.Dir = "/"
	// containerd would tell systemd that the daemon is ready, or stopping.
	environ := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "NOTIFY_SOCKET=") })
	cmd.Env = append(environ, "PATH="+d.cfg.BinDir+":"+os.Getenv("PATH")+":/usr/sbin:/sbin:/usr/bin:/bin")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start containerd: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reaps; waitPID tells of the end
	pid := cmd.Process.Pid
	if err := os.WriteFile(d.pidPath(), []byte(strconv.Itoa(pid)), 0o600); err != nil {
		_ = end(pid, time.Second)
		return 0, fmt.Errorf("write containerd's pid file: %w", err)
	}
	return pid, nil
}

// running is the pid of the containerd that an earlier daemon started with this configuration file, or 0.
func (d *Driver) running() int {
	text, err := os.ReadFile(d.pidPath())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(cmdline, []byte("\x00"+d.configPath()+"\x00")) {
		return 0
	}
	return pid
}

// maxDaemonLog is the size at which containerd's log is begun anew.
const maxDaemonLog = 16 << 20

// trimLog keeps containerd's log small; it is written in append mode, so that it may be cut at any time.
func (d *Driver) trimLog(ctx context.Context) error {
	for {
		if info, err := os.Stat(d.logPath()); err == nil && info.Size() > maxDaemonLog {
			if err := os.Truncate(d.logPath(), 0); err != nil {
				d.cfg.Log.Warn("cannot cut containerd's log", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Minute):
		}
	}
}

// lastWords is the end of containerd's log, for an error message.
func (d *Driver) lastWords() string {
	text, err := os.ReadFile(d.logPath())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// waitPID returns when the process has ended, or ctx has.
func waitPID(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	wake, signal, err := os.Pipe()
	if err != nil {
		return err
	}
	defer wake.Close()
	stop := context.AfterFunc(ctx, func() { _ = signal.Close() })
	defer func() {
		if stop() {
			_ = signal.Close()
		}
	}()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake.Fd()), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			return nil
		}
	}
}

// end asks a process to end and makes it after grace.
func end(pid int, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		return nil // gone
	}
	if err := waitPID(ctx, pid); err != nil {
		return err
	}
	if ctx.Err() == nil {
		return nil
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	last, cancelLast := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancelLast()
	_ = waitPID(last, pid)
	if last.Err() != nil {
		return fmt.Errorf("process %d does not end", pid)
	}
	return nil
}
