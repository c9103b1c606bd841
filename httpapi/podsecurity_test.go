package httpapi

import (
	"net/http"
	"strings"
	"testing"
)

// meek is a pod that the restricted profile lets in.
const meek = `{apiVersion: v1, kind: Pod, metadata: {name: meek}, spec: {
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}},
  containers: [{name: c, image: i, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}}`

// TestPodSecurity: what a namespace's labels say of its pods holds, on every path by which a pod is made or changed.
func TestPodSecurity(t *testing.T) {
	n := newNode(t, nil)
	n.expect(http.StatusCreated, "POST", "/api/v1/namespaces", "", `{apiVersion: v1, kind: Namespace, metadata: {name: c03, labels: {
		pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}}}`)
	account := func(namespace string) {
		t.Helper()
		n.expect(http.StatusCreated, "POST", "/api/v1/namespaces/"+namespace+"/serviceaccounts", "", `{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}`)
	}
	account("c03")
	warned := func(what string, h http.Header, text string) {
		t.Helper()
		if all := strings.Join(h.Values("Warning"), "\n"); !strings.Contains(all, text) {
			t.Errorf("%s: no warning %q in %q", what, text, all)
		}
	}

	code, out, _ := n.send("POST", "/api/v1/namespaces/c03/pods", "", `{apiVersion: v1, kind: Pod, metadata: {name: root}, spec: {hostPID: true,
		containers: [{name: c, image: i, securityContext: {privileged: true}}]}}`)
	message, _ := out["message"].(string)
	if code != http.StatusForbidden || out["reason"] != "Forbidden" {
		t.Errorf("a privileged pod: %d %v", code, out)
	}
	for _, want := range []string{`violates PodSecurity "restricted:latest": host namespaces (hostPID=true), privileged (container "c" must not set securityContext.privileged=true)`,
		`allowPrivilegeEscalation != false`, `seccompProfile`} {
		if !strings.Contains(message, want) {
			t.Errorf("a privileged pod: no %q in %q", want, message)
		}
	}
	code, out, h := n.send("POST", "/api/v1/namespaces/c03/pods", "", meek)
	if code != http.StatusCreated || len(h.Values("Warning")) > 0 {
		t.Errorf("a pod as it should be: %d %v, warnings %q", code, out, h.Values("Warning"))
	}

	// Workloads are let in, with a warning: which pods of them are, their controllers find out.
	for kind, doc := range map[string]string{
		"/apis/apps/v1/namespaces/c03/deployments":  `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: %}}`,
		"/apis/apps/v1/namespaces/c03/statefulsets": `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: d}, spec: {serviceName: d, selector: {matchLabels: {a: b}}, template: %}}`,
		"/apis/batch/v1/namespaces/c03/cronjobs":    `{apiVersion: batch/v1, kind: CronJob, metadata: {name: d}, spec: {schedule: "* * * * *", jobTemplate: {spec: {template: %}}}}`,
	} {
		template := `{metadata: {labels: {a: b}}, spec: {restartPolicy: Always, containers: [{name: c, image: i}]}}`
		if strings.Contains(kind, "cronjobs") {
			template = strings.Replace(template, "Always", "Never", 1)
		}
		code, out, h := n.send("POST", kind, "", strings.Replace(doc, "%", template, 1))
		if code != http.StatusCreated {
			t.Errorf("%s: %d %v", kind, code, out)
		}
		warned(kind, h, `would violate PodSecurity \"restricted:latest\"`)
	}

	// A label is tried before it is set.
	n.expect(http.StatusCreated, "POST", "/api/v1/namespaces", "", `{apiVersion: v1, kind: Namespace, metadata: {name: c03b}}`)
	account("c03b")
	n.expect(http.StatusCreated, "POST", "/api/v1/namespaces/c03b/pods", "", `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}`)
	const merge = "application/merge-patch+json"
	label := `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`
	code, out, h = n.send("PATCH", "/api/v1/namespaces/c03b?dryRun=All", merge, label)
	if code != http.StatusOK {
		t.Fatalf("a dry run of a label: %d %v", code, out)
	}
	warned("a dry run", h, `existing pods in namespace \"c03b\" violate the new PodSecurity enforce level \"restricted:latest\"`)
	warned("a dry run", h, `p: allowPrivilegeEscalation != false`)
	n.expect(http.StatusCreated, "POST", "/api/v1/namespaces/c03b/pods", "", `{apiVersion: v1, kind: Pod, metadata: {name: q}, spec: {containers: [{name: c, image: i}]}}`)
	code, _, _ = n.send("PATCH", "/api/v1/namespaces/c03b", merge, `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"tight"}}}`)
	if code != http.StatusUnprocessableEntity {
		t.Errorf("a level that does not exist: %d", code)
	}

	// A container that comes later is a container.
	code, out, _ = n.send("PATCH", "/api/v1/namespaces/c03/pods/meek/ephemeralcontainers", "application/strategic-merge-patch+json",
		`{"spec":{"ephemeralContainers":[{"name":"debug","image":"i","securityContext":{"privileged":true}}]}}`)
	if message, _ := out["message"].(string); code != http.StatusForbidden || !strings.Contains(message, `violates PodSecurity "restricted:latest"`) {
		t.Errorf("a privileged ephemeral container: %d %v", code, out)
	}
}
