package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// older is a murmur program of an earlier commit: make older OLD=REF builds one and gives it.
var older = flag.String("older", "", "a murmur program of an earlier commit, which a node runs beside those of this one")

// olderPrograms is a directory with the older murmur, and beside it what it starts.
func olderPrograms(t *testing.T) string {
	t.Helper()
	if *older == "" {
		t.Skip("no older program is given: make older OLD=REF, make roll OLD=REF")
	}
	dir := t.TempDir()
	programs, err := os.ReadDir(filepath.Join(repo, "bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		from, to := filepath.Join(repo, "bin", p.Name()), filepath.Join(dir, p.Name())
		switch p.Name() {
		case "murmur", "murmur-lab": // these start what is beside them, and a link would lead back to the others
			if p.Name() == "murmur" {
				from = *older
			}
			b, err := os.ReadFile(from)
			if err == nil {
				err = os.WriteFile(to, b, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
		default:
			if err := os.Symlink(from, to); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// TestBesideAnOlderNode has one node go back to an older program on the disk that the newer wrote and closed, part from the others, meet them again and be
// brought up to date. What passes between the two and what is on the disk is read by both.
func TestBesideAnOlderNode(t *testing.T) {
	dir := olderPrograms(t)
	l := up(t, "e-older", 3)
	l.apply("n1", deployment("web", 6, "one"))
	l.within(time.Minute, "six pods are ready", l.wantReady("n2", "web", 6))
	// What pods take from Secrets is theirs, whichever version made them and whichever looks after them.
	value := marker(t)
	l.do("load", toolbox(t))
	l.apply("n1", "{apiVersion: v1, kind: Secret, metadata: {name: variable}, stringData: {password: "+value+"}}")
	readers := []string{}
	reader := func(name string) {
		t.Helper()
		readers = append(readers, name)
		l.apply("n1", `{apiVersion: v1, kind: Pod, metadata: {name: `+name+`}, spec: {nodeName: n2, terminationGracePeriodSeconds: 1, containers: [{name: c, image: "example.murmur.io/toolbox:1",
  env: [{name: P, valueFrom: {secretKeyRef: {name: variable, key: password}}}], command: [sh, -c, 'test ${#P} = `+fmt.Sprint(len(value))+` && { trap "exit 1" TERM; while sleep 0.2; do :; done; }'], args: [sh, $(P)]}]}}`)
		l.kubectl("n1", "wait", "pod/"+name, "--for=condition=Ready", "--timeout=60s")
	}
	read := func(when string) {
		t.Helper()
		for _, name := range readers {
			l.within(time.Minute, when+": a command in "+name+" sees what it should", func() error {
				env, err := l.tryKubectl("n2", "exec", name, "--", "env")
				if err == nil && !strings.Contains(env, "P="+value+"\n") {
					err = fmt.Errorf("it sees %s", env)
				}
				return err
			})
		}
	}
	// again ends the first process of each, so that the version that looks after the pod now starts another in the sandbox that there is.
	again := func(when string) {
		t.Helper()
		for _, name := range readers {
			restarts := get[corev1.Pod](l, "n2", "pod", name).Status.ContainerStatuses[0].RestartCount
			l.kubectl("n2", "exec", name, "--", "sh", "-c", "kill 1")
			l.within(time.Minute, when+": "+name+" runs again", func() error {
				c := get[corev1.Pod](l, "n2", "pod", name).Status.ContainerStatuses[0]
				if c.RestartCount == restarts || !c.Ready {
					return fmt.Errorf("%d restarts, state %v", c.RestartCount, c.State)
				}
				return nil
			})
		}
		read(when + ", started again")
	}
	reader("by-the-newer")
	before := l.containers("n2")

	l.do("stop", "n2")
	l.programs = dir
	l.do("start", "n2")
	l.programs = newest
	l.within(time.Minute, "all are ready as n2 sees it", l.allReady("n2", 3))
	read("under the older")
	reader("by-the-older")
	l.kubectl("n2", "scale", "deployment/web", "--replicas=9")
	l.within(time.Minute, "nine pods are ready", l.wantReady("n1", "web", 9, "n1", "n2", "n3"))
	l.within(time.Minute, "all have the same", l.sameDigests)

	// A machine joins meanwhile, by way of one of this version.
	if out := strings.TrimSpace(l.do("add")); out != "n4" {
		t.Fatalf("added %q", out)
	}
	for _, n := range []string{"n1", "n2", "n4"} {
		l.within(time.Minute, "all are ready as "+n+" sees it", l.allReady(n, 4))
	}
	l.within(time.Minute, "all have the same", l.sameDigests)

	l.do("partition", "n2", "n1,n3,n4")
	l.kubectl("n1", "label", "deployment/web", "of=the-newer")
	l.kubectl("n2", "annotate", "deployment/web", "of=the-older")
	for _, n := range []string{"n1", "n2"} {
		l.apply(n, `{apiVersion: v1, kind: ConfigMap, metadata: {name: on-`+n+`}, data: {a: "0"}}`)
	}
	l.do("heal")
	l.within(time.Minute, "all have the same after they met", l.sameDigests)
	for _, n := range []string{"n1", "n2", "n3", "n4"} {
		l.kubectl(n, "get", "configmap", "on-n1", "on-n2")
		if got := l.kubectl(n, "get", "deployment", "web", "-o=jsonpath={.metadata.labels.of} {.metadata.annotations.of}"); got != "the-newer the-older" {
			t.Errorf("on %s the Deployment has %q of both sides", n, got)
		}
	}

	l.do("kill", "n2", "--daemon")
	l.do("start", "n2")
	l.within(time.Minute, "all are ready as n2 sees it", l.allReady("n2", 4))
	l.within(time.Minute, "all have the same at the end", l.sameDigests)
	l.within(time.Minute, "nine pods are ready", l.wantReady("n2", "web", 9))
	after := l.containers("n2")
	for c := range before {
		if !after[c] {
			t.Errorf("container %s of n2 was started anew", c)
		}
	}
	read("under the newer")
	again("under the newer")
}

// TestRoll brings a fleet of an older program up to date, a node at a time, while clients write to all of it and ask a Service. No container is started
// anew, no request of the Service fails, nothing that was acknowledged is lost, and at the end all hold the same and go on.
func TestRoll(t *testing.T) {
	dir := olderPrograms(t)
	l := upWith(t, "e-fleet", 3, dir)
	nodes := []string{"n1", "n2", "n3"}
	l.apply("n1", deployment("web", 6, "one"))
	l.within(time.Minute, "six pods are ready", l.wantReady("n2", "web", 6))
	url := "http://" + l.vip("n1", "web")
	l.within(10*time.Second, "the service answers", func() error { return l.curl("n2", url) })

	asked := l.ask("n2", url)
	var written []func() []string
	for _, n := range nodes {
		written = append(written, l.write(n, "during-"+n))
	}
	l.programs = newest
	for _, n := range nodes {
		before := l.containers(n)
		l.do("stop", n)
		l.do("start", n)
		for _, at := range nodes {
			l.within(time.Minute, "with "+n+" up to date all are ready as "+at+" sees it", l.allReady(at, 3))
		}
		after := l.containers(n)
		for c := range before {
			if !after[c] {
				t.Errorf("container %s of %s was started anew", c, n)
			}
		}
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", l.pid(n))); err != nil || exe != filepath.Join(newest, "murmur") {
			t.Errorf("%s runs %s (%v)", n, exe, err)
		}
		// Each that is up to date decides beside those that are not.
		l.kubectl(n, "scale", "deployment/web", "--replicas=8")
		l.within(time.Minute, "the pods that "+n+" asks for are ready", l.wantReady(n, "web", 8))
		l.kubectl(n, "scale", "deployment/web", "--replicas=6")
		l.within(time.Minute, "the others have ended", func() error {
			pods, err := tryGet[corev1.PodList](l, n, "pods", "-l", "app=web")
			if err == nil && len(pods.Items) != 6 {
				err = fmt.Errorf("%d pods are left", len(pods.Items))
			}
			return err
		})
	}
	var acked []string
	for i, n := range nodes {
		names := written[i]()
		t.Logf("%d writes were acknowledged on %s", len(names), n)
		if len(names) < 50 {
			t.Errorf("only %d writes were acknowledged on %s", len(names), n)
		}
		acked = append(acked, names...)
	}
	if r := asked(); r.Answered < 50 || len(r.Failed) > 0 {
		t.Errorf("%d requests answered, failed: %v", r.Answered, r.Failed)
	} else {
		t.Logf("%d requests answered", r.Answered)
	}
	l.within(time.Minute, "all have the same", l.sameDigests)
	for _, n := range nodes {
		if lost := l.lost(n, acked); len(lost) > 0 {
			t.Errorf("%s has not %d of %d acknowledged writes: %v", n, len(lost), len(acked), lost[:min(5, len(lost))])
		}
	}
}
