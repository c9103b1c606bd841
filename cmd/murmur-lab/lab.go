package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"murmur/durable"
)

// lab is what is remembered of a lab between calls, in its run directory.
type lab struct {
	Name string
	// Dir has the nodes' disks. Ours: made by up, and so removed by down.
	Dir   string
	Ours  bool
	Nodes []*labNode
	// Images are archives that every node has.
	Images []string
}

// labNode is one node.
type labNode struct {
	Name string
	// Number is the last byte of its addresses.
	Number int
	// PID is the daemon's, and Started the start time that makes it unique; 0 when it was killed.
	PID     int
	Started uint64
	CutFrom []string
	Loss    float64
	// NoIssuer: it holds no key of the CA, and its kubeconfig is that of a node, which may not list others.
	NoIssuer bool
}

const (
	runRoot  = "/run/murmur-lab"
	diskRoot = "/var/lib/murmur-lab"
	// readyLimit bounds the wait for nodes to be Ready. Machines that build at the same time are slow.
	readyLimit = 3 * time.Minute
)

func (l *lab) run(n *labNode) string  { return filepath.Join(runRoot, l.Name, n.Name) }
func (l *lab) disk(n *labNode) string { return filepath.Join(l.Dir, n.Name) }
func (l *lab) etc(n *labNode) string  { return filepath.Join(l.disk(n), "etc") }
func (l *lab) log(n *labNode) string  { return filepath.Join(l.disk(n), "murmur.log") }
func (l *lab) cgroup(n *labNode) string {
	return "/murmur-lab-" + l.Name + "-" + n.Name
}
func (l *lab) netns(n *labNode) string { return "mlab-" + l.Name + "-" + n.Name }
func (l *lab) switchNS() string        { return "mlab-" + l.Name + "-switch" }
func (n *labNode) address() string     { return fmt.Sprint("10.77.0.", n.Number) }
func (n *labNode) mac() string         { return fmt.Sprintf("02:6d:6c:00:00:%02x", n.Number) }

func recordFile(name string) string { return filepath.Join(runRoot, name, "lab.json") }

func openLab(name string) (*lab, error) {
	b, err := os.ReadFile(recordFile(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no lab %q here; murmur-lab --name %s up starts one", name, name)
	}
	if err != nil {
		return nil, err
	}
	l := &lab{}
	return l, json.Unmarshal(b, l)
}

func (l *lab) save() error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return durable.Write(recordFile(l.Name), b, 0o600)
}

func (l *lab) node(name string) (*labNode, error) {
	for _, n := range l.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("there is no node %q in lab %s", name, l.Name)
}

// binDir has the programs of the build: where this one is.
func binDir() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Dir(exe), nil
}

func upLab(ctx context.Context, name, dir string, nodes int, progress io.Writer) (err error) {
	if nodes < 1 || nodes > 200 {
		return fmt.Errorf("--nodes %d: want 1 to 200", nodes)
	}
	if _, err := os.Stat(recordFile(name)); err == nil {
		return fmt.Errorf("lab %s is up already; murmur-lab --name %s down ends it", name, name)
	}
	l := &lab{Name: name, Dir: dir}
	if dir == "" {
		l.Dir, l.Ours = filepath.Join(diskRoot, name), true
	}
	if l.Dir, err = filepath.Abs(l.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(recordFile(name)), 0o711); err != nil {
		return err
	}
	if err := l.save(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.end())
		}
	}()
	if err := l.makeSwitch(); err != nil {
		return err
	}
	for range nodes {
		if _, err := l.create(); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := l.start(l.Nodes[0]); err != nil {
		return err
	}
	if err := l.awaitReady(ctx, l.Nodes[0], 1); err != nil {
		return err
	}
	fmt.Fprintf(progress, "%s is Ready after %.1f s\n", l.Nodes[0].Name, time.Since(began).Seconds())
	if err := l.joinAll(ctx, l.Nodes[1:]); err != nil {
		return err
	}
	fmt.Fprintf(progress, "%d nodes are Ready after %.1f s\n", nodes, time.Since(began).Seconds())
	return nil
}

// create makes a node's place: its namespace and its disk.
func (l *lab) create() (*labNode, error) {
	number := 1
	for _, n := range l.Nodes {
		number = max(number, n.Number+1)
	}
	n := &labNode{Name: fmt.Sprint("n", number), Number: number}
	l.Nodes = append(l.Nodes, n)
	if err := l.save(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.etc(n), 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(l.etc(n), "config.yaml")
	if err := os.WriteFile(config, []byte("# Flags of this node, read when it starts.\n"), 0o644); err != nil {
		return nil, err
	}
	return n, l.plugIn(n)
}

// joinAll starts nodes as members of the cluster of the first that runs, and waits until all are Ready. how are further flags of their
// token.
func (l *lab) joinAll(ctx context.Context, nodes []*labNode, how ...string) error {
	member, err := l.member()
	if err != nil || len(nodes) == 0 {
		return err
	}
	tok, err := l.murmur(ctx, member, append([]string{"token", "create", "--ttl=10m", "--reusable", "--token-only"}, how...)...)
	if err != nil {
		return fmt.Errorf("token of %s: %w", member.Name, err)
	}
	for _, n := range nodes {
		// A file of which nobody else reads: the arguments of a process are seen by all.
		file := filepath.Join(l.etc(n), "token")
		if err := os.WriteFile(file, tok, 0o600); err != nil {
			return err
		}
		defer os.Remove(file)
		if err := l.start(n, "--join", member.address(), "--token-file", file); err != nil {
			return err
		}
	}
	var running int
	for _, n := range l.Nodes {
		if n.alive() {
			running++
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range l.Nodes {
		if n.alive() {
			g.Go(func() error { return l.awaitReady(ctx, n, running) })
		}
	}
	return g.Wait()
}

// member is an issuer whose daemon runs.
func (l *lab) member() (*labNode, error) {
	for _, n := range l.Nodes {
		if n.alive() && !n.NoIssuer {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node of lab %s runs that admits others", l.Name)
}

func (l *lab) add(ctx context.Context, noIssuer bool) (*labNode, error) {
	n, err := l.create()
	if err != nil {
		return nil, err
	}
	var how []string
	if n.NoIssuer = noIssuer; noIssuer {
		how = append(how, "--no-issuer")
	}
	if err := l.joinAll(ctx, []*labNode{n}, how...); err != nil {
		return nil, err
	}
	for _, image := range l.Images {
		if _, err := l.murmur(ctx, n, "images", "import", image); err != nil {
			return nil, fmt.Errorf("import %s on %s: %w", image, n.Name, err)
		}
	}
	return n, nil
}

// murmur runs the CLI for a node and returns what it printed.
func (l *lab) murmur(ctx context.Context, n *labNode, args ...string) ([]byte, error) {
	bin, err := binDir()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "murmur"), args...)
	cmd.Env = append(os.Environ(), "MURMUR_RUN_DIR="+l.run(n))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// awaitReady waits until a node's own API shows want Ready nodes.
func (l *lab) awaitReady(ctx context.Context, n *labNode, want int) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	var last string
	for {
		got, err := l.readyNodes(ctx, n)
		if err == nil && got >= want {
			return nil
		}
		last = fmt.Sprintf("%d of %d nodes are Ready", got, want)
		if err != nil {
			last = err.Error()
		}
		if !n.alive() {
			return fmt.Errorf("the daemon of %s ended:\n%s", n.Name, l.logTail(n))
		}
		select {
		case <-ctx.Done():
			if context.Cause(ctx) != context.DeadlineExceeded {
				return ctx.Err()
			}
			return fmt.Errorf("as %s sees it, %s after %s:\n%s", n.Name, last, readyLimit, l.logTail(n))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (l *lab) readyNodes(ctx context.Context, n *labNode) (int, error) {
	if _, err := os.Stat(filepath.Join(l.etc(n), "murmur.yaml")); err != nil {
		return 0, errors.New("the API is not up")
	}
	args := []string{"kubectl", "get", "nodes", "-o",
		`jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`, "--request-timeout=5s"}
	if n.NoIssuer {
		issuer, err := l.member()
		if err != nil {
			return 0, err
		}
		args = append(args, "--kubeconfig", filepath.Join(l.etc(issuer), "murmur.yaml"), "--server", "https://"+n.address()+":6443")
	}
	cmd, err := l.command(ctx, n, args)
	if err != nil {
		return 0, err
	}
	out, err := runIn(l.netns(n), cmd.Output)
	if err != nil {
		return 0, fmt.Errorf("the API does not answer: %w", err)
	}
	return strings.Count(string(out), "True"), nil
}

func (l *lab) logTail(n *labNode) string {
	b, err := os.ReadFile(l.log(n))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

func (l *lab) load(ctx context.Context, file string) error {
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return err
	}
	kept := filepath.Join(l.Dir, "images", filepath.Base(path))
	if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(kept, b, 0o644); err != nil {
		return err
	}
	if !slices.Contains(l.Images, kept) {
		l.Images = append(l.Images, kept)
		if err := l.save(); err != nil {
			return err
		}
	}
	var g errgroup.Group
	for _, n := range l.Nodes {
		if !n.alive() {
			continue
		}
		g.Go(func() error {
			if _, err := l.murmur(ctx, n, "images", "import", kept); err != nil {
				return fmt.Errorf("import on %s: %w", n.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// labStatus is what status prints.
type labStatus struct {
	Name  string       `json:"name"`
	Dir   string       `json:"dir"`
	Nodes []nodeStatus `json:"nodes"`
}

type nodeStatus struct {
	Name    string   `json:"name"`
	Address string   `json:"address"`
	State   string   `json:"state"` // running or dead: the daemon
	PID     int      `json:"pid"`
	RSS     uint64   `json:"rssBytes"`
	CutFrom []string `json:"cutFrom"`
	Loss    float64  `json:"loss"`
}

func (l *lab) status() labStatus {
	s := labStatus{Name: l.Name, Dir: l.Dir}
	for _, n := range l.Nodes {
		st := nodeStatus{Name: n.Name, Address: n.address(), State: "dead", CutFrom: n.CutFrom, Loss: n.Loss}
		if n.alive() {
			st.State, st.PID, st.RSS = "running", n.PID, rss(n.PID)
		}
		s.Nodes = append(s.Nodes, st)
	}
	return s
}

func downLab(name string) error {
	l, err := openLab(name)
	if err != nil {
		return err
	}
	return l.end()
}

// end removes everything that a lab, whole or half made, has left on the machine.
func (l *lab) end() error {
	var errs []error
	for _, n := range l.Nodes {
		errs = append(errs, l.crash(n), l.unplug(n))
	}
	errs = append(errs, l.removeSwitch())
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, n := range l.Nodes {
		errs = append(errs, os.RemoveAll(l.disk(n)))
	}
	errs = append(errs, os.RemoveAll(filepath.Join(l.Dir, "images")))
	if l.Ours {
		errs = append(errs, os.RemoveAll(l.Dir))
		_ = os.Remove(diskRoot) // unless another lab has its disks there
	}
	errs = append(errs, os.RemoveAll(filepath.Join(runRoot, l.Name)))
	_ = os.Remove(runRoot)
	return errors.Join(errs...)
}
