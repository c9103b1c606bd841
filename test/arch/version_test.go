package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestOneRelease: the release of Kubernetes that is built in, the one that clients and nodes are told, and the one that the Makefile tells upstream's
// packages are one. Upstream's packages without it call themselves v0.0.0-master, in what probes, webhooks and audit logs show.
func TestOneRelease(t *testing.T) {
	read := func(path ...string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	one := func(text, pattern string) string {
		t.Helper()
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("there is no %s", pattern)
		}
		return m[1]
	}
	release := one(read("go.mod"), `(?m)^\s*k8s\.io/kubernetes (v\S+)`)
	makefile := read("Makefile")
	for what, got := range map[string]string{
		"Makefile's KUBE":               one(makefile, `(?m)^KUBE\s*:= (\S+)`),
		"httpapi's version":             one(read("httpapi", "health.go"), `GitVersion: "(\S+)\+murmur"`),
		"node/pod's version of kubelet": one(read("node", "pod", "nodestatus.go"), `KubeletVersion = "(\S+)"`),
		"httpapi's major and minor":     "v" + strings.Join(regexp.MustCompile(`Major: "(\d+)", Minor: "(\d+)"`).FindStringSubmatch(read("httpapi", "health.go"))[1:], ".") + release[strings.LastIndex(release, "."):],
	} {
		if got != release {
			t.Errorf("%s is %s, go.mod has %s", what, got, release)
		}
	}
	told := one(makefile, `(?m)^UPSTREAM = (.*)$`)
	for _, want := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version", ".gitVersion=$(1)", ".gitMajor=1", ".gitMinor="} {
		if !strings.Contains(told, want) {
			t.Errorf("upstream's packages are not told by %s", want)
		}
	}
	for program, want := range map[string]string{"./cmd/murmur ": "$(call UPSTREAM,$(KUBE)+murmur)", "k8s.io/kubernetes/cmd/kubectl": "$(call UPSTREAM,$(KUBE))"} {
		found := false
		for line := range strings.SplitSeq(makefile, "\n") {
			if strings.HasPrefix(line, "\t$(STATIC)") && strings.Contains(line+" ", program) && strings.Contains(line, " -o bin/") {
				found = true
				if !strings.Contains(line, want) {
					t.Errorf("%s is built without %s", program, want)
				}
			}
		}
		if !found {
			t.Errorf("the Makefile does not build %s", program)
		}
	}
}
