package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"murmur/sched"
)

// deployment is a manifest of the example's program under another name.
func deployment(name string, replicas int, version string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata:
      labels: {app: %[1]s}
      annotations: {partition.murmur.io/replace-after: %[4]s}
    spec:
      containers:
      - name: hello
        image: example.murmur.io/hello:1
        env: [{name: VERSION, value: "%[3]s"}]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
        resources: {requests: {cpu: 10m, memory: 16Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{name: http, port: 80, targetPort: http}]
`, name, replicas, version, replaceAfter)
}

// replaceAfter is how long a side waits before it covers what it lost; the side that lost most of the nodes waits four
// times as long. Less than the default, to test faster.
const replaceAfter = "6s"

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

// pods lists the pods of an app that are not going, by name.
func (l *lab) pods(node, app string) (map[string]*corev1.Pod, error) {
	list, err := tryGet[corev1.PodList](l, node, "pods", "-l", "app="+app)
	if err != nil {
		return nil, err
	}
	out := map[string]*corev1.Pod{}
	for i := range list.Items {
		if p := &list.Items[i]; p.DeletionTimestamp == nil {
			out[p.Name] = p
		}
	}
	return out, nil
}

// wantReady is nil once exactly n pods of an app are there and all are ready, on the given nodes if any are named.
func (l *lab) wantReady(node, app string, n int, on ...string) func() error {
	return func() error {
		pods, err := l.pods(node, app)
		if err != nil {
			return err
		}
		count := 0
		for _, p := range pods {
			if ready(p) && (len(on) == 0 || slices.Contains(on, p.Spec.NodeName)) {
				count++
			}
		}
		if count != n || len(on) == 0 && len(pods) != n {
			return fmt.Errorf("%d pods of %s, %d ready on %v, want %d", len(pods), app, count, on, n)
		}
		return nil
	}
}

func (l *lab) vip(node, service string) string {
	l.t.Helper()
	return get[corev1.Service](l, node, "service", service).Spec.ClusterIP
}

func (l *lab) curl(node, url string) error {
	_, err := l.try("exec", node, "--", "curl", "-sS", "--fail", "--max-time", "3", url)
	return err
}

func TestExample(t *testing.T) {
	l := up(t, "e-example", 3)
	// Who looks on n3 does so already: how long a kubectl takes to start is not what is asked.
	look := l.command("exec", "n3", "--", "kubectl", "get", "deployments", "--watch", "-o", "name")
	out, err := look.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := look.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = look.Process.Kill(); _ = look.Wait() }()
	first := make(chan time.Time, 1)
	go func() {
		if line, _ := bufio.NewReader(out).ReadString('\n'); line == "deployment.apps/hello\n" {
			first <- time.Now()
		}
	}()
	time.Sleep(3 * time.Second)
	l.do("exec", "n1", "--", "kubectl", "apply", "-f", filepath.Join(repo, "examples/hello/hello.yaml"))
	applied := time.Now()
	var seen time.Duration
	select {
	case at := <-first:
		seen = at.Sub(applied)
	case <-time.After(5 * time.Second):
		t.Fatal("not within 5 s: the Deployment is seen on n3")
	}
	took := l.within(time.Minute, "six pods are ready", l.wantReady("n2", "hello", 6))
	t.Logf("seen on n3 after %s, six pods ready after %s", seen, took)
	if seen > time.Second {
		t.Errorf("applied on n1, seen on n3 only after %s", seen)
	}
	pods, err := l.pods("n1", "hello")
	if err != nil {
		t.Fatal(err)
	}
	on := map[string]int{}
	for _, p := range pods {
		on[p.Spec.NodeName]++
	}
	if want := map[string]int{"n1": 2, "n2": 2, "n3": 2}; !maps.Equal(on, want) {
		t.Errorf("pods are spread %v, want %v", on, want)
	}
	vip := l.vip("n1", "hello")
	for _, n := range []string{"n1", "n2", "n3"} {
		l.within(10*time.Second, "the service answers on "+n, func() error {
			for _, url := range []string{"http://" + vip, "http://127.0.0.1:30080"} {
				if err := l.curl(n, url); err != nil {
					return err
				}
			}
			out, err := l.try("exec", n, "--", "busybox", "nslookup", "hello.default.svc.cluster.local", "10.43.0.10")
			if err == nil && !strings.Contains(out, vip) {
				err = fmt.Errorf("the name resolves to something else than %s: %s", vip, out)
			}
			return err
		})
	}
	// Logs and exec of a pod asked on another node than its own.
	for name, p := range pods {
		asked := "n1"
		if p.Spec.NodeName == "n1" {
			asked = "n2"
		}
		if out := l.kubectl(asked, "logs", name); !strings.Contains(out, "listening") {
			t.Errorf("log of %s asked on %s: %q", name, asked, out)
		}
		break
	}
}

func TestRollingUpdateLosesNoRequest(t *testing.T) {
	l := up(t, "e-roll", 3)
	l.apply("n1", deployment("web", 4, "one"))
	l.kubectl("n1", "rollout", "status", "deployment/web", "--timeout=60s")
	url := "http://" + l.vip("n1", "web")
	l.within(10*time.Second, "the service answers", func() error { return l.curl("n2", url) })
	stop := l.ask("n2", url)
	l.kubectl("n1", "set", "env", "deployment/web", "VERSION=two")
	l.kubectl("n1", "rollout", "status", "deployment/web", "--timeout=120s")
	l.kubectl("n3", "rollout", "undo", "deployment/web")
	l.kubectl("n3", "rollout", "status", "deployment/web", "--timeout=120s")
	time.Sleep(2 * time.Second)
	r := stop()
	t.Logf("%d requests answered", r.Answered)
	if r.Answered < 50 || len(r.Failed) > 0 {
		t.Errorf("%d requests answered, failed: %v", r.Answered, r.Failed)
	}
	d := get[appsv1.Deployment](l, "n2", "deployment", "web")
	if v := d.Spec.Template.Spec.Containers[0].Env[0].Value; v != "one" {
		t.Errorf("after the undo VERSION is %q, want one", v)
	}
	if out := l.kubectl("n1", "rollout", "history", "deployment/web"); !strings.Contains(out, "3") {
		t.Errorf("history after two changes:\n%s", out)
	}
}

func TestNodeLoss(t *testing.T) {
	l := up(t, "e-loss", 3)
	l.apply("n1", deployment("web", 6, "one"))
	l.within(time.Minute, "six pods are ready", l.wantReady("n1", "web", 6))
	url := "http://" + l.vip("n1", "web")
	stop := l.ask("n1", url)
	l.do("kill", "n2")
	killed := time.Now()
	took := l.within(45*time.Second, "six pods are ready without n2", l.wantReady("n1", "web", 6, "n1", "n3"))
	t.Logf("replaced after %s", took)
	if took > 30*time.Second {
		t.Errorf("replaced only after %s", took)
	}
	time.Sleep(max(0, 12*time.Second-time.Since(killed)))
	r := stop()
	for _, f := range r.Failed {
		if f.At.After(killed.Add(10 * time.Second)) {
			t.Errorf("a request failed %s after the crash: %s", f.At.Sub(killed), f.Err)
		}
	}
	t.Logf("%d requests answered, %d failed in the first 10 s", r.Answered, len(r.Failed))
	l.do("start", "n2")
	l.within(time.Minute, "all nodes are Ready", l.allReady("n1", 3))
	l.within(time.Minute, "six pods are ready and no more are there", l.wantReady("n1", "web", 6))
	l.within(20*time.Second, "what runs on n2 is what is bound to it", func() error {
		pods, err := l.pods("n2", "web")
		if err != nil {
			return err
		}
		bound := 0
		for _, p := range pods {
			if p.Spec.NodeName == "n2" {
				bound++
			}
		}
		if running := l.containers("n2"); len(running) != bound {
			return fmt.Errorf("%d containers run on n2, %d pods are bound to it", len(running), bound)
		}
		return nil
	})
}

func (l *lab) allReady(node string, n int) func() error {
	return func() error {
		nodes, err := tryGet[corev1.NodeList](l, node, "nodes")
		if err != nil {
			return err
		}
		count := 0
		for _, o := range nodes.Items {
			for _, c := range o.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
					count++
				}
			}
		}
		if count != n {
			return fmt.Errorf("%d nodes are Ready, want %d", count, n)
		}
		return nil
	}
}

// containers lists the process ids of the example's programs that run on a node.
func (l *lab) containers(node string) map[string]bool {
	l.t.Helper()
	pids := map[string]bool{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, d := range dirs {
		cgroup, err := os.ReadFile(filepath.Join(d, "cgroup"))
		if err != nil || !strings.Contains(string(cgroup), "/murmur-lab-"+l.name+"-"+node+"/") {
			continue
		}
		if cmd, _ := os.ReadFile(filepath.Join(d, "cmdline")); strings.HasPrefix(string(cmd), "/app\x00") {
			pids[filepath.Base(d)] = true
		}
	}
	return pids
}

func TestTwoNodesOneDies(t *testing.T) {
	l := up(t, "e-two", 2)
	l.apply("n1", deployment("web", 4, "one"))
	l.within(time.Minute, "four pods are ready", l.wantReady("n1", "web", 4))
	l.do("kill", "n1")
	l.kubectl("n2", "create", "configmap", "alone", "--from-literal=written=yes")
	took := l.within(60*time.Second, "n2 replaces the pods", l.wantReady("n2", "web", 4, "n2"))
	t.Logf("replaced after %s", took)

	// The isolated node is crashed and started: its pods run again without any peer.
	l.do("kill", "n2")
	l.do("start", "n2")
	l.within(time.Minute, "the pods run again without any peer", l.wantReady("n2", "web", 4, "n2"))
	l.kubectl("n2", "get", "configmap", "alone")
	l.do("start", "n1")
	l.within(time.Minute, "both nodes are Ready", l.allReady("n1", 2))
	l.within(time.Minute, "four pods are ready and no more are there", l.wantReady("n1", "web", 4))
	l.kubectl("n1", "get", "configmap", "alone")
}

// watchReady notes the least number of ready pods of an app that a node sees, until stopped. It looks at what one watch has brought: a
// client for each look would take from the nodes the processor that they need meanwhile.
func (l *lab) watchReady(node, app string) (stop func() int) {
	l.t.Helper()
	before, err := l.pods(node, app)
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := l.command("exec", node, "--", "kubectl", "get", "pods", "-l", "app="+app, "--watch", "--output-watch-events", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	type change struct {
		Type   string
		Object corev1.Pod
	}
	changes := make(chan change)
	go func() {
		defer close(changes)
		for in := json.NewDecoder(out); ; {
			var c change
			if in.Decode(&c) != nil {
				return
			}
			changes <- c
		}
	}()
	end, done := make(chan struct{}), make(chan int)
	go func() {
		pods, least := map[string]bool{}, 1<<20
		look := time.NewTicker(200 * time.Millisecond)
		defer look.Stop()
		for {
			select {
			case c, ok := <-changes:
				if !ok {
					changes, least = nil, -1 // a watch that has ended shows nothing
					continue
				}
				pods[c.Object.Name] = ready(&c.Object) && c.Type != "DELETED"
			case <-look.C:
				if len(pods) < len(before) {
					continue // the list that the watch begins with
				}
				count := 0
				for _, ready := range pods {
					if ready {
						count++
					}
				}
				least = min(least, count)
			case <-end:
				done <- least
				return
			}
		}
	}()
	return func() int {
		close(end)
		least := <-done
		_ = cmd.Process.Kill()
		go func() {
			for range changes {
			}
		}()
		_ = cmd.Wait()
		return least
	}
}

func TestPartitionAndHeal(t *testing.T) {
	l := up(t, "e-part", 3)
	l.apply("n1", deployment("web", 6, "one"))
	l.apply("n1", `{apiVersion: v1, kind: ConfigMap, metadata: {name: shared}, data: {a: "0", b: "0"}}`)
	l.within(time.Minute, "six pods are ready", l.wantReady("n1", "web", 6))
	before, err := l.pods("n1", "web")
	if err != nil {
		t.Fatal(err)
	}
	l.do("partition", "n1", "n2,n3")
	cut := time.Now()
	for _, side := range []struct{ node, field, name string }{{"n1", "a", "left"}, {"n2", "b", "right"}} {
		l.kubectl(side.node, "patch", "configmap", "shared", "--type=merge", "-p", fmt.Sprintf(`{"data":{%q:"1"}}`, side.field))
		l.apply(side.node, deployment(side.name, 2, "one"))
	}
	l.kubectl("n1", "scale", "deployment/web", "--replicas=4")
	time.Sleep(50 * time.Millisecond)
	l.kubectl("n2", "scale", "deployment/web", "--replicas=8")
	l.within(time.Minute, "n1 has its four", func() error { return atLeast(l, "n1", "web", 4, "n1") })
	l.within(time.Minute, "n2 and n3 have their eight", func() error { return atLeast(l, "n2", "web", 8, "n2", "n3") })
	l.within(time.Minute, "left runs on n1", l.wantReady("n1", "left", 2, "n1"))
	l.within(time.Minute, "right runs on n2 and n3", l.wantReady("n2", "right", 2, "n2", "n3"))
	t.Logf("both sides complete %s after the cut", time.Since(cut))

	stopN1, stopN2 := l.watchReady("n1", "web"), l.watchReady("n2", "web")
	l.do("heal")
	took := l.within(60*time.Second, "all nodes give the same lists, with the replicas", func() error {
		if err := l.sameLists(); err != nil {
			return err
		}
		for _, app := range []struct {
			name string
			n    int
		}{{"web", 8}, {"left", 2}, {"right", 2}} {
			if err := l.wantReady("n3", app.name, app.n)(); err != nil {
				return err
			}
		}
		return nil
	})
	t.Logf("healed after %s", took)
	if took > 10*time.Second {
		t.Errorf("healed only after %s, want 10 s", took)
	}
	if a, b := stopN1(), stopN2(); a < 4 || b < 8 {
		t.Errorf("ready pods fell to %d as n1 sees it and %d as n2 sees it, want 4 and 8", a, b)
	}
	shared := get[corev1.ConfigMap](l, "n1", "configmap", "shared")
	if shared.Data["a"] != "1" || shared.Data["b"] != "1" {
		t.Errorf("after the heal the ConfigMap is %v, want both edits", shared.Data)
	}
	after, err := l.pods("n1", "web")
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for name, p := range after {
		if old, ok := before[name]; ok {
			kept++
			if old.Status.ContainerStatuses[0].ContainerID != p.Status.ContainerStatuses[0].ContainerID || p.Status.ContainerStatuses[0].RestartCount > 0 {
				t.Errorf("%s was restarted", name)
			}
		}
	}
	if kept != len(before) {
		t.Errorf("%d of the %d pods that ran all along were kept", kept, len(before))
	}
}

func atLeast(l *lab, node, app string, n int, on ...string) error {
	pods, err := l.pods(node, app)
	if err != nil {
		return err
	}
	count := 0
	for _, p := range pods {
		if ready(p) && slices.Contains(on, p.Spec.NodeName) {
			count++
		}
	}
	if count < n {
		return fmt.Errorf("%d pods of %s are ready on %v, want %d", count, app, on, n)
	}
	return nil
}

// sameLists is nil if all nodes list the same objects with the same content.
func (l *lab) sameLists() error {
	nodes := []string{"n1", "n2", "n3"}
	lists, errs := make([]string, len(nodes)), make([]error, len(nodes))
	var wait sync.WaitGroup
	for i, n := range nodes {
		wait.Go(func() {
			lists[i], errs[i] = l.tryKubectl(n, "get", "deployments,replicasets,pods,services,configmaps,endpointslices", "-A", "-o",
				`jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name} {.metadata.uid} {.spec.replicas} {.spec.nodeName} {.status} {.data}{"\n"}{end}`)
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i, n := range nodes {
		if lists[i] != lists[0] {
			return fmt.Errorf("%s lists something else than n1:\n%s\n--- n1:\n%s", n, lists[i], lists[0])
		}
	}
	return nil
}

// One link of three is cut: both ends are alive to everybody, since the third vouches for them.
func TestCutLink(t *testing.T) {
	l := up(t, "e-link", 3)
	l.apply("n1", deployment("web", 6, "one"))
	l.within(time.Minute, "six pods are ready", l.wantReady("n1", "web", 6))
	before, err := l.pods("n2", "web")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.vip("n1", "web")
	l.do("partition", "n1", "n3")
	took := l.within(20*time.Second, "the service leaves out on n1 what n1 cannot reach", func() error {
		for range 20 {
			if err := l.curl("n1", url); err != nil {
				return err
			}
		}
		return nil
	})
	t.Logf("no request from n1 fails after %s", took)
	l.kubectl("n1", "create", "configmap", "around")
	took = l.within(20*time.Second, "writes find the way around", func() error {
		_, err := l.tryKubectl("n3", "get", "configmap", "around")
		return err
	})
	t.Logf("a write on n1 is seen on n3 after %s", took)
	l.do("heal")
	l.within(20*time.Second, "all nodes are Ready", l.allReady("n1", 3))
	after, err := l.pods("n2", "web")
	if err != nil {
		t.Fatal(err)
	}
	for name := range before {
		if after[name] == nil {
			t.Errorf("%s was given up for a cut link", name)
		}
	}
}

func TestDaemonKilledDuringWrites(t *testing.T) {
	l := up(t, "e-kill", 1)
	l.apply("n1", deployment("web", 3, "one"))
	l.within(time.Minute, "three pods are ready", l.wantReady("n1", "web", 3))
	running := l.containers("n1")
	if len(running) != 3 {
		t.Fatalf("%d containers run, want 3", len(running))
	}
	var acked []string
	for round := range 20 {
		var mu sync.Mutex
		var wg sync.WaitGroup
		end := make(chan struct{})
		for w := range 3 {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-end:
						return
					default:
					}
					name := fmt.Sprintf("w%d-%d-%d", round, w, i)
					if _, err := l.tryKubectl("n1", "create", "configmap", name, "--from-literal=k="+name); err == nil {
						mu.Lock()
						acked = append(acked, name)
						mu.Unlock()
					}
				}
			})
		}
		time.Sleep(400 * time.Millisecond)
		l.do("kill", "n1", "--daemon")
		close(end)
		wg.Wait()
		l.do("start", "n1")
		l.within(30*time.Second, "the API is back", func() error { _, err := l.tryKubectl("n1", "get", "--raw", "/readyz"); return err })
	}
	have := map[string]bool{}
	for _, c := range get[corev1.ConfigMapList](l, "n1", "configmaps").Items {
		have[c.Name] = true
	}
	for _, name := range acked {
		if !have[name] {
			t.Errorf("the acknowledged write of %s is lost", name)
		}
	}
	t.Logf("%d writes acknowledged over 20 kills", len(acked))
	if len(acked) < 20 {
		t.Errorf("only %d writes were acknowledged: the test shows nothing", len(acked))
	}
	if now := l.containers("n1"); !maps.Equal(now, running) {
		t.Errorf("containers ran as %v, now as %v: some were restarted", running, now)
	}
	l.within(30*time.Second, "three pods are ready", l.wantReady("n1", "web", 3))
}

func TestSixtyPodsAtOnce(t *testing.T) {
	l := up(t, "e-sixty", 3)
	l.apply("n1", deployment("many", 60, "one"))
	took := l.within(4*time.Minute, "sixty pods are ready", l.wantReady("n2", "many", 60))
	t.Logf("ready after %s", took)
	pods, err := l.pods("n3", "many")
	if err != nil {
		t.Fatal(err)
	}
	on := map[string]int{}
	for _, p := range pods {
		on[p.Spec.NodeName]++
		claims := 0
		for k := range p.Annotations {
			if strings.HasPrefix(k, "placement.murmur.io/claim.") {
				claims++
			}
		}
		if claims != 1 {
			t.Errorf("%s has %d claims, want 1", p.Name, claims)
		}
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		if on[n] < 18 || on[n] > 22 {
			t.Errorf("sixty pods are spread %v, want about twenty each", on)
			l.bids("n1", "n2", "n3")
			break
		}
	}
	for _, n := range get[corev1.NodeList](l, "n1", "nodes").Items {
		used := on[n.Name]
		if cpu := n.Status.Allocatable.Cpu().MilliValue(); int64(used)*10 > cpu {
			t.Errorf("%s is over-committed: %d pods of 10m on %dm", n.Name, used, cpu)
		}
	}
}

// bids prints each round that these nodes have asked others for, with every answer.
func (l *lab) bids(nodes ...string) {
	for _, n := range nodes {
		var placed []sched.Explanation
		if err := json.Unmarshal([]byte(l.murmur(n, "debug", "bids")), &placed); err != nil {
			l.t.Error(err)
			continue
		}
		var rounds []string
		for _, e := range placed {
			for _, r := range e.Rounds {
				line := fmt.Sprintf("%s offered %d", r.At.Format("15:04:05.000000"), r.Offered)
				for _, b := range r.Bids {
					line += fmt.Sprintf("; %s silent %t, fits %d %v, awarded %d", b.Node, b.Silent, b.Fits, b.Curve, b.Awarded)
				}
				rounds = append(rounds, line)
			}
		}
		slices.Sort(rounds)
		l.t.Logf("rounds of %s:\n%s", n, strings.Join(slices.Compact(rounds), "\n"))
	}
}

func TestStrangersAreRefused(t *testing.T) {
	l := up(t, "e-door", 1)
	// Nobody at the API.
	if out, err := l.try("exec", "n1", "--", "curl", "-sS", "-k", "--fail-with-body", "--max-time", "5", "https://127.0.0.1:6443/api/v1/secrets"); err == nil || !strings.Contains(out, "Forbidden") && !strings.Contains(out, "Unauthorized") {
		t.Errorf("anonymous list of secrets: %v %s", err, out)
	}
	// A certificate of another CA, at the API and at the streams.
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/O=system:masters/CN=system:node:n1", "-keyout", key, "-out", cert).CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v: %s", err, out)
	}
	if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	if out, err := l.try("exec", "n1", "--", "curl", "-sS", "-k", "--cert", cert, "--key", key, "--max-time", "5", "https://127.0.0.1:6443/api/v1/secrets"); err == nil && !strings.Contains(out, "Unauthorized") {
		t.Errorf("a foreign certificate at the API: %s", out)
	}
	if out, err := l.try("exec", "n1", "--", "curl", "-sS", "-k", "--cert", cert, "--key", key, "--max-time", "5", "https://10.77.0.1:7947/"); err == nil || strings.Contains(err.Error(), "exit status 28") {
		// Exit status 28 is a time-out: then the connection was let stand.
		t.Errorf("a foreign certificate at the streams was not refused: %v %s", err, out)
	}
	// A wrong token, and one of another cluster.
	token := strings.TrimSpace(l.do("exec", "n1", "--", "murmur", "token", "create", "--token-only"))
	last := "0"
	if strings.HasSuffix(token, "0") {
		last = "1"
	}
	wrong := token[:len(token)-1] + last
	digit := "0"
	if token[10] == '0' {
		digit = "1"
	}
	other := token[:10] + digit + token[11:]
	for what, tok := range map[string]string{"a wrong secret": wrong, "another CA": other} {
		out, err := l.command("exec", "n1", "--", "murmur", "join", "10.77.0.1", "--token", tok, "--data-dir", filepath.Join(dir, "data"),
			"--run-dir", filepath.Join(dir, "run"), "--config-dir", filepath.Join(dir, "etc"), "--node-name", "x", "--node-ip", "10.77.0.1",
			"--https-listen-port", "7443", "--gossip-port", "8946", "--stream-port", "8947",
			"--config", os.DevNull).CombinedOutput()
		if lines := strings.Split(strings.TrimSpace(string(out)), "\n"); err == nil || len(lines) != 1 || !strings.Contains(string(out), "token") {
			t.Errorf("%s: %v: %s", what, err, out)
		}
		if _, err := os.Stat(filepath.Join(dir, "data", "identity.json")); err == nil {
			t.Errorf("%s: the refused joiner has an identity", what)
		}
	}
}

func TestDownLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 || testing.Short() {
		t.Skip("needs root, and starts a cluster")
	}
	before := traces(t)
	t.Run("lab", func(t *testing.T) {
		l := up(t, "e-down", 2)
		l.apply("n1", deployment("web", 4, "one"))
		l.within(time.Minute, "four pods are ready", l.wantReady("n1", "web", 4))
		l.do("partition", "n1", "n2")
		l.do("kill", "n2")
	})
	if after := traces(t); !slices.Equal(after, before) {
		t.Errorf("left on the machine:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
}

// traces is what a lab named e-down could leave.
func traces(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `
		ip netns list | grep e-down
		grep e-down /proc/self/mountinfo
		find /sys/fs/cgroup -maxdepth 2 -name '*e-down*' 2>/dev/null
		ls -d /run/murmur-lab/e-down /var/lib/murmur-lab/e-down 2>/dev/null
		ps -eo args | grep '[e]-down/' | grep -v e2e
		ip -o link | cut -d: -f2 | cut -d@ -f1 | grep -v veth | sort
		iptables-save 2>/dev/null | grep -v '^#' | sed 's/\[[0-9:]*\]//' | sort
		true`).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
