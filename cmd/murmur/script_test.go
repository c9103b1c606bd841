package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts of testdata/script are sessions at a shell: what a user can get wrong, and what murmur answers. Those in
// need of a live member get a lab of one node; they run in its network namespace, so that the machine's own network is
// never touched.

func TestMain(m *testing.M) {
	testscript.Main(withLab{m}, map[string]func(){"murmur": main})
}

// withLab takes down the lab, if one was started, when the tests are over.
type withLab struct{ *testing.M }

func (m withLab) Run() int {
	code := m.M.Run()
	for _, end := range labsDown {
		if out, err := end().CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "take the lab down: %v\n%s", err, out)
			code = 1
		}
	}
	return code
}

var (
	labsDown []func() *exec.Cmd
	labName  = fmt.Sprintf("cli%d", os.Getpid()%1_000_000)
)

// bin is the directory of the build.
func bin() (string, error) {
	dir, err := filepath.Abs(filepath.Join("..", "..", "bin"))
	if err != nil {
		return "", err
	}
	for _, p := range []string{"murmur", "murmur-lab", "containerd", "kubectl"} {
		if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
			return "", fmt.Errorf("%s is not built: make build", p)
		}
	}
	return dir, nil
}

// startLab starts the lab once for all scripts. Its node is n1 at 10.77.0.1; 10.77.0.200 is an address for joiners.
var startLab = sync.OnceValue(func() error {
	dir, err := bin()
	if err != nil {
		return err
	}
	lab := func(args ...string) *exec.Cmd {
		return exec.Command(filepath.Join(dir, "murmur-lab"), append([]string{"--name", labName}, args...)...)
	}
	labsDown = append(labsDown, func() *exec.Cmd { return lab("down") })
	if out, err := lab("up", "--nodes=1").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	out, err := lab("exec", "n1", "--", "ip", "address", "add", "10.77.0.200/24", "dev", "eth0").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
})

func TestScripts(t *testing.T) {
	built, missing := bin()
	root := os.Geteuid() == 0
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			murmur, err := exec.LookPath("murmur")
			if err != nil {
				return err
			}
			env.Setenv("MURMUR", murmur)
			env.Setenv("BIN", built)
			// Nothing that a script starts may touch the paths of a real node.
			env.Setenv("HERE", strings.Join([]string{
				"--data-dir=" + env.WorkDir + "/data", "--run-dir=" + env.WorkDir + "/run", "--config-dir=" + env.WorkDir + "/etc",
				"--config=" + env.WorkDir + "/config.yaml", "--bin-dir=" + built,
			}, " "))
			env.Setenv("LAB", labName)
			return os.WriteFile(filepath.Join(env.WorkDir, "config.yaml"), nil, 0o600)
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return root, nil
			case "built":
				return missing == nil, nil
			}
			return false, fmt.Errorf("unknown condition %s", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"refused": refused, "lab": withNode, "unmade": unmade,
		},
	})
}

// refused runs murmur and wants it to fail with one line on stderr, which stderr then matches. Its first argument may be
// -nobody, to run as a user who is not root, or -netns=NAME. $HERE and the like are split at spaces.
func refused(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("refused is never negated")
	}
	var words []string
	for _, a := range args {
		if strings.HasPrefix(a, "--data-dir=") {
			words = append(words, strings.Fields(a)...)
		} else {
			words = append(words, a)
		}
	}
	program, dir := ts.Getenv("MURMUR"), ts.Getenv("WORK")
	var attr syscall.SysProcAttr
	switch {
	case words[0] == "-nobody":
		words = words[1:]
		// The program and the script are in directories that only we may search.
		var err error
		dir, err = os.MkdirTemp("", "murmur-nobody-")
		ts.Check(err)
		defer os.RemoveAll(dir)
		// Copied by another process: a program that is open for writing here, or in a child that a parallel script is just
		// starting, cannot be run.
		to := filepath.Join(dir, "murmur")
		ts.Check(exec.Command("cp", program, to).Run())
		program = to
		ts.Check(errors.Join(os.Chmod(program, 0o755), os.WriteFile(filepath.Join(dir, "config.yaml"), nil, 0o644), os.Chmod(dir, 0o755)))
		attr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	case strings.HasPrefix(words[0], "-netns="):
		// By its full name: some scripts take the PATH away.
		nsenter, err := exec.LookPath("nsenter")
		ts.Check(err)
		words = append([]string{"--net=/run/netns/" + strings.TrimPrefix(words[0], "-netns="), program}, words[1:]...)
		program = nsenter
	}
	cmd := exec.Command(program, words...)
	cmd.Dir, cmd.SysProcAttr = dir, &attr
	cmd.Env = []string{}
	for _, k := range []string{"PATH", "HOME", "TMPDIR", "KUBECONFIG", "MURMUR_RUN_DIR", "MURMUR_CONFIG_DIR", "MURMUR_HTTPS_LISTEN_PORT",
		"MURMUR_CLUSTER_CIDR", "MURMUR_NODE_TAINT"} {
		if v := ts.Getenv(k); v != "" {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	ts.Logf("[stdout] %s[stderr] %s", stdout.String(), stderr.String())
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		ts.Fatalf("murmur ended with %v, not with exit code 1", err)
	}
	line, ok := strings.CutSuffix(stderr.String(), "\n")
	if !ok || strings.Contains(line, "\n") || !strings.HasPrefix(line, "murmur: ") || stdout.Len() > 0 {
		ts.Fatalf("want one line on stderr and nothing on stdout")
	}
	ts.Check(os.WriteFile(ts.MkAbs("said"), []byte(stderr.String()), 0o600))
}

// withNode starts the lab, or skips the script when it cannot be: it sets NETNS, TOKEN, NODEDATA and NODERUN.
func withNode(ts *testscript.TestScript, neg bool, args []string) {
	if err := startLab(); err != nil {
		ts.Fatalf("start a lab: %v", err)
	}
	run := filepath.Join("/run/murmur-lab", labName, "n1")
	ts.Setenv("NETNS", "mlab-"+labName+"-n1")
	ts.Setenv("NODERUN", run)
	ts.Setenv("NODEDATA", filepath.Join("/var/lib/murmur-lab", labName, "n1", "data"))
	out, err := exec.Command(ts.Getenv("MURMUR"), "token", "create", "--token-only", "--reusable", "--run-dir", run).Output()
	ts.Check(err)
	token := strings.TrimSpace(string(out))
	ts.Setenv("TOKEN", token)
	// Tokens with one character changed: in the CA's hash, in the secret, and in a way that no token has.
	other := func(at int, from string) string {
		c := from[:1]
		if token[at] == from[0] {
			c = from[1:2]
		}
		return token[:at] + c + token[at+1:]
	}
	ts.Setenv("TOKEN_OTHER_CA", other(20, "ab"))
	ts.Setenv("TOKEN_OTHER_SECRET", other(len(token)-1, "ab"))
	ts.Setenv("TOKEN_NO_HEX", other(20, "zz"))
}

// unmade wants the data directory to hold nothing that the next start would go by.
func unmade(ts *testscript.TestScript, neg bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs("data"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		ts.Fatalf("%v", err)
	}
	for _, e := range entries {
		if e.Name() != "lock" {
			ts.Fatalf("data/%s was left", e.Name())
		}
	}
	for _, dir := range []string{"etc", "run"} {
		if _, err := os.Stat(ts.MkAbs(dir)); err == nil {
			ts.Fatalf("%s was made", dir)
		}
	}
}
