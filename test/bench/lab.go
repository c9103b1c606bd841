package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lab drives one lab by the program that users drive it by.
type lab struct {
	name string
	// bin has the programs.
	bin string
}

func (l lab) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(l.bin, "murmur-lab"), append([]string{"--name", l.name}, args...)...)
}

// do runs a verb and returns what it printed.
func (l lab) do(ctx context.Context, args ...string) (string, error) {
	cmd := l.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("murmur-lab %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// timed is how long a verb took.
func (l lab) timed(ctx context.Context, args ...string) (time.Duration, error) {
	began := time.Now()
	_, err := l.do(ctx, args...)
	return time.Since(began), err
}

// down ends the lab, whatever became of the run.
func (l lab) down() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := l.do(ctx, "status"); err != nil {
		return nil // there is none
	}
	_, err := l.do(ctx, "down")
	return err
}

// labNode is what a lab says of a node.
type labNode struct {
	Name, Address string
	// PID is the daemon.
	PID int
}

// node is one whose daemon runs.
func (l lab) node(ctx context.Context, name string) (labNode, error) {
	out, err := l.do(ctx, "status", "-o", "json")
	if err != nil {
		return labNode{}, err
	}
	var s struct{ Nodes []labNode }
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return labNode{}, err
	}
	for _, n := range s.Nodes {
		if n.Name == name && n.PID != 0 {
			return n, nil
		}
	}
	return labNode{}, fmt.Errorf("%s does not run", name)
}

// pid is the daemon of a node.
func (l lab) pid(ctx context.Context, node string) (int, error) {
	n, err := l.node(ctx, node)
	return n.PID, err
}

// runDir is where a node has its sockets.
func (l lab) runDir(ctx context.Context, node string) (string, error) {
	out, err := l.do(ctx, "exec", node, "--", "printenv", "MURMUR_RUN_DIR")
	return strings.TrimSpace(out), err
}

// digest is what a node says its store is.
func (l lab) digest(ctx context.Context, node string) (string, error) {
	out, err := l.do(ctx, "exec", node, "--", "murmur", "status", "-o", "json")
	if err != nil {
		return "", err
	}
	var s struct{ Digest string }
	return s.Digest, json.Unmarshal([]byte(out), &s)
}

// client is this program again, inside a node's namespace. It prints one mark a line.
type client struct {
	node   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  *json.Decoder
	stderr bytes.Buffer
}

// mark is one thing that a client did or saw, and when by the machine's clock, which all nodes of a lab share.
type mark struct {
	Name string
	Node string `json:",omitempty"`
	// Began is set by writers, Done by all.
	Began, Done time.Time
}

func (l lab) client(ctx context.Context, node string, args ...string) (*client, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startClient(node, l.command(ctx, append([]string{"exec", node, "--", self, clientWord}, args...)...))
}

func startClient(node string, cmd *exec.Cmd) (*client, error) {
	c := &client{node: node, cmd: cmd}
	c.cmd.Stderr = &c.stderr
	// murmur-lab is between us and the client, which would go on without it.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.cmd.Cancel = func() error { return syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) }
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.stdin, c.lines = stdin, json.NewDecoder(bufio.NewReader(stdout))
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("client on %s: %w", node, err)
	}
	return c, nil
}

// next is the client's next mark.
func (c *client) next() (mark, error) {
	var m mark
	if err := c.lines.Decode(&m); err != nil {
		_ = c.cmd.Wait()
		return m, fmt.Errorf("client on %s: %w: %s", c.node, err, strings.TrimSpace(c.stderr.String()))
	}
	return m, nil
}

// tell writes a line to the client's input.
func (c *client) tell(line string) error {
	if _, err := fmt.Fprintln(c.stdin, line); err != nil {
		_, err = c.next() // what it said as it ended
		return err
	}
	return nil
}

// end has a client end that reads its input, and waits for it.
func (c *client) end() error {
	_, err := c.rest()
	return err
}

// rest ends the client if it waits for that, and returns the marks that are left.
func (c *client) rest() ([]mark, error) {
	_ = c.stdin.Close()
	var all []mark
	for {
		var m mark
		switch err := c.lines.Decode(&m); err {
		case nil:
			all = append(all, m)
		case io.EOF:
			if err := c.cmd.Wait(); err != nil {
				return nil, fmt.Errorf("client on %s: %w: %s", c.node, err, strings.TrimSpace(c.stderr.String()))
			}
			return all, nil
		default:
			_ = c.cmd.Wait()
			return nil, fmt.Errorf("client on %s: %w", c.node, err)
		}
	}
}

// ask runs a client to its end.
func (l lab) ask(ctx context.Context, node string, args ...string) ([]mark, error) {
	c, err := l.client(ctx, node, args...)
	if err != nil {
		return nil, err
	}
	return c.rest()
}

// askLocal runs a client to its end on the machine itself.
func askLocal(ctx context.Context, kubeconfig string, args ...string) ([]mark, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{clientWord}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	c, err := startClient("this machine", cmd)
	if err != nil {
		return nil, err
	}
	return c.rest()
}
