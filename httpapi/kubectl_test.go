package httpapi

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"sigs.k8s.io/yaml"

	"murmur/crdt"
)

// moving is what differs from run to run, or between kubectl's releases, and what stands in its place.
var moving = []struct{ pattern, instead string }{
	{`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`, "UID"},
	{`\b[1-9]\d{18}\b`, "VERSION"},
	{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, "TIME"},
	{`(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d [-+]\d{4}`, "TIME"},
	{`kube-api-access-\w{5}`, "kube-api-access-XXXXX"},
	{`(?m)  +(\d+[smh])+(  +|$)`, "  AGE  "},
	{`(?m) from (\S+ namespace|cluster)$`, ""},
	{`https://127\.0\.0\.1:\d+`, "SERVER"},
	{`eyJ[\w-]+\.[\w-]+\.[\w-]+`, "TOKEN"},
	{`X509SHA256=[0-9a-f]+`, "X509SHA256=HASH"},
	{`(/tmp/(LIVE|MERGED))-\d+(\S+)(\t.*)?`, "$1$3"},
	{`(?m)^    (ConfigMap)?Optional: .*\n`, ""},
	{`(?m)^  Kube-Proxy Version:.*\n`, ""},
	{`(?m)^W\d{4} .*\n`, ""},
	{`(?m)[ \t]+$`, ""},
}

func still(s string) string {
	for _, m := range moving {
		s = regexp.MustCompile(m.pattern).ReplaceAllString(s, m.instead)
	}
	return strings.TrimRight(s, "\n") + "\n"
}

// TestKubectl plays sessions with each real kubectl that is there; what they print must be what testdata has. A
// directive is "kubectl", with command lines and, behind ---, the stdin of each; or "status", with an object whose
// status is written as the part that owns it would.
func TestKubectl(t *testing.T) {
	for _, bin := range kubectls(t) {
		t.Run(strings.ReplaceAll(strings.Trim(filepath.Dir(bin), "/"), "/", "-"), func(t *testing.T) {
			datadriven.Walk(t, "testdata/kubectl", func(t *testing.T, path string) {
				n := newNode(t, nil)
				datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
					switch d.Cmd {
					case "kubectl":
						script, stdin, _ := strings.Cut(d.Input, "\n---\n")
						var out strings.Builder
						for _, line := range strings.Split(script, "\n") {
							printed, err := n.kubectl(bin, stdin, fields(line)...)
							out.WriteString(still(printed))
							if err != nil {
								fmt.Fprintf(&out, "(%v)\n", err)
							}
						}
						return out.String()
					case "status":
						check(t, n.setStatus(d.Input))
						return ""
					}
					t.Fatalf("%s: unknown directive %s", d.Pos, d.Cmd)
					return ""
				})
			})
		})
	}
}

// fields splits as a shell does, as far as single quotes go.
func fields(line string) []string {
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}

// setStatus writes the status of an existing object.
func (n *node) setStatus(doc string) error {
	obj, gvk, err := legacyscheme.Codecs.UniversalDeserializer().Decode([]byte(doc), nil, nil)
	if err != nil {
		return err
	}
	resource := map[string]string{"Pod": "pods", "Deployment": "apps/deployments", "Node": "nodes", "ReplicaSet": "apps/replicasets"}[gvk.Kind]
	var want map[string]any
	if err := yaml.Unmarshal([]byte(doc), &want); err != nil {
		return err
	}
	m := want["metadata"].(map[string]any)
	namespace, _ := m["namespace"].(string)
	e, ok := n.store.Snapshot().Get(crdt.Key{Resource: resource, Namespace: namespace, Name: m["name"].(string)})
	if !ok {
		return fmt.Errorf("%s %v does not exist", gvk.Kind, m["name"])
	}
	have, err := e.Map()
	if err != nil {
		return err
	}
	have["status"] = want["status"]
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(have, obj); err != nil {
		return err
	}
	_, err = n.As("system:serviceaccount:kube-system:test", "system:masters").UpdateStatus(context.Background(), obj)
	return err
}
