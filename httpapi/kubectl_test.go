package httpapi

import (
	"strings"
	"testing"
)

const web = `apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: web, image: "nginx:1"}]}
`

func TestKubectlFirst(t *testing.T) {
	n := newNode(t, nil)
	for _, bin := range kubectls(t) {
		t.Log(n.must(bin, "", "version"))
		t.Log(n.must(bin, "", "api-resources"))
		t.Log(n.must(bin, web, "apply", "-f", "-"))
		out := n.must(bin, "", "get", "pods", "-o", "wide")
		if !strings.Contains(out, "Pending") {
			t.Errorf("get pods:\n%s", out)
		}
		t.Log(n.must(bin, "", "get", "pod", "web", "-o", "yaml"))
		t.Log(n.must(bin, "", "describe", "pod", "web"))
		t.Log(n.must(bin, "", "delete", "pod", "web"))
		t.Log(n.must(bin, "", "get", "all,ns,roles,sa", "-A"))
	}
}
