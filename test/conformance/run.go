package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// run is one run of the suite.
type run struct {
	cache
	focus, skip  string
	nodes, procs int
	// lab is its name. If it is up already it is used and left up.
	lab string
	out string
}

// labExec runs a program in the first node's namespace, where the API and the services' addresses are.
func (r run) labExec(args ...string) []string {
	return append([]string{r.product("murmur-lab"), "--name", r.lab, "exec", "n1", "--"}, args...)
}

// suite runs what focus and skip leave of the conformance specs: in parallel those that may be, then the serial ones.
// The error is how the suite ended.
func (r run) suite(ctx context.Context, images string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("conformance needs root: a lab makes network namespaces")
	}
	for _, program := range []string{"murmur", "murmur-lab", "kubectl"} {
		if _, err := os.Stat(r.product(program)); err != nil {
			return fmt.Errorf("the product is not built; `make build` does: %w", err)
		}
	}
	if r.out == "" {
		r.out = r.path("results", time.Now().UTC().Format("20060102-150405"))
	}
	if r.out, err = filepath.Abs(r.out); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	murmurLab := func(args ...string) error {
		// Not bound to ctx: a lab must end in order also when the run was interrupted.
		return command(context.WithoutCancel(ctx), r.product("murmur-lab"), append([]string{"--name", r.lab}, args...)...)
	}
	if exec.CommandContext(ctx, r.product("murmur-lab"), "--name", r.lab, "status").Run() != nil {
		defer func() {
			r.keepLogs()
			err = errors.Join(err, murmurLab("down"))
		}()
		if err := murmurLab("up", "--nodes", strconv.Itoa(r.nodes)); err != nil {
			return err
		}
		if err := murmurLab("load", images); err != nil {
			return err
		}
	} else {
		defer r.keepLogs()
	}

	end, err := r.startRegistry(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	args := r.labExec(r.path("bin/ginkgo"), "run", "--no-color", "--procs="+strconv.Itoa(r.procs), "--keep-going", "--timeout=24h", "--poll-progress-after=10m",
		"--output-dir="+r.out, "--json-report=report.json", "--junit-report=junit.xml", "--label-filter="+conformanceLabel)
	if r.focus != "" {
		args = append(args, "--focus="+r.focus)
	}
	if r.skip != "" {
		args = append(args, "--skip="+r.skip)
	}
	args = append(args, r.path("bin/e2e.test"), "--", "--provider=skeleton", "--kubectl-path="+r.product("kubectl"), "--report-dir="+r.out, "--disable-log-dump")
	log, err := os.Create(filepath.Join(r.out, "suite.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintln(os.Stderr, "results:", r.out)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	// Interrupted, ginkgo lets the specs clean up and still writes its report.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 2 * time.Minute
	cmd.Stdout, cmd.Stderr = io.MultiWriter(log, &progress{out: os.Stderr}), log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the suite: %w; see %s", err, r.out)
	}
	return nil
}

// startRegistry serves the images in the lab and tells the nodes that it is a mirror. It is ended by what is returned.
func (r run) startRegistry(ctx context.Context) (end func() error, err error) {
	mirror := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", registryAddr)
	for n := 1; n <= r.nodes; n++ {
		script := `dir=$(dirname "$KUBECONFIG")/certs.d/` + upstreamRegistry + ` && mkdir -p "$dir" && cat > "$dir/hosts.toml"`
		cmd := exec.CommandContext(ctx, r.product("murmur-lab"), "--name", r.lab, "exec", fmt.Sprint("n", n), "--", "sh", "-c", script)
		cmd.Stdin, cmd.Stderr = strings.NewReader(mirror), os.Stderr
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("tell n%d of the registry: %w", n, err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := r.labExec(self, "registry", "-cache", r.dir)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the registry: %w", err)
	}
	return func() error {
		// The group: murmur-lab waits for the registry that it runs.
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
			return fmt.Errorf("end the registry: %w", err)
		}
		_ = cmd.Wait() // it was told to
		return nil
	}, nil
}

// keepLogs copies the nodes' logs beside the results.
func (r run) keepLogs() {
	for n := 1; n <= r.nodes; n++ {
		out, err := exec.Command(r.product("murmur-lab"), "--name", r.lab, "logs", fmt.Sprint("n", n)).Output()
		if err == nil {
			_ = os.WriteFile(filepath.Join(r.out, fmt.Sprintf("n%d.log", n)), out, 0o644)
		}
	}
}

// progress shows of the suite's output what one wants to see go by: which specs failed, and the summary.
type progress struct {
	out  io.Writer
	line []byte
}

func (p *progress) Write(b []byte) (int, error) {
	for _, c := range b {
		if c != '\n' {
			p.line = append(p.line, c)
			continue
		}
		line := string(p.line)
		p.line = p.line[:0]
		if strings.HasPrefix(line, "Ran ") || strings.HasPrefix(line, "FAIL!") || strings.HasPrefix(line, "SUCCESS!") ||
			strings.Contains(line, "[FAIL]") || strings.Contains(line, "[FAILED] [") || strings.HasPrefix(line, "Test Suite") {
			fmt.Fprintln(p.out, line)
		}
	}
	return len(b), nil
}
