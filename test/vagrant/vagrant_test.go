package vagrant

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var root, _ = filepath.Abs(filepath.Join("..", ".."))

func TestVagrantfileIsValid(t *testing.T) {
	if _, err := exec.LookPath("vagrant"); err != nil {
		t.Skip("vagrant is not installed: make vagrant-check")
	}
	// Vagrant writes beside the Vagrantfile: it gets a copy.
	dir := t.TempDir()
	for _, f := range []string{"Vagrantfile", "test/vagrant/provision.sh", "contrib/murmur.service"} {
		b, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, f)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, b, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("vagrant", "validate", "--ignore-provider")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "VAGRANT_HOME="+filepath.Join(dir, "home"), "VAGRANT_CHECKPOINT_DISABLE=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "validated successfully") {
		t.Errorf("vagrant validate: %v\n%s", err, out)
	}
}

// machine is what stands for a virtual machine: namespaces for its network, processes, mounts and name, and a directory
// for its disk.
type machine struct {
	name, address, netns, dir, run, cgroup string
	cmd                                    *exec.Cmd
}

func (m *machine) env(more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "NODE_NAME=" + m.name, "NODE_IP=" + m.address,
		"BIN_SOURCE=" + filepath.Join(root, "bin"), "UNIT_SOURCE=" + filepath.Join(root, "contrib", "murmur.service"),
		"PREFIX=" + m.dir + "/usr", "UNIT_DIR=" + m.dir + "/systemd", "CONFIG_DIR=" + m.dir + "/etc", "DATA_DIR=" + m.dir + "/lib",
		"RUN_DIR=" + m.run, "CGROUP_ROOT=" + m.cgroup,
	}, more...)
}

func (m *machine) log() string {
	b, _ := os.ReadFile(m.dir + "/log")
	return string(b)
}

// in prepares a program in the machine's network.
func (m *machine) in(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + m.netns}, args...)...)
}

func (m *machine) kubectl(args ...string) (string, error) {
	out, err := m.in(append([]string{m.dir + "/usr/bin/murmur", "kubectl", "--kubeconfig=" + m.dir + "/etc/murmur.yaml", "--request-timeout=5s"}, args...)...).CombinedOutput()
	return string(out), err
}

// provision runs the script as the machine's first process, which then becomes the daemon.
func (m *machine) provision(t *testing.T, more ...string) {
	t.Helper()
	log, err := os.Create(m.dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	m.cmd = m.in("unshare", "--mount", "--propagation=private", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", `hostname "$NODE_NAME"; exec sh "$0"`, filepath.Join(root, "test", "vagrant", "provision.sh"))
	m.cmd.Env = m.env(append(more, "START=foreground")...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// off ends all of the machine: with its first process the kernel kills the others and forgets its mounts.
func (m *machine) off(t *testing.T) {
	if m.cmd != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out, _ := exec.Command("ip", "netns", "pids", m.netns).Output()
		if len(strings.Fields(string(out))) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("processes of %s do not die: %s", m.name, out)
			break
		}
	}
	// Both layouts: one hierarchy, or one for each controller.
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + m.cgroup)
	for _, g := range append(groups, "/sys/fs/cgroup"+m.cgroup) {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if err := removeGroups(g); err == nil {
				break
			} else if time.Now().After(end) {
				t.Errorf("remove %s: %v", g, err)
				break
			}
		}
	}
	if err := os.RemoveAll(m.run); err != nil {
		t.Error(err)
	}
}

// removeGroups removes a cgroup and those in it.
func removeGroups(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeGroups(filepath.Join(dir, e.Name())))
		}
	}
	if err == nil {
		err = syscall.Rmdir(dir)
	}
	return err
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
}

func await(t *testing.T, m *machine, what string, f func() error) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: waited for %s: %v\n%s", m.name, what, err, m.log())
		}
	}
}

func TestProvisionedMachinesBecomeACluster(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the machines are namespaces")
	}
	for _, p := range []string{"murmur", "containerd", "kubectl", "murmur-runc", "pause", "cni/bridge"} {
		if _, err := os.Stat(filepath.Join(root, "bin", p)); err != nil {
			t.Skipf("bin/%s is not built: make build", p)
		}
	}
	tag := fmt.Sprintf("mv%d", os.Getpid()%100_000)
	wires := tag + "-switch"
	ip(t, "netns", "add", wires)
	t.Cleanup(func() { ip(t, "netns", "delete", wires) })
	ip(t, "-n", wires, "link", "add", "switch", "type", "bridge")
	ip(t, "-n", wires, "link", "set", "switch", "up")
	var machines []*machine
	for i, name := range []string{"m1", "m2", "m3"} {
		m := &machine{
			name: name, address: fmt.Sprint("192.168.56.", 11+i), netns: tag + "-" + name,
			dir: t.TempDir(), run: "/run/" + tag + name, cgroup: "/" + tag + name,
		}
		machines = append(machines, m)
		ip(t, "netns", "add", m.netns)
		t.Cleanup(func() {
			m.off(t)
			ip(t, "netns", "delete", m.netns)
		})
		ip(t, "-n", wires, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", m.netns)
		ip(t, "-n", wires, "link", "set", name, "master", "switch", "up")
		ip(t, "-n", m.netns, "address", "add", m.address+"/24", "dev", "eth0")
		ip(t, "-n", m.netns, "link", "set", "lo", "up")
		ip(t, "-n", m.netns, "link", "set", "eth0", "up")
	}

	first := machines[0]
	first.provision(t)
	token := filepath.Join(t.TempDir(), "token")
	await(t, first, "a token", func() error {
		out, err := exec.Command(first.dir+"/usr/bin/murmur", "token", "create", "--reusable", "--token-only", "--run-dir", first.run).Output()
		if err != nil {
			return err
		}
		return os.WriteFile(token, out, 0o600)
	})
	for _, m := range machines[1:] {
		m.provision(t, "JOIN="+first.address, "TOKEN_FILE="+token)
	}
	for _, m := range machines {
		await(t, m, "three Ready nodes", func() error {
			out, err := m.kubectl("get", "nodes", "--no-headers")
			if err != nil || strings.Count(out, " Ready ") != 3 {
				return fmt.Errorf("%w\n%s", err, out)
			}
			return nil
		})
	}

	for _, m := range machines {
		unit, err := os.ReadFile(m.dir + "/systemd/murmur.service")
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"KillMode=process", "Delegate=yes", "Restart=on-failure", "ExecStart=" + m.dir + "/usr/bin/murmur up --config " + m.dir + "/etc/config.yaml"} {
			if !strings.Contains(string(unit), line+"\n") {
				t.Errorf("the unit of %s lacks %s", m.name, line)
			}
		}
		if info, err := os.Stat(m.dir + "/etc/murmur.yaml"); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the kubeconfig of %s: %v, %v", m.name, info, err)
		}
	}

	// Again, over programs that run: as an upgrade does.
	again := first.in("sh", filepath.Join(root, "test", "vagrant", "provision.sh"))
	again.Env = first.env("START=no")
	if out, err := again.CombinedOutput(); err != nil {
		t.Errorf("provision again: %v\n%s", err, out)
	}
}

func TestProvisionRefuses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to get past that check")
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	if err := errors.Join(os.Mkdir(bin, 0o755), os.WriteFile(bin+"/murmur", []byte("#!/bin/sh\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		env        []string
	}{
		{"no programs", "run `make build` first", []string{"BIN_SOURCE=" + dir}},
		{"no token", "murmur token create --token-only", []string{"BIN_SOURCE=" + bin, "JOIN=192.0.2.1", "TOKEN_FILE=" + dir + "/token"}},
		{"start how", "want systemd, foreground or no", []string{"BIN_SOURCE=" + bin, "START=later"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &machine{name: "m1", address: "192.0.2.2", dir: dir, run: dir + "/run"}
			cmd := exec.Command("sh", "provision.sh")
			cmd.Env = m.env(c.env...)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
