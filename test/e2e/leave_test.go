package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func (l *lab) murmur(node string, args ...string) string {
	l.t.Helper()
	return l.do(append([]string{"exec", node, "--", "murmur"}, args...)...)
}

// registered is nil once a node sees exactly these Node objects, and their nodes as ready.
func (l *lab) registered(node string, names ...string) func() error {
	return func() error {
		list, err := tryGet[corev1.NodeList](l, node, "nodes")
		if err != nil {
			return err
		}
		var got []string
		for _, n := range list.Items {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady {
					got = append(got, n.Name+"="+string(c.Status))
				}
			}
		}
		if want := strings.Join(names, "=True ") + "=True"; strings.Join(got, " ") != want {
			return fmt.Errorf("%s sees %v, want %s", node, got, want)
		}
		return nil
	}
}

// processes lists what still runs for a node: its daemon, containerd and shims, and what is in its pods.
func (l *lab) processes(node string) []string {
	l.t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		l.t.Fatal(err)
	}
	var out []string
	for _, dir := range entries {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		args := string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))
		if strings.Contains(args, "/murmur-lab/"+l.name+"/"+node+"/") || strings.Contains(string(cgroup), "/murmur-lab-"+l.name+"-"+node+"/") {
			out = append(out, args)
		}
	}
	return out
}

// A node leaves, comes back as a new one, and others are forgotten: what `murmur leave`, `join` and `forget` promise.
func TestLeaveJoinForget(t *testing.T) {
	l := up(t, "e-leave", 3)
	l.apply("n1", deployment("web", 6, "1"))
	l.within(60*time.Second, "six pods on three nodes", l.wantReady("n1", "web", 6))

	// Whichever node is asked tells what the arbiter knows.
	pods, err := l.pods("n1", "web")
	if err != nil {
		t.Fatal(err)
	}
	for name := range pods {
		for _, n := range []string{"n1", "n2", "n3"} {
			if out := l.murmur(n, "explain", "pod/"+name); !strings.Contains(out, `"rounds"`) {
				t.Errorf("explain on %s tells no bids of %s: %s", n, name, out)
			}
		}
	}

	if out := l.murmur("n2", "leave"); !strings.Contains(out, "n2 has left the cluster") {
		t.Errorf("leave says %q", out)
	}
	for _, n := range []string{"n1", "n3"} {
		l.within(5*time.Second, "n2 is gone on "+n, l.registered(n, "n1", "n3"))
	}
	took := l.within(20*time.Second, "its pods are replaced", l.wantReady("n1", "web", 6, "n1", "n3"))
	t.Logf("pods replaced %.1f s after the leave", took.Seconds())
	for _, n := range []string{"n1", "n3"} {
		if out := l.murmur(n, "members", "--name=n2", "--status=left"); !strings.Contains(out, "n2") {
			t.Errorf("members on %s does not list n2 as left:\n%s", n, l.murmur(n, "members"))
		}
		l.murmur(n, "reachability") // who has left is not asked
	}
	if left := l.processes("n2"); len(left) > 0 {
		t.Errorf("still run on n2:\n%s", strings.Join(left, "\n"))
	}
	data := filepath.Join("/var/lib/murmur-lab", l.name, "n2", "data")
	for _, name := range []string{"identity.json", "store", "store.left", "placement", "cni", "logs"} {
		if _, err := os.Stat(filepath.Join(data, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was left behind", name)
		}
	}

	// Started again it is a new node, which founds a cluster of its own until it is told to join.
	l.do("start", "n2")
	l.within(20*time.Second, "n2 is alone", l.registered("n2", "n2"))
	host := get[corev1.Node](l, "n1", "node", "n1").Status.Addresses[0].Address
	token := strings.TrimSpace(l.murmur("n1", "token", "create", "--token-only"))
	l.kubectl("n2", "create", "configmap", "mine")
	if _, err := l.try("exec", "n2", "--", "murmur", "join", host, "--token", token); err == nil || !strings.Contains(err.Error(), "with state of its own, such as configmaps/default/mine") {
		t.Errorf("a node with state was told to join: %v", err)
	}
	l.kubectl("n2", "delete", "configmap", "mine")
	if out := l.murmur("n2", "join", host, "--token", token); !strings.Contains(out, "n2 has given up the empty cluster it was alone in") {
		t.Errorf("join says %q", out)
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		l.within(20*time.Second, "n2 is a member as "+n+" sees it", l.registered(n, "n1", "n2", "n3"))
	}
	l.kubectl("n2", "scale", "deployment", "web", "--replicas=12")
	l.within(60*time.Second, "twelve pods", l.wantReady("n2", "web", 12))
	if err := atLeast(l, "n1", "web", 1, "n2"); err != nil {
		t.Errorf("the new node runs nothing: %v", err)
	}
	if err := l.curl("n2", "http://"+l.vip("n2", "web")); err != nil {
		t.Errorf("no service on the new node: %v", err)
	}

	// What n3 alone has made, and nobody heard of, is its own loss once it is forgotten.
	l.do("partition", "n1,n2", "n3")
	l.within(30*time.Second, "n3 decides alone", func() error {
		_, err := l.tryKubectl("n3", "create", "configmap", "unheard")
		return err
	})
	l.kubectl("n1", "create", "configmap", "heard")
	l.do("kill", "n3")
	l.do("heal")
	l.within(20*time.Second, "n3 is missed", func() error {
		_, err := l.try("exec", "n1", "--", "murmur", "reachability")
		if err == nil {
			return errors.New("all answer")
		}
		if !strings.Contains(err.Error(), "1 of 2 other members do not answer: n3") {
			t.Errorf("reachability says %v", err)
		}
		return nil
	})
	if _, err := l.try("exec", "n1", "--", "murmur", "forget", "n2"); err == nil || !strings.Contains(err.Error(), "n2 is alive at") {
		t.Errorf("a live member was forgotten: %v", err)
	}
	l.within(20*time.Second, "n3 is known to be gone", func() error {
		_, err := l.try("exec", "n1", "--", "murmur", "forget", "n3")
		return err
	})
	for _, n := range []string{"n1", "n2"} {
		l.within(5*time.Second, "n3 is gone on "+n, l.registered(n, "n1", "n2"))
	}
	took = l.within(30*time.Second, "its pods are replaced", l.wantReady("n2", "web", 12, "n1", "n2"))
	t.Logf("pods replaced %.1f s after forget", took.Seconds())

	// It comes back all the same, gives up its state, and is a member without any.
	l.do("start", "n3")
	l.within(30*time.Second, "n3 says that it begins anew", func() error {
		if log := l.do("logs", "n3"); !strings.Contains(log, "this node was forgotten while it was away") {
			return errors.New("not yet")
		}
		return nil
	})
	for _, n := range []string{"n1", "n2", "n3"} {
		l.within(30*time.Second, "n3 is a member again as "+n+" sees it", l.registered(n, "n1", "n2", "n3"))
	}
	l.within(30*time.Second, "what n3 ran is not doubled", l.wantReady("n3", "web", 12))
	for _, n := range []string{"n1", "n2", "n3"} {
		l.kubectl(n, "get", "configmap", "heard")
		if _, err := l.tryKubectl(n, "get", "configmap", "unheard"); err == nil {
			t.Errorf("%s has what only the forgotten node had", n)
		}
	}
	l.murmur("n1", "reachability")
}

// A backup makes a node of an empty disk: one that takes the others' word for what has happened since, or one that goes on alone.
func TestBackupAndRestore(t *testing.T) {
	l := up(t, "e-backup", 2)
	file := filepath.Join(t.TempDir(), "backup")
	for _, name := range []string{"stays", "goes"} {
		l.kubectl("n1", "create", "configmap", name)
	}
	l.within(5*time.Second, "n2 has both", func() error { _, err := l.tryKubectl("n2", "get", "configmap", "stays", "goes"); return err })
	l.murmur("n1", "backup", file)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup is %v: %v", info.Mode(), err)
	}
	l.kubectl("n1", "delete", "configmap", "goes")
	l.kubectl("n1", "create", "configmap", "later")

	disk := func(node string) string { return filepath.Join("/var/lib/murmur-lab", l.name, node, "data") }
	restore := func(node string) {
		t.Helper()
		ip := get[corev1.Node](l, "n1", "node", node).Status.Addresses[0].Address
		l.do("kill", node)
		if err := os.RemoveAll(disk(node)); err != nil {
			t.Fatal(err)
		}
		args := []string{"exec", node, "--", "murmur", "restore", file, "--data-dir", disk(node), "--node-name", node, "--node-ip", ip}
		l.do(args...)
		if _, err := l.try(args...); err == nil || !strings.Contains(err.Error(), "is the disk of a node already") {
			t.Errorf("restored over a node: %v", err)
		}
		l.do("start", node)
	}
	has := func(node, want string) func() error {
		return func() error {
			out, err := l.tryKubectl(node, "get", "configmap", "-o", `jsonpath={range .items[?(@.metadata.name!="kube-root-ca.crt")]}{.metadata.name} {end}`)
			if err == nil && strings.TrimSpace(out) != want {
				err = fmt.Errorf("%s has %q, want %q", node, out, want)
			}
			return err
		}
	}
	restore("n2")
	l.within(30*time.Second, "n2 is a member again", l.registered("n1", "n1", "n2"))
	for _, n := range []string{"n1", "n2"} {
		l.within(10*time.Second, n+" has what the cluster has", has(n, "later stays"))
	}
	// All are lost.
	ip := get[corev1.Node](l, "n1", "node", "n1").Status.Addresses[0].Address
	l.do("kill", "n1")
	l.do("kill", "n2")
	for _, n := range []string{"n1", "n2"} {
		if err := os.RemoveAll(disk(n)); err != nil {
			t.Fatal(err)
		}
	}
	l.do("exec", "n1", "--", "murmur", "restore", file, "--data-dir", disk("n1"), "--node-ip", ip)
	l.do("start", "n1")
	// What has been deleted since, only another could know.
	l.within(20*time.Second, "n1 waits for another node, and says so", func() error {
		out, err := l.try("exec", "n1", "--", "murmur", "token", "create")
		if err == nil || !strings.Contains(out+err.Error(), "`murmur forget` each (n2)") {
			return fmt.Errorf("%q: %v", out, err)
		}
		return nil
	})
	l.murmur("n1", "forget", "n2")
	l.within(40*time.Second, "n1 goes on from the backup", has("n1", "goes stays"))
	l.kubectl("n1", "create", "configmap", "again")
	// The same, said at once.
	l.do("kill", "n1")
	if err := os.RemoveAll(disk("n1")); err != nil {
		t.Fatal(err)
	}
	l.do("exec", "n1", "--", "murmur", "restore", file, "--alone", "--data-dir", disk("n1"), "--node-ip", ip)
	l.do("start", "n1")
	l.within(40*time.Second, "n1 goes on from the backup", has("n1", "goes stays"))
	if out := l.kubectl("n1", "get", "nodes", "-o", "name"); strings.TrimSpace(out) != "node/n1" {
		t.Errorf("the nodes that are gone are registered: %q", out)
	}
}

// What two sides write to the same field is not lost silently.
func TestConflictsAreListed(t *testing.T) {
	l := up(t, "e-conf", 2)
	l.kubectl("n1", "create", "configmap", "shared", "--from-literal=key=before")
	l.within(5*time.Second, "n2 has it", func() error { _, err := l.tryKubectl("n2", "get", "configmap", "shared"); return err })
	l.do("partition", "n1", "n2")
	for _, n := range []string{"n1", "n2"} {
		l.kubectl(n, "patch", "configmap", "shared", "-p", fmt.Sprintf(`{"data":{"key":"by %s"}}`, n))
	}
	l.do("heal")
	l.within(20*time.Second, "the loss is listed", func() error {
		for _, n := range []string{"n1", "n2"} {
			type side struct{ By, Value string }
			var all []struct {
				Object, Field string
				Kept, Lost    struct {
					By    string
					Value json.RawMessage
				}
			}
			if err := json.Unmarshal([]byte(l.murmur(n, "conflicts", "-o", "json")), &all); err != nil {
				return err
			}
			for _, c := range all {
				kept, lost := side{c.Kept.By, string(c.Kept.Value)}, side{c.Lost.By, string(c.Lost.Value)}
				if c.Object == "configmaps/default/shared" && kept == (side{"n2", `"by n2"`}) && lost == (side{"n1", `"by n1"`}) {
					t.Logf("on %s:\n%s", n, l.murmur(n, "conflicts"))
					return nil
				}
			}
		}
		return errors.New("nobody lists it")
	})
}
