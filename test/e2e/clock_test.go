package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestClockAnHourAhead: one node's clock is wrong. The others are not harmed; what it writes by itself is held aside, is seen to be, and is
// not lost; and once the clock is right the node writes as before.
func TestClockAnHourAhead(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the lab sets clocks on amd64 only")
	}
	l := up(t, "e-clock", 3)
	l.do("exec", "n1", "--", "kubectl", "apply", "-f", filepath.Join(repo, "examples/hello/hello.yaml"))
	l.within(time.Minute, "six pods are ready", l.wantReady("n2", "hello", 6))
	l.kubectl("n1", "create", "configmap", "x")
	pods := func() string { return l.kubectl("n1", "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}") }
	before := pods()

	l.do("clock", "n3", "1h")
	l.kubectl("n3", "annotate", "namespace", "default", "from=n3")
	held := func() map[string]string {
		var s struct {
			Store struct{ Held map[string]string }
		}
		out := l.do("exec", "n1", "--", "murmur", "status", "-o", "json")
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		return s.Store.Held
	}
	l.within(20*time.Second, "the write from the future is held aside, and listed", func() error {
		for key := range held() {
			if strings.Contains(key, "namespaces") {
				return nil
			}
		}
		return fmt.Errorf("held are %v", held())
	})
	annotated := func(node, kind, name, key string) func() error {
		return func() error {
			out, err := l.tryKubectl(node, "get", kind, name, "-o", "jsonpath={.metadata.annotations."+key+"}")
			if err == nil && out != "yes" {
				err = fmt.Errorf("annotations.%s is %q", key, out)
			}
			return err
		}
	}
	l.kubectl("n1", "annotate", "configmap", "x", "n1=yes")
	for _, n := range []string{"n2", "n3"} {
		l.within(20*time.Second, "what the others write is on "+n, annotated(n, "configmap", "x", "n1"))
	}
	// Longer than any toleration, probe or suspicion.
	time.Sleep(20 * time.Second)
	if after := pods(); after != before {
		t.Errorf("pods were changed: %s, before %s", after, before)
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		if err := l.wantReady(n, "hello", 6)(); err != nil {
			t.Errorf("seen from %s: %v", n, err)
		}
		if out := l.kubectl(n, "get", "nodes"); strings.Contains(out, "NotReady") {
			t.Errorf("seen from %s:\n%s", n, out)
		}
	}

	l.do("clock", "n3", "0s")
	l.kubectl("n3", "annotate", "configmap", "x", "n3=yes")
	l.within(20*time.Second, "what the node writes with its clock right is not held", annotated("n1", "configmap", "x", "n3"))
	for _, n := range []string{"n1", "n2"} {
		l.do("exec", n, "--", "murmur", "release")
	}
	l.within(30*time.Second, "all hold the same", l.sameDigests)
	if out := l.kubectl("n1", "get", "namespace", "default", "-o", "jsonpath={.metadata.annotations.from}"); out != "n3" {
		t.Errorf("what was held is lost: %q", out)
	}
}
