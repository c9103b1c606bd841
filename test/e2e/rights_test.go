package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// tenant is a user of a namespace, as murmur user create makes one.
type tenant struct {
	*lab
	node, config, cert, key string
}

func (l *lab) tenant(node, name, namespace, role string) *tenant {
	l.t.Helper()
	l.kubectl(node, "create", "namespace", namespace)
	l.kubectl(node, "create", "rolebinding", name, "--clusterrole="+role, "--user="+name, "-n", namespace)
	out := l.do("exec", node, "--", "murmur", "user", "create", name, "--ttl", "1h")
	dir := l.t.TempDir()
	t := &tenant{l, node, filepath.Join(dir, "config"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")}
	var config struct {
		Users []struct {
			User struct {
				Certificate string `json:"client-certificate-data"`
				Key         string `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal([]byte(out), &config); err != nil || len(config.Users) != 1 {
		l.t.Fatalf("murmur user create printed no kubeconfig: %v", err)
	}
	write := func(path string, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
	write(t.config, []byte(out))
	for path, text := range map[string]string{t.cert: config.Users[0].User.Certificate, t.key: config.Users[0].User.Key} {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			l.t.Fatal(err)
		}
		write(path, b)
	}
	return t
}

// try runs kubectl as the tenant.
func (t *tenant) try(args ...string) (string, error) {
	return t.lab.try(append([]string{"exec", t.node, "--", "kubectl", "--kubeconfig", t.config, "--request-timeout=10s"}, args...)...)
}

func (t *tenant) must(args ...string) string {
	t.t.Helper()
	out, err := t.try(args...)
	if err != nil {
		t.t.Fatal(err)
	}
	return out
}

// refused runs kubectl as the tenant, who must hear why not.
func (t *tenant) refused(why string, args ...string) {
	t.t.Helper()
	out, err := t.try(args...)
	if err == nil || !strings.Contains(err.Error(), why) {
		t.t.Errorf("kubectl %s: %v %s, want a refusal with %q", strings.Join(args, " "), err, out, why)
	}
}

// raw asks for a path as it is spelled, and returns the status code.
func (t *tenant) raw(method, path string) string {
	t.t.Helper()
	return strings.TrimSpace(t.do("exec", t.node, "--", "curl", "-sk", "--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", "--cert", t.cert, "--key", t.key,
		"-X", method, "https://127.0.0.1:6443"+path))
}

func (t *tenant) file(text string) string {
	t.t.Helper()
	path := filepath.Join(t.t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.t.Fatal(err)
	}
	return path
}

// TestTenantStaysAtHome: what a tenant may do in a namespace of its own is no way to another's, to a node, or to the cluster.
func TestTenantStaysAtHome(t *testing.T) {
	l := up(t, "tenant", 2)
	a := l.tenant("n1", "ann", "foo", "edit")
	l.kubectl("n1", "create", "namespace", "production")
	l.kubectl("n1", "create", "secret", "generic", "s", "-n", "production", "--from-literal=password=hunter2")
	b := l.tenant("n1", "viewer", "seen", "view")
	l.kubectl("n1", "create", "secret", "generic", "s", "-n", "seen", "--from-literal=password=hunter2")
	l.kubectl("n1", "create", "configmap", "c", "-n", "seen")

	// Another spelling is no other right.
	for path, method := range map[string]string{
		"/api/v1/namespaces/seen%2Fconfigmaps%2F%2F/secrets":    "GET",
		"/api/v1/namespaces/seen%2fconfigmaps%2fc%2f/secrets/s": "GET",
		"/api/v1/namespaces/seen/configmaps/..%2f..%2fsecrets":  "GET",
		"/api/v1/namespaces//seen/secrets":                      "GET",
	} {
		if got := b.raw(method, path); got != "403" && got != "404" {
			t.Errorf("%s %s: %s", method, path, got)
		}
	}
	if got := b.raw("GET", "/api/v1/namespaces/seen/configmaps"); got != "200" {
		t.Errorf("what one may read: %s", got)
	}
	for _, method := range []string{"DELETE", "PATCH", "PUT"} {
		if got := a.raw(method, "/api/v1/namespaces/foo%2Fconfigmaps%2Fproduction"); strings.HasPrefix(got, "2") {
			t.Errorf("%s of a namespace as a ConfigMap: %s", method, got)
		}
	}
	if ns := get[corev1.Namespace](l, "n1", "namespace", "production"); ns.DeletionTimestamp != nil {
		t.Error("a tenant has deleted another's namespace")
	}

	// What a namespace's level forbids, and what is not enforced here, does not run.
	l.kubectl("n1", "label", "namespace", "foo", "pod-security.kubernetes.io/enforce=baseline")
	pod := func(name, spec string) string {
		return a.file(fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: foo}\nspec: %s\n", name, spec))
	}
	const image = "image: example.murmur.io/hello:1"
	a.refused("violates PodSecurity", "apply", "-f", pod("root", "{containers: [{name: c, "+image+", securityContext: {privileged: true}}]}"))
	a.refused("violates PodSecurity", "apply", "-f", pod("host", "{containers: [{name: c, "+image+"}], volumes: [{name: v, hostPath: {path: /}}]}"))
	// Addresses are the cluster's to give.
	a.refused("spec.externalIPs", "apply", "-f", a.file(`{apiVersion: v1, kind: Service, metadata: {name: dns, namespace: foo}, spec: {externalIPs: [10.43.0.10], ports: [{port: 53, protocol: UDP}]}}`))

	// Placement is written by nodes.
	a.must("run", "placed", "-n", "foo", "--image=example.murmur.io/hello:1")
	a.refused("placement.murmur.io", "annotate", "pod", "placed", "-n", "foo", `placement.murmur.io/claim.n2={"node":"n2"}`)
	out, err := l.try("exec", "n1", "--", "kubectl", "apply", "-f", a.file(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: forgotten.murmur.io}, spec: {group: murmur.io, scope: Cluster,
  names: {plural: forgotten, singular: forgot, kind: Forgotten, listKind: ForgottenList}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}`))
	if err == nil {
		t.Errorf("a kind was defined among the store's own documents: %s", out)
	}

	// A token ends with its account, whoever takes the name after.
	a.must("create", "serviceaccount", "robot", "-n", "foo")
	token := strings.TrimSpace(l.kubectl("n1", "create", "token", "robot", "-n", "foo"))
	believed := func() bool {
		t.Helper()
		out := l.kubectl("n1", "create", "-o", "json", "-f", a.file("{apiVersion: authentication.k8s.io/v1, kind: TokenReview, spec: {token: "+token+"}}"))
		var r authenticationv1.TokenReview
		if err := yaml.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		return r.Status.Authenticated
	}
	if !believed() {
		t.Error("a token is not believed")
	}
	a.must("delete", "serviceaccount", "robot", "-n", "foo")
	a.must("create", "serviceaccount", "robot", "-n", "foo")
	if believed() {
		t.Error("the token of an account that was deleted is believed")
	}

}

// TestNobodyIsLockedOut: a webhook that matches everything and answers nothing keeps no daemon from coming up, no pod from running, and
// itself from being taken away: after a restart of all, with default objects missing.
func TestNobodyIsLockedOut(t *testing.T) {
	l := up(t, "locked", 3)
	l.kubectl("n1", "create", "deployment", "hello", "--image=example.murmur.io/hello:1", "--replicas=3")
	l.kubectl("n1", "rollout", "status", "deployment/hello", "--timeout=60s")
	l.kubectl("n1", "delete", "clusterrole", "system:discovery")
	l.kubectl("n1", "delete", "clusterrolebinding", "system:discovery")
	l.apply("n1", `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: gate}, webhooks: [
  {name: all.example.test, failurePolicy: Fail, sideEffects: None, timeoutSeconds: 5, admissionReviewVersions: [v1], clientConfig: {service: {name: gate, namespace: gate, path: /}},
   rules: [{apiGroups: ["*"], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: ["*/*"]}]}]}`)
	l.within(10*time.Second, "the webhook acts", func() error {
		if _, err := l.tryKubectl("n1", "create", "configmap", "probe", "--dry-run=server"); err == nil || !strings.Contains(err.Error(), "failed calling webhook") {
			return fmt.Errorf("a create: %v", err)
		}
		return nil
	})
	for _, n := range []string{"n1", "n2", "n3"} {
		l.do("kill", n)
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		l.do("start", n)
	}
	l.within(60*time.Second, "every node is ready and its pods run again", func() error {
		nodes, err := tryGet[corev1.NodeList](l, "n2", "nodes")
		if err != nil {
			return err
		}
		for _, n := range nodes.Items {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
					return fmt.Errorf("%s is not ready", n.Name)
				}
			}
		}
		pods, err := tryGet[corev1.PodList](l, "n2", "pods")
		if err != nil {
			return err
		}
		ready := 0
		for _, p := range pods.Items {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		if ready < 3 {
			return fmt.Errorf("%d pods are ready", ready)
		}
		return nil
	})
	l.within(30*time.Second, "what every cluster has is there", func() error {
		_, err := l.tryKubectl("n3", "get", "clusterrole/system:discovery", "clusterrolebinding/system:discovery")
		return err
	})
	l.kubectl("n3", "delete", "validatingwebhookconfiguration", "gate")
	l.within(10*time.Second, "users create again", func() error {
		_, err := l.tryKubectl("n1", "create", "configmap", "after", "--dry-run=server")
		return err
	})
}

// TestTokenInASecret: a Secret that names an account gets a token of it that every node believes, also one that is no issuer; another one once the keys have
// been rotated away under it; and none when the account has gone.
func TestTokenInASecret(t *testing.T) {
	l := up(t, "e-token", 2)
	if out := l.do("add", "--no-issuer"); strings.TrimSpace(out) != "n3" {
		t.Fatalf("added %q", out)
	}
	l.within(time.Minute, "three nodes", l.registered("n1", "n1", "n2", "n3"))
	l.apply("n1", `{apiVersion: v1, kind: ServiceAccount, metadata: {name: robot}}`)
	l.apply("n2", `{apiVersion: v1, kind: Secret, metadata: {name: robot, annotations: {kubernetes.io/service-account.name: robot}}, type: kubernetes.io/service-account-token}`)
	token := ""
	filled := func(before string) func() error {
		return func() error {
			s, err := tryGet[corev1.Secret](l, "n1", "secret", "robot")
			if err != nil {
				return err
			}
			if token = string(s.Data["token"]); token == "" || token == before || len(s.Data["ca.crt"]) == 0 || string(s.Data["namespace"]) != "default" {
				return fmt.Errorf("it has %d fields", len(s.Data))
			}
			return nil
		}
	}
	believed := func(node string) error {
		out, err := l.try("exec", node, "--", "curl", "-sSk", "--max-time", "5", "-H", "Authorization: Bearer "+token, "-H", "Content-Type: application/json",
			"-d", `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`, "https://127.0.0.1:6443/apis/authentication.k8s.io/v1/selfsubjectreviews")
		if err == nil && !strings.Contains(out, "system:serviceaccount:default:robot") {
			err = fmt.Errorf("%s answers %s", node, out)
		}
		return err
	}
	everywhere := func(when string) {
		t.Helper()
		for _, n := range []string{"n1", "n2", "n3"} {
			l.within(10*time.Second, n+" believes it, "+when, func() error { return believed(n) })
		}
	}
	l.within(20*time.Second, "a token", filled(""))
	everywhere("at first")
	first := token
	l.murmur("n1", "certificate", "rotate", "service-account", "--overlap=30s")
	everywhere("in the overlap")
	l.within(4*time.Minute, "another token", filled(first))
	everywhere("made anew")
	l.kubectl("n2", "delete", "serviceaccount", "robot")
	for _, n := range []string{"n1", "n3"} {
		l.within(10*time.Second, n+" refuses it", func() error {
			if believed(n) == nil {
				return fmt.Errorf("it is believed")
			}
			return nil
		})
	}
	l.within(time.Minute, "the Secret goes with the account", func() error {
		if _, err := l.tryKubectl("n1", "get", "secret", "robot"); err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
}
