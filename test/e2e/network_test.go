package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a pod sees of the cluster: names, services of every kind, the API with its own token, and its volumes.
func TestPodsFindEachOther(t *testing.T) {
	l := up(t, "e-net", 2)
	host := t.TempDir()
	l.do("load", toolbox(t))
	l.apply("n1", deployment("web", 4, "one"))
	l.apply("n1", `
apiVersion: v1
kind: Service
metadata: {name: each}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {sessionAffinity: ClientIP, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: v1
kind: Pod
metadata: {name: box, labels: {app: box}}
spec:
  terminationGracePeriodSeconds: 20
  initContainers:
  - {name: first, image: "example.murmur.io/toolbox:1", command: [sh, -c, "echo from init > /shared/file"], volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - name: box
    image: example.murmur.io/toolbox:1
    command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.2; done"]
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo stopping > /host/stopped"]}}}
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: settings, mountPath: /settings}
    - {name: host, mountPath: /host}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - {name: host, hostPath: {path: `+host+`, type: Directory}}
`)
	l.within(time.Minute, "four pods are ready", l.wantReady("n1", "web", 4))
	l.kubectl("n1", "wait", "--for=condition=Ready", "pod/box", "--timeout=60s")
	sh := func(script string) string {
		t.Helper()
		out, err := l.tryKubectl("n1", "exec", "box", "--", "sh", "-c", script)
		if err != nil {
			t.Errorf("in the pod, %s: %v", script, err)
		}
		return strings.TrimSpace(out)
	}
	vip := l.vip("n1", "web")
	for _, name := range []string{"web", "web.default", "web.default.svc.cluster.local"} {
		if out := sh("nslookup -type=a " + name + " 10.43.0.10 | tail -n 4"); name == "web.default.svc.cluster.local" && !strings.Contains(out, vip) {
			t.Errorf("%s resolves to %q, want %s", name, out, vip)
		}
		if out := sh(fetchOf + "=http://" + name + " e2e"); !strings.HasPrefix(out, "hello from web-") {
			t.Errorf("http://%s answers %q", name, out)
		}
	}
	if out := sh("nslookup -type=a each.default.svc.cluster.local 10.43.0.10"); strings.Count(out, "10.42.") != 4 {
		t.Errorf("the headless service has not its four addresses: %s", out)
	}
	if out := sh("nslookup -type=cname outside.default.svc.cluster.local 10.43.0.10"); !strings.Contains(out, "example.com") {
		t.Errorf("the ExternalName service: %s", out)
	}
	answered := map[string]bool{}
	for range 10 {
		answered[sh(fetchOf+"=http://sticky e2e")] = true
	}
	if len(answered) != 1 {
		t.Errorf("a service with session affinity sent one client to %d pods", len(answered))
	}
	if out := sh("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace"); out != "default" {
		t.Errorf("namespace file: %q", out)
	}
	if out := sh("cat /shared/file; echo $COLOUR; cat /settings/colour"); out != "from init\nblue\nblue" {
		t.Errorf("volumes and environment: %q", out)
	}
	l.kubectl("n1", "patch", "configmap", "settings", "--type=merge", "-p", `{"data":{"colour":"green"}}`)
	l.within(90*time.Second, "the volume follows its ConfigMap", func() error {
		if out := sh("cat /settings/colour"); out != "green" {
			return fmt.Errorf("it has %q", out)
		}
		return nil
	})
	token := strings.TrimSpace(l.kubectl("n1", "exec", "box", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"))
	out, err := l.try("exec", "n2", "--", "curl", "-sSk", "--max-time", "5", "-H", "Authorization: Bearer "+token, "https://10.43.0.1/apis/authentication.k8s.io/v1/selfsubjectreviews",
		"-H", "Content-Type: application/json", "-d", `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
	if err != nil || !strings.Contains(out, "system:serviceaccount:default:default") {
		t.Errorf("the pod's token at the service address of the API: %v %s", err, out)
	}
	l.kubectl("n1", "delete", "pod", "box")
	if b, err := os.ReadFile(filepath.Join(host, "stopped")); err != nil || string(b) != "stopping\n" {
		t.Errorf("the preStop hook left %q, %v", b, err)
	}
}
