package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// certificate is one line of `murmur certificate check`.
type certificate struct{ Name, Detail, Problem string }

// certificates lists those of a node whose names begin with a word.
func (l *lab) certificates(node, begin string) (out []certificate, err error) {
	text, err := l.try("exec", node, "--", "murmur", "certificate", "check", "-o", "json")
	if err != nil {
		return nil, err
	}
	var all []certificate
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, err
	}
	for _, c := range all {
		if strings.HasPrefix(c.Name, begin) {
			out = append(out, c)
		}
	}
	return out, nil
}

// only is nil once every one of some nodes has exactly one key of a kind, and all the same one, and it is not the old.
func (l *lab) only(begin, old string, nodes ...string) func() error {
	return func() error {
		name := ""
		for _, n := range nodes {
			all, err := l.certificates(n, begin)
			switch {
			case err != nil:
				return err
			case len(all) != 1 || all[0].Name == old || name != "" && all[0].Name != name:
				return fmt.Errorf("%s has %v, others have %q, before it was %q", n, all, name, old)
			}
			name = all[0].Name
		}
		return nil
	}
}

// traffic makes requests to the API of some nodes until it is stopped: each reads the kubeconfig anew, as kubectl does, and writes.
func (l *lab) traffic(nodes ...string) (stop func() (made int, failed []string)) {
	var done atomic.Bool
	var made atomic.Int64
	var mu sync.Mutex
	var failed []string
	var all sync.WaitGroup
	for _, n := range nodes {
		all.Go(func() {
			for i := 0; !done.Load(); i++ {
				if _, err := l.tryKubectl(n, "create", "configmap", fmt.Sprintf("of-%s-%d", n, i)); err != nil {
					mu.Lock()
					failed = append(failed, fmt.Sprintf("%s at %s: %v", n, time.Now().Format(time.TimeOnly), err))
					mu.Unlock()
				}
				made.Add(1)
			}
		})
	}
	return func() (int, []string) {
		done.Store(true)
		all.Wait()
		return int(made.Load()), failed
	}
}

// All keys of a running cluster are replaced while it is used, and a member that was away for all of it comes back by itself.
func TestRotateKeysUnderTraffic(t *testing.T) {
	l := up(t, "e-rotate", 3)
	l.apply("n1", deployment("web", 3, "1"))
	l.within(time.Minute, "three pods", l.wantReady("n1", "web", 3))
	first := func(begin string) string {
		t.Helper()
		all, err := l.certificates("n1", begin)
		if err != nil || len(all) == 0 {
			t.Fatal(err)
		}
		return all[0].Name
	}
	ca, gossip := first("CA"), first("gossip")
	token := strings.TrimSpace(l.kubectl("n2", "create", "token", "default", "--duration=1h"))
	join := strings.TrimSpace(l.murmur("n2", "token", "create", "--token-only"))
	whoami := func(node string) error {
		_, err := l.try("exec", node, "--", "curl", "-sSfk", "--max-time", "5", "-H", "Authorization: Bearer "+token, "https://127.0.0.1:6443/api")
		return err
	}
	before := l.containers("n1")

	l.do("stop", "n3")
	stop := l.traffic("n1", "n2")
	for _, what := range []string{"ca", "gossip", "service-account"} {
		l.murmur("n2", "certificate", "rotate", what, "--overlap=40s")
	}
	l.within(20*time.Second, "all that run believe the new CA, and the old one for the one that is away", func() error {
		for _, n := range []string{"n1", "n2"} {
			cas, err := l.certificates(n, "CA")
			if err != nil || len(cas) != 2 || cas[0].Name == ca {
				return fmt.Errorf("%s: %v %v", n, cas, err)
			}
		}
		return nil
	})
	if err := whoami("n1"); err != nil {
		t.Errorf("in the overlap a token of before is refused: %v", err)
	}
	time.Sleep(45 * time.Second) // the overlap
	l.do("start", "n3")
	l.within(time.Minute, "the one that was away is a member", l.registered("n3", "n1", "n2", "n3"))
	l.within(time.Minute, "the new CA is the only one", l.only("CA", ca, "n1", "n2", "n3"))
	l.within(time.Minute, "the new gossip key is the only one", l.only("gossip", gossip, "n1", "n2", "n3"))
	made, failed := stop()
	t.Logf("%d requests, %d failed", made, len(failed))
	for _, f := range failed {
		t.Error(f)
	}
	if err := whoami("n1"); err == nil {
		t.Error("a token is believed whose key is gone")
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		l.kubectl(n, "get", "configmap", "of-n1-0", "of-n2-0")
		l.murmur(n, "reachability")
	}
	for c := range before {
		if !l.containers("n1")[c] {
			t.Errorf("container %s was started anew", c)
		}
	}
	// A join token of before says what is the matter.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(join), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.try("exec", "n1", "--", "murmur", "join", "10.77.0.1", "--token-file", filepath.Join(dir, "token"), "--rejoin"); err == nil ||
		!strings.Contains(err.Error(), "was made before the cluster's CA was rotated") {
		t.Errorf("a join token of before: %v", err)
	}
}

// What was stolen is shut out by one command, on both sides of a cut: first one that was no issuer, then one that was.
func TestStolenMember(t *testing.T) {
	l := up(t, "e-stolen", 3)
	if out := l.do("add", "--no-issuer"); strings.TrimSpace(out) != "n4" {
		t.Fatalf("added %q", out)
	}
	disk := func(node string) string { return filepath.Join("/var/lib/murmur-lab", l.name, node) }
	if b, err := os.ReadFile(filepath.Join(disk("n4"), "data", "identity.json")); err != nil || strings.Contains(string(b), `"caKey"`) {
		t.Errorf("the disk of one that is no issuer holds the CA's key: %v", err)
	}
	if _, err := l.try("exec", "n4", "--", "murmur", "forget", "n3", "--revoke"); err == nil || !strings.Contains(err.Error(), "is no issuer") {
		t.Errorf("one that is no issuer revokes: %v", err)
	}
	if out, err := l.tryKubectl("n4", "get", "secrets", "-A"); err == nil {
		t.Errorf("the kubeconfig of one that is no issuer reads Secrets: %s", out)
	}
	// as asks the API of a node with the credentials that another has on its disk.
	as := func(node, thief string) error {
		_, err := l.try("exec", node, "--", "kubectl", "--kubeconfig", filepath.Join(disk(thief), "etc", "murmur.yaml"), "get", "node", thief, "--request-timeout=5s", "--insecure-skip-tls-verify",
			"--certificate-authority=")
		return err
	}
	sees := func(node, other string) func() error {
		return func() error {
			out, err := l.try("exec", node, "--", "murmur", "debug", "gossip")
			if err == nil && strings.Contains(out, `"Name": "`+other+`"`) {
				var all struct{ Peers []struct{ Name string } }
				if err := json.Unmarshal([]byte(out), &all); err != nil {
					return err
				}
				for _, p := range all.Peers {
					if p.Name == other {
						return errors.New(node + " has a connection to " + other)
					}
				}
			}
			return err
		}
	}
	gossip, err := l.certificates("n1", "gossip")
	if err != nil {
		t.Fatal(err)
	}
	if err := as("n1", "n4"); err != nil {
		t.Fatalf("before it is revoked: %v", err)
	}

	l.do("partition", "n1,n2,n4", "n3")
	out := l.murmur("n1", "forget", "n4", "--revoke")
	t.Logf("%s", out)
	for _, n := range []string{"n1", "n2"} {
		l.within(5*time.Second, "n4 is cut off from "+n, sees(n, "n4"))
		l.within(5*time.Second, "the API of "+n+" refuses it", func() error {
			if err := as(n, "n4"); err == nil || !strings.Contains(err.Error(), "Unauthorized") && !strings.Contains(err.Error(), "logged in") {
				return fmt.Errorf("answered: %v", err)
			}
			return nil
		})
	}
	// Longer than the stolen gossip key is read on this side: the other has to learn the new one past it.
	l.within(2*time.Minute, "the stolen gossip key is gone", l.only("gossip", gossip[0].Name, "n1", "n2"))
	l.do("heal")
	l.within(time.Minute, "both sides are one", func() error {
		return errors.Join(l.registered("n1", "n1", "n2", "n3")(), l.registered("n3", "n1", "n2", "n3")())
	})
	l.within(10*time.Second, "n4 is cut off from n3", sees("n3", "n4"))
	if err := as("n3", "n4"); err == nil {
		t.Error("the API of n3 believes it")
	}
	l.do("kill", "n4")
	l.do("start", "n4")
	time.Sleep(5 * time.Second)
	for _, n := range []string{"n1", "n2", "n3"} {
		if err := errors.Join(sees(n, "n4")(), l.registered(n, "n1", "n2", "n3")()); err != nil {
			t.Errorf("after it was started again: %v", err)
		}
	}
	l.within(time.Minute, "the gossip key is one", l.only("gossip", gossip[0].Name, "n1", "n2", "n3"))

	// Now one that holds the CA's key.
	cas, err := l.certificates("n1", "CA")
	if err != nil {
		t.Fatal(err)
	}
	out = l.murmur("n1", "forget", "n3", "--revoke")
	if !strings.Contains(out, "knew the CA's key: the CA is replaced") {
		t.Errorf("revoke of an issuer says %q", out)
	}
	for _, n := range []string{"n1", "n2"} {
		l.within(10*time.Second, "n3 is cut off from "+n, sees(n, "n3"))
		l.within(10*time.Second, "the API of "+n+" refuses its administrator", func() error {
			if err := as(n, "n3"); err == nil {
				return errors.New("answered")
			}
			return nil
		})
		l.within(10*time.Second, n+" serves its own", l.registered(n, "n1", "n2"))
	}
	l.within(2*time.Minute, "the stolen CA is gone", l.only("CA", cas[0].Name, "n1", "n2"))
	l.kubectl("n1", "create", "configmap", "after")
	l.within(10*time.Second, "n2 has it", func() error { _, err := l.tryKubectl("n2", "get", "configmap", "after"); return err })
	l.within(30*time.Second, "nobody waits for who was revoked", func() error { _, err := l.try("exec", "n2", "--", "murmur", "reachability"); return err })
}

// An issuer that is shut out on one side of a cut, in the midst of a rotation of the CA, is a member of the other until they meet. Then both are rid of it, with
// whatever the keys that it has can make, and of what it has open. Of those that it leaves none is.
func TestStolenIssuerOnTheOtherSide(t *testing.T) {
	l := up(t, "e-issuer", 4)
	loot := filepath.Join(t.TempDir(), "murmur.yaml") // the thief's copy of what makes it an administrator
	disk := func(node string) string { return filepath.Join("/var/lib/murmur-lab", l.name, node) }
	as := func(node string, args ...string) []string {
		return append([]string{"exec", node, "--", "kubectl", "--kubeconfig", loot, "--insecure-skip-tls-verify", "--certificate-authority="}, args...)
	}
	refused := func(node string) func() error {
		return func() error {
			if out, err := l.try(as(node, "get", "secrets", "-A", "--request-timeout=5s")...); err == nil {
				return fmt.Errorf("the API of %s lists Secrets for it: %.100s", node, out)
			} else if !strings.Contains(err.Error(), "Unauthorized") && !strings.Contains(err.Error(), "logged in") {
				return err
			}
			return nil
		}
	}
	first, err := l.certificates("n1", "CA")
	if err != nil {
		t.Fatal(err)
	}
	// The rotation would go on for an hour.
	l.murmur("n2", "certificate", "rotate", "ca", "--overlap=1h")
	l.within(20*time.Second, "the one that is to be stolen has the new key too", func() error {
		cas, err := l.certificates("n4", "CA")
		if err == nil && (len(cas) != 2 || cas[0].Name == first[0].Name) {
			err = fmt.Errorf("n4 has %v", cas)
		}
		return err
	})
	b, err := os.ReadFile(filepath.Join(disk("n4"), "data", "identity.json"))
	if err != nil || !strings.Contains(string(b), `"caKey"`) {
		t.Fatalf("n4 is no issuer: %v", err)
	}
	second, err := l.certificates("n4", "CA")
	if err != nil {
		t.Fatal(err)
	}
	if b, err = os.ReadFile(filepath.Join(disk("n4"), "etc", "murmur.yaml")); err == nil {
		err = os.WriteFile(loot, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}

	l.do("partition", "n1,n2", "n3,n4")
	t.Logf("%s", l.murmur("n1", "forget", "n4", "--revoke"))
	for _, n := range []string{"n1", "n2"} {
		l.within(10*time.Second, n+" refuses it", refused(n))
	}
	// On its own side it is what it was, and opens what would last.
	if out, err := l.try(as("n3", "create", "configmap", "by-the-thief")...); err != nil {
		t.Fatalf("on the other side it is refused before the sides meet: %s %v", out, err)
	}
	watch := l.command(as("n3", "get", "configmaps", "-A", "--watch")...)
	ended := make(chan error, 1)
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- watch.Wait() }()
	defer func() { _ = watch.Process.Kill() }()
	time.Sleep(3 * time.Second)
	select {
	case err := <-ended:
		t.Fatalf("a watch on the other side ended before the sides met: %v", err)
	default:
	}

	l.do("heal")
	l.within(time.Minute, "both sides are one", func() error {
		return errors.Join(l.registered("n1", "n1", "n2", "n3")(), l.registered("n3", "n1", "n2", "n3")())
	})
	for _, n := range []string{"n1", "n2", "n3"} {
		l.within(10*time.Second, n+" refuses it", refused(n))
	}
	select {
	case <-ended:
	case <-time.After(15 * time.Second):
		t.Error("what it had open on the other side goes on")
	}
	// One CA is left, which is neither that of before nor the one that it knew, long before the rotation would have ended.
	l.within(3*time.Minute, "a CA that it does not know is the only one", func() error {
		return errors.Join(l.only("CA", first[0].Name, "n1", "n2", "n3")(), l.only("CA", second[0].Name, "n1", "n2", "n3")())
	})
	l.do("kill", "n4")
	l.do("start", "n4")
	time.Sleep(10 * time.Second)
	for _, n := range []string{"n1", "n2", "n3"} {
		if err := errors.Join(l.registered(n, "n1", "n2", "n3")(), refused(n)()); err != nil {
			t.Errorf("after it was started again: %v", err)
		}
	}
	l.kubectl("n3", "create", "configmap", "after")
	l.within(10*time.Second, "n1 has it", func() error { _, err := l.tryKubectl("n1", "get", "configmap", "after"); return err })
	l.within(3*time.Minute, "nobody waits for who was revoked, under whatever ID it comes", func() error { _, err := l.try("exec", "n2", "--", "murmur", "reachability"); return err })
	// Revoked again, which is what one does who is not sure, it costs the cluster no other CA.
	cas, err := l.certificates("n1", "CA")
	if err != nil {
		t.Fatal(err)
	}
	if out := l.murmur("n3", "forget", "n4", "--revoke"); strings.Contains(out, "CA is replaced") {
		t.Errorf("revoked again: %s", out)
	}
	if again, err := l.certificates("n3", "CA"); err != nil || len(again) != 1 || again[0].Name != cas[0].Name {
		t.Errorf("revoked again the CA is %v, was %v, %v", again, cas, err)
	}
}

// A member that was away for a whole rotation of the CA, and forgotten so that nobody waited for it, comes back by the line that the README has.
func TestRejoinAfterARotation(t *testing.T) {
	l := up(t, "e-rejoin", 3)
	first, err := l.certificates("n1", "CA")
	if err != nil {
		t.Fatal(err)
	}
	l.do("stop", "n3")
	l.within(time.Minute, "n3 can be forgotten", func() error { _, err := l.try("exec", "n1", "--", "murmur", "forget", "n3"); return err })
	l.murmur("n1", "certificate", "rotate", "ca", "--overlap=30s")
	l.within(2*time.Minute, "the CA that n3 knows is gone", l.only("CA", first[0].Name, "n1", "n2"))
	l.kubectl("n1", "create", "configmap", "meanwhile")

	start := l.command("start", "n3")
	if err := start.Start(); err != nil { // it does not become ready by itself
		t.Fatal(err)
	}
	defer func() { _ = start.Process.Kill(); _ = start.Wait() }()
	l.within(time.Minute, "its daemon answers", func() error { _, err := l.try("exec", "n3", "--", "murmur", "status"); return err })
	time.Sleep(5 * time.Second)
	if err := l.registered("n1", "n1", "n2")(); err != nil {
		t.Errorf("it came back with a certificate of a CA that nobody believes: %v", err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(strings.TrimSpace(l.murmur("n1", "token", "create", "--token-only"))), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", l.murmur("n3", "join", "10.77.0.1", "--token-file", file, "--rejoin"))
	l.within(2*time.Minute, "all are members", func() error {
		return errors.Join(l.registered("n1", "n1", "n2", "n3")(), l.registered("n3", "n1", "n2", "n3")())
	})
	l.within(30*time.Second, "it believes the new CA only", l.only("CA", first[0].Name, "n1", "n2", "n3"))
	l.within(30*time.Second, "it has what was made meanwhile", func() error { _, err := l.tryKubectl("n3", "get", "configmap", "meanwhile"); return err })
	l.kubectl("n3", "create", "configmap", "back")
	l.within(30*time.Second, "the others have what it makes", func() error { _, err := l.tryKubectl("n2", "get", "configmap", "back"); return err })
	// It is the issuer that it was.
	l.within(time.Minute, "it admits others", func() error {
		_, err := l.try("exec", "n3", "--", "murmur", "token", "create", "--token-only")
		return err
	})
}
