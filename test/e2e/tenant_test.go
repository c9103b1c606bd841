package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// What a tenant writes takes nothing of the nodes: not their ports, not the cluster's names, not another's disk; and what would
// protect the node from its pod is there, or the pod is not.
func TestTenantsTakeNothingOfTheNodes(t *testing.T) {
	l := up(t, "e-tenant", 2)
	l.do("load", toolbox(t))
	theirs := t.TempDir()
	if err := os.WriteFile(filepath.Join(theirs, "secret"), []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.apply("n1", deployment("web", 2, "one"))
	pod := func(name, spec, container string) string {
		return fmt.Sprintf("\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  terminationGracePeriodSeconds: 1\n  %s\n  containers:\n"+
			"  - {name: c, image: \"example.murmur.io/toolbox:1\", command: [sh, -c, \"while true; do sleep 1; done\"]%s}\n", name, spec, container)
	}
	l.apply("n1", `
apiVersion: v1
kind: PersistentVolume
metadata: {name: theirs}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: `+theirs+`}, claimRef: {namespace: other, name: theirs}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: thief}
spec: {accessModes: [ReadWriteOnce], volumeName: theirs, storageClassName: "", resources: {requests: {storage: 1Gi}}}`+
		pod("box", "nodeName: n1", "")+
		pod("mapped", "nodeName: n1\n  hostUsers: false", "")+
		pod("names", "nodeName: n1", ", ports: [{containerPort: 8080, hostPort: 53}, {containerPort: 8080, hostPort: 53, protocol: UDP}]")+
		pod("asks", "", ", ports: [{containerPort: 1, hostPort: 7946}]")+
		pod("bound", "nodeName: n1", ", ports: [{containerPort: 1, hostPort: 6443}]")+
		pod("tuned", `securityContext: {sysctls: [{name: net.core.somaxconn, value: "1024"}]}`, "")+
		pod("thief", "nodeName: n1\n  volumes: [{name: v, persistentVolumeClaim: {claimName: thief}}]", ", volumeMounts: [{name: v, mountPath: /v}]"))
	labelled := filepath.Join(theirs, "labelled.yaml")
	if err := os.WriteFile(labelled, []byte(pod("labelled", "securityContext: {seLinuxOptions: {type: container_t}}", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := l.tryKubectl("n1", "apply", "-f", labelled); err == nil || !strings.Contains(err.Error(), "no node here sets SELinux labels") {
		t.Errorf("a pod with SELinux labels: %v %s", err, out)
	}
	l.within(time.Minute, "two pods are ready", l.wantReady("n1", "web", 2))
	l.kubectl("n1", "wait", "--for=condition=Ready", "pod/box", "pod/names", "--timeout=60s")

	in := func(pod, script string) string {
		out, err := l.tryKubectl("n1", "exec", pod, "--", "sh", "-c", script)
		if err != nil {
			t.Errorf("in %s, %s: %v", pod, script, err)
		}
		return strings.TrimSpace(out)
	}
	for _, at := range []string{"10.77.0.1 7946", "10.77.0.1 7947", "10.77.0.2 7946", "10.77.0.2 7947"} {
		if out := in("box", "nc -w 3 "+at+" </dev/null >/dev/null 2>&1 && echo open || echo closed"); out != "closed" {
			t.Errorf("a pod finds %s %s", at, out)
		}
	}
	for _, at := range []string{"10.77.0.1 6443", "10.77.0.2 6443", "10.43.0.1 443"} {
		if out := in("box", "nc -w 3 "+at+" </dev/null >/dev/null 2>&1 && echo open || echo closed"); out != "open" {
			t.Errorf("a pod finds the API at %s %s", at, out)
		}
	}
	// A pod has host port 53, which leads from every address of the node; the cluster DNS is one.
	for node, vip := range map[string]string{"n1": l.vip("n1", "web"), "n2": l.vip("n2", "web")} {
		out, err := l.try("exec", node, "--", "busybox", "nslookup", "-type=a", "web.default.svc.cluster.local", "10.43.0.10")
		if err != nil || !strings.Contains(out, vip) {
			t.Errorf("the cluster DNS from %s: %v %s", node, err, out)
		}
	}
	for name, reason := range map[string]string{"bound": "NodePorts", "tuned": "SysctlForbidden"} {
		l.within(30*time.Second, name+" is refused", func() error {
			if p := get[corev1.Pod](l, "n1", "pod", name); p.Status.Phase != corev1.PodFailed || p.Status.Reason != reason {
				return fmt.Errorf("phase %s, %s: %s", p.Status.Phase, p.Status.Reason, p.Status.Message)
			}
			return nil
		})
	}
	l.within(30*time.Second, "nobody takes the pod that asks for a node's port", func() error {
		for _, c := range get[corev1.Pod](l, "n1", "pod", "asks").Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, "didn't have free ports") {
				return nil
			}
		}
		return fmt.Errorf("no condition says so")
	})
	l.within(30*time.Second, "the claim of another's volume is refused", func() error {
		if out := l.kubectl("n1", "get", "events", "--field-selector=involvedObject.name=thief,reason=FailedMount"); !strings.Contains(out, "is not bound") {
			return fmt.Errorf("events: %s", out)
		}
		return nil
	})
	if p := get[corev1.Pod](l, "n1", "pod", "thief"); p.Status.Phase != corev1.PodPending {
		t.Errorf("the pod with another's volume is %s", p.Status.Phase)
	}
	node := get[corev1.Node](l, "n1", "node", "n1")
	if h := node.Status.RuntimeHandlers; len(h) == 0 || h[0].Features == nil || h[0].Features.UserNamespaces == nil {
		t.Errorf("the node does not say what its runtime can do: %+v", h)
	} else if !*h[0].Features.UserNamespaces {
		t.Log("THIS MACHINE HAS NO USER NAMESPACES FOR PODS")
		l.within(30*time.Second, "the pod with users of its own is refused", func() error {
			if p := get[corev1.Pod](l, "n1", "pod", "mapped"); p.Status.Phase != corev1.PodFailed || !strings.Contains(p.Status.Message, "does not support user namespaces") {
				return fmt.Errorf("phase %s: %s", p.Status.Phase, p.Status.Message)
			}
			return nil
		})
	} else {
		l.kubectl("n1", "wait", "--for=condition=Ready", "pod/mapped", "--timeout=60s")
		if f := strings.Fields(in("mapped", "cat /proc/self/uid_map")); len(f) != 3 || f[0] != "0" || f[1] == "0" || f[2] != "65536" {
			t.Errorf("uid_map %v", f)
		}
	}
}
