// Package e2e runs the scenarios that murmur is for, on real nodes: each in its own network namespace, with real
// containerd, iptables and disks, driven by kubectl and murmur-lab as a user would.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// repo is the top of the checkout; its bin/ has the build.
var repo = func() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}()

// requestsOf makes this test binary a client: it asks the URL that the variable names until its input ends.
const requestsOf = "E2E_REQUESTS"

// fetchOf makes it a client that prints what one URL answers.
const fetchOf = "E2E_FETCH"

func TestMain(m *testing.M) {
	if url := os.Getenv(fetchOf); url != "" {
		fetch(url)
		return
	}
	if url := os.Getenv(requestsOf); url != "" {
		requestUntilEOF(url)
		return
	}
	if prefix := os.Getenv(writesOf); prefix != "" {
		if err := writeUntilEOF(prefix); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func fetch(url string) {
	client := &http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get(url)
	if err == nil {
		_, err = io.Copy(os.Stdout, resp.Body)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// request is one failed request.
type request struct {
	At  time.Time
	Err string
}

// requests is what a client saw.
type requests struct {
	Answered int
	Failed   []request
}

func requestUntilEOF(url string) {
	ctx, stop := context.WithCancel(context.Background())
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); stop() }()
	// A new connection each, so that each is a new choice of endpoint.
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var out requests
	for ctx.Err() == nil {
		at := time.Now()
		resp, err := client.Get(url)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if err == nil && resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
		}
		if err != nil {
			out.Failed = append(out.Failed, request{at, err.Error()})
		} else {
			out.Answered++
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = json.NewEncoder(os.Stdout).Encode(out)
}

// lab is one lab of a test.
type lab struct {
	t    *testing.T
	name string
	// programs is the directory of those that its verbs run.
	programs string
}

// newest has the programs of this commit.
var newest = filepath.Join(repo, "bin")

// up starts a lab that ends with the test.
func up(t *testing.T, name string, nodes int) *lab {
	t.Helper()
	return upWith(t, name, nodes, newest)
}

// upWith starts a lab of other programs.
func upWith(t *testing.T, name string, nodes int, programs string) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	if _, err := os.Stat(filepath.Join(repo, "bin", "murmur-lab")); err != nil {
		t.Fatal("bin/murmur-lab is missing: make build")
	}
	l := &lab{t, name, programs}
	if _, err := l.try("status"); err == nil {
		l.do("down") // left by a test that was killed
	}
	t.Cleanup(func() {
		if t.Failed() {
			l.dump()
		}
		l.do("down")
	})
	l.do("up", "--nodes", fmt.Sprint(nodes))
	l.do("load", helloImage(t))
	return l
}

var helloImage = func() func(*testing.T) string {
	build := sync.OnceValues(func() (string, error) {
		out, err := exec.Command(filepath.Join(repo, "bin", "murmur-lab"), "image", filepath.Join(repo, "examples", "hello"), "example.murmur.io/hello:1").Output()
		lines := strings.Fields(string(out))
		if err != nil || len(lines) == 0 {
			return "", fmt.Errorf("build the example's image: %w", err)
		}
		return lines[len(lines)-1], nil
	})
	return func(t *testing.T) string {
		t.Helper()
		path, err := build()
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
}()

func (l *lab) command(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(l.programs, "murmur-lab"), append([]string{"--name", l.name}, args...)...)
}

// pid is the daemon of a node.
func (l *lab) pid(node string) int {
	l.t.Helper()
	var s struct {
		Nodes []struct {
			Name string
			PID  int
		}
	}
	if err := json.Unmarshal([]byte(l.do("status", "-o", "json")), &s); err != nil {
		l.t.Fatal(err)
	}
	for _, n := range s.Nodes {
		if n.Name == node {
			return n.PID
		}
	}
	l.t.Fatalf("there is no %s", node)
	return 0
}

// try runs a verb of murmur-lab and returns what it printed.
func (l *lab) try(args ...string) (string, error) {
	cmd := l.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("murmur-lab %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func (l *lab) do(args ...string) string {
	l.t.Helper()
	out, err := l.try(args...)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

func (l *lab) tryKubectl(node string, args ...string) (string, error) {
	return l.try(append([]string{"exec", node, "--", "kubectl", "--request-timeout=10s"}, args...)...)
}

func (l *lab) kubectl(node string, args ...string) string {
	l.t.Helper()
	out, err := l.tryKubectl(node, args...)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

// apply applies a manifest on a node.
func (l *lab) apply(node, manifest string) {
	l.t.Helper()
	cmd := l.command("exec", node, "--", "kubectl", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("kubectl apply on %s: %v: %s", node, err, out)
	}
}

// get decodes what kubectl get -o json prints.
func get[T any](l *lab, node string, args ...string) *T {
	l.t.Helper()
	v, err := tryGet[T](l, node, args...)
	if err != nil {
		l.t.Fatal(err)
	}
	return v
}

func tryGet[T any](l *lab, node string, args ...string) (*T, error) {
	out, err := l.tryKubectl(node, append([]string{"get", "-o", "json"}, args...)...)
	if err != nil {
		return nil, err
	}
	v := new(T)
	return v, json.Unmarshal([]byte(out), v)
}

// within polls until ok says nil, and returns how long that took.
func (l *lab) within(limit time.Duration, what string, ok func() error) time.Duration {
	l.t.Helper()
	began := time.Now()
	for {
		err := ok()
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > limit {
			l.t.Fatalf("not within %s: %s: %v", limit, what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// ask begins to send requests to a URL from a node; the returned function ends that and says what came of them.
func (l *lab) ask(node, url string) (stop func() requests) {
	l.t.Helper()
	return client[requests](l, node, requestsOf+"="+url)
}

// client runs this program as a client on a node, told by a variable what to do. The returned function ends it and reads what
// it says.
func client[T any](l *lab, node, env string) (stop func() T) {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := l.command("exec", node, "--", self)
	cmd.Env = append(os.Environ(), env)
	cmd.Stderr = os.Stderr
	var out bytes.Buffer
	cmd.Stdout = &out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	end := sync.OnceValues(func() (T, error) {
		var said T
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			return said, err
		}
		return said, json.Unmarshal(out.Bytes(), &said)
	})
	l.t.Cleanup(func() { _, _ = end() })
	return func() T {
		l.t.Helper()
		r, err := end()
		if err != nil {
			l.t.Fatalf("client on %s: %v", node, err)
		}
		return r
	}
}

// dump prints what helps to see why a test failed.
func (l *lab) dump() {
	out, _ := l.try("status")
	l.t.Logf("%s", out)
	for _, n := range []string{"n1", "n2", "n3"} {
		if out, err := l.tryKubectl(n, "get", "nodes,deployments,replicasets,pods", "-A", "-o", "wide"); err == nil {
			l.t.Logf("as %s sees it:\n%s", n, out)
		}
		if out, err := l.tryKubectl(n, "get", "events", "-A", "--sort-by=.lastTimestamp"); err == nil {
			lines := strings.Split(out, "\n")
			l.t.Logf("events:\n%s", strings.Join(lines[max(0, len(lines)-25):], "\n"))
		}
		if out, err := l.try("logs", n); err == nil {
			lines := strings.Split(out, "\n")
			l.t.Logf("log of %s:\n%s", n, strings.Join(lines[max(0, len(lines)-25):], "\n"))
		}
	}
}
