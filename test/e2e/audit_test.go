package e2e

import (
	"bufio"
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
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// disk is the directory of a node: its data directory, its configuration and its log.
func (l *lab) disk(node string) string { return filepath.Join("/var/lib/murmur-lab", l.name, node) }

// audited are the events in a node's audit log, but those of before.
func (l *lab) audited(node string, before ...auditv1.Event) ([]auditv1.Event, error) {
	b, err := os.ReadFile(filepath.Join(l.disk(node), "data", "audit", "audit.log"))
	if err != nil {
		return nil, err
	}
	var out []auditv1.Event
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditv1.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("audit log of %s: %w", node, err)
		}
		out = append(out, e)
	}
	return out[min(len(before), len(out)):], lines.Err()
}

// finds waits for an event in the log of one of some nodes, and says on which.
func (l *lab) finds(what string, nodes []string, is func(auditv1.Event) bool) (found auditv1.Event, node string) {
	l.t.Helper()
	l.within(20*time.Second, "the audit log has "+what, func() error {
		for _, n := range nodes {
			all, err := l.audited(n)
			if err != nil {
				return err
			}
			for _, e := range all {
				if is(e) {
					found, node = e, n
					return nil
				}
			}
		}
		return errors.New("it has not")
	})
	return found, node
}

// of tells whether an event is about an object.
func of(e auditv1.Event, verb, resource, sub, namespace, name string) bool {
	o := e.ObjectRef
	return e.Verb == verb && o != nil && o.Resource == resource && o.Subresource == sub && o.Namespace == namespace && (name == "" || o.Name == name)
}

// TestWhoDidWhat: the audit logs tell who asked for what, on the node that was asked and on the one that it was handed to, under one ID; who deleted what, down to the
// pods that went with a Deployment; which commands were given to daemons; and who was admitted by which token.
func TestWhoDidWhat(t *testing.T) {
	l := up(t, "e-audit", 2)
	both := []string{"n1", "n2"}
	ann := l.tenant("n1", "ann", "foo", "edit")
	l.apply("n1", "{apiVersion: v1, kind: Pod, metadata: {name: far, namespace: foo}, spec: {nodeName: n2, containers: [{name: c, image: example.murmur.io/hello:1}]}}")
	ann.must("wait", "pod/far", "-n", "foo", "--for=condition=Ready", "--timeout=60s")

	// What n1 hands to n2.
	ann.must("logs", "far", "-n", "foo")
	_, _ = ann.try("exec", "far", "-n", "foo", "--", "/none") // what is recorded is that it was asked
	for _, sub := range []string{"log", "exec"} {
		is := func(e auditv1.Event) bool {
			return e.ObjectRef != nil && e.ObjectRef.Resource == "pods" && e.ObjectRef.Subresource == sub && e.ObjectRef.Name == "far" && e.ObjectRef.Namespace == "foo" && e.User.Username == "ann"
		}
		asked, _ := l.finds(sub+" on n1", []string{"n1"}, is)
		l.finds(sub+" on n2 under the same ID", []string{"n2"}, func(e auditv1.Event) bool {
			return is(e) && e.AuditID == asked.AuditID && len(e.SourceIPs) > 0 && e.SourceIPs[0] == asked.SourceIPs[0]
		})
	}

	// Who deletes a Deployment, and what goes with it.
	ann.must("create", "deployment", "web", "-n", "foo", "--image=example.murmur.io/hello:1", "--replicas=2")
	ann.must("rollout", "status", "deployment/web", "-n", "foo", "--timeout=60s")
	pods := get[corev1.PodList](l, "n1", "pods", "-n", "foo", "-l", "app=web").Items
	if len(pods) != 2 {
		t.Fatalf("%d pods", len(pods))
	}
	ann.must("delete", "deployment", "web", "-n", "foo")
	l.finds("who deleted the Deployment", []string{"n1"}, func(e auditv1.Event) bool {
		return of(e, "delete", "deployments", "", "foo", "web") && e.User.Username == "ann" && e.ResponseStatus.Code == 200
	})
	const collector = "system:serviceaccount:kube-system:generic-garbage-collector"
	l.finds("who deleted its ReplicaSet", both, func(e auditv1.Event) bool {
		return of(e, "delete", "replicasets", "", "foo", "") && strings.HasPrefix(e.ObjectRef.Name, "web-") && e.User.Username == collector
	})
	for _, p := range pods {
		l.finds("who deleted the pod "+p.Name, both, func(e auditv1.Event) bool {
			return of(e, "delete", "pods", "", "foo", p.Name) && e.User.Username == collector && e.ObjectRef.UID == p.UID
		})
		_, where := l.finds("who took the pod "+p.Name+" away", both, func(e auditv1.Event) bool {
			return of(e, "delete", "pods", "", "foo", p.Name) && e.User.Username == "system:node:"+p.Spec.NodeName
		})
		if where != p.Spec.NodeName {
			t.Errorf("%s was on %s, and %s recorded its end", p.Name, p.Spec.NodeName, where)
		}
	}

	// What daemons are told, and machines that join.
	made, _ := l.finds("the lab's token", []string{"n1"}, func(e auditv1.Event) bool { return e.RequestURI == "/murmur/admin/v1/token" })
	token := made.Annotations["audit.murmur.io/token"]
	if made.User.Username != "system:admin-socket" || made.User.UID != "0" || token == "" || made.ResponseStatus.Code != 200 {
		t.Errorf("a token was made: %+v", made)
	}
	joined, _ := l.finds("that n2 joined", []string{"n1"}, func(e auditv1.Event) bool {
		return e.RequestURI == "/murmur/v1/join" && e.Annotations["audit.murmur.io/node"] == "n2" && e.ResponseStatus.Code == 200
	})
	if joined.User.Username != "system:bootstrap:"+token || len(joined.SourceIPs) != 1 || joined.Annotations["audit.murmur.io/issuer"] != "true" {
		t.Errorf("n2 joined: %+v", joined)
	}
	l.do("kill", "n2")
	l.within(30*time.Second, "n2 has failed", func() error {
		if out := l.murmur("n1", "members"); !strings.Contains(out, "failed") {
			return errors.New(out)
		}
		return nil
	})
	l.murmur("n1", "forget", "n2")
	forgot, _ := l.finds("that n2 was forgotten", []string{"n1"}, func(e auditv1.Event) bool { return e.RequestURI == "/murmur/admin/v1/forget" })
	if forgot.Annotations["audit.murmur.io/node"] != "n2" || forgot.User.Username != "system:admin-socket" || forgot.ResponseStatus.Code != 200 {
		t.Errorf("n2 was forgotten: %+v", forgot)
	}
	l.finds("the deletion of its Node that followed", []string{"n1"}, func(e auditv1.Event) bool {
		return of(e, "delete", "nodes", "", "", "n2") && e.User.Username == "system:node:n1" && e.Annotations["audit.murmur.io/cause"] == string(forgot.AuditID)
	})

	// A stranger, whose words are not kept.
	_, err := l.try("exec", "n1", "--", "curl", "-sk", "-H", "Authorization: Bearer hunter2.hunter2", "-d", `{"nodeID":"x","nodeName":"stranger"}`, "https://127.0.0.1:6443/murmur/v1/join")
	if err != nil {
		t.Fatal(err)
	}
	refused, _ := l.finds("who was refused", []string{"n1"}, func(e auditv1.Event) bool { return e.Annotations["audit.murmur.io/node"] == "stranger" })
	if refused.ResponseStatus.Code != 401 || refused.User.Username != "system:anonymous" {
		t.Errorf("a stranger: %+v", refused)
	}
	if b, err := os.ReadFile(filepath.Join(l.disk("n1"), "data", "audit", "audit.log")); err != nil || bytes.Contains(b, []byte("hunter2")) {
		t.Errorf("what a stranger showed is in the log: %v", err)
	}
}
