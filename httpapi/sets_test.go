package httpapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestWhatTheAPISets: names that are drawn, generations, times and versions are the API's to set, whatever a client says.
func TestWhatTheAPISets(t *testing.T) {
	n := newNode(t, nil)
	const core = "/api/v1/namespaces/default/"
	drawn := n.expect(http.StatusCreated, "POST", core+"configmaps", "", `{apiVersion: v1, kind: ConfigMap, metadata: {generateName: drawn-, uid: mine, creationTimestamp: "2001-01-01T00:00:00Z", generation: 7}}`)
	if name := fmt.Sprint(at(drawn, "metadata", "name")); !strings.HasPrefix(name, "drawn-") || len(name) != len("drawn-")+5 {
		t.Errorf("a name was drawn: %s", name)
	}
	if made := fmt.Sprint(at(drawn, "metadata", "creationTimestamp")); at(drawn, "metadata", "uid") == "mine" || strings.HasPrefix(made, "2001") || at(drawn, "metadata", "generation") == float64(7) {
		t.Errorf("a client's word: %v", drawn["metadata"])
	}
	path := "/apis/apps/v1/namespaces/default/deployments"
	first := n.expect(http.StatusCreated, "POST", path, "", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, generation: 7}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`)
	for _, c := range []struct {
		body       string
		generation float64
	}{{"", 1}, {`{"metadata":{"labels":{"x":"y"}}}`, 1}, {`{"spec":{"replicas":2}}`, 2}} {
		now := first
		if c.body != "" {
			now = n.expect(http.StatusOK, "PATCH", path+"/d", mergePatch, c.body)
			if at(now, "metadata", "resourceVersion") == at(first, "metadata", "resourceVersion") {
				t.Errorf("after %s the version is still %v", c.body, at(now, "metadata", "resourceVersion"))
			}
		}
		if at(now, "metadata", "generation") != c.generation || at(now, "metadata", "creationTimestamp") != at(first, "metadata", "creationTimestamp") {
			t.Errorf("after %s: %v", c.body, now["metadata"])
		}
	}
	if code, _, _ := n.send("PATCH", path+"/d", mergePatch, fmt.Sprintf(`{"metadata":{"resourceVersion":%q},"spec":{"replicas":3}}`, at(first, "metadata", "resourceVersion"))); code != http.StatusConflict {
		t.Errorf("a write with the version of before: %d", code)
	}
	svc := n.expect(http.StatusCreated, "POST", core+"services", "", `{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 80}]}}`)
	if fmt.Sprint(at(svc, "spec", "clusterIPs")) != fmt.Sprintf("[%v]", at(svc, "spec", "clusterIP")) || at(svc, "spec", "clusterIP") == nil {
		t.Errorf("clusterIPs %v of %v", at(svc, "spec", "clusterIPs"), at(svc, "spec", "clusterIP"))
	}
	n.expect(http.StatusUnprocessableEntity, "POST", core+"services", "", `{apiVersion: v1, kind: Service, metadata: {name: two}, spec: {clusterIPs: [10.43.7.1, 10.43.7.2], ports: [{port: 80}]}}`)
}

// TestRolesAllowWhatTheySay: rules of Roles and ClusterRoles, for those whom bindings name.
func TestRolesAllowWhatTheySay(t *testing.T) {
	n := newNode(t, nil)
	for _, doc := range []string{
		`rbac.authorization.k8s.io/v1/namespaces/default/roles {metadata: {name: one}, rules: [{apiGroups: [""], resources: [configmaps], resourceNames: [mine], verbs: [get]}, {apiGroups: [apps], resources: [deployments], verbs: [list]}]}`,
		`rbac.authorization.k8s.io/v1/namespaces/default/rolebindings {metadata: {name: one}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: bob}], roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: one}}`,
		`rbac.authorization.k8s.io/v1/clusterroles {metadata: {name: all}, rules: [{nonResourceURLs: [/metrics], verbs: [get]}, {apiGroups: [""], resources: [nodes], verbs: [list]}]}`,
		`rbac.authorization.k8s.io/v1/clusterrolebindings {metadata: {name: all}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: staff}], roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: all}}`,
	} {
		path, body, _ := strings.Cut(doc, " ")
		n.expect(http.StatusCreated, "POST", "/apis/"+path, "", body)
	}
	for _, name := range []string{"mine", "yours"} {
		n.expect(http.StatusCreated, "POST", "/api/v1/namespaces/default/configmaps", "", `{metadata: {name: `+name+`}}`)
	}
	const apps, core = "/apis/apps/v1/namespaces/", "/api/v1/namespaces/default/"
	for _, c := range []struct {
		who, group, path string
		code             int
	}{
		{"bob", "", core + "configmaps/mine", 200}, {"bob", "", core + "configmaps/yours", 403}, {"bob", "", core + "configmaps", 403},
		{"bob", "", apps + "default/deployments", 200}, {"bob", "", apps + "kube-system/deployments", 403}, {"bob", "", apps + "default/replicasets", 403},
		{"bob", "", "/metrics", 403}, {"eve", "staff", "/api/v1/nodes", 200}, {"eve", "staff", core + "configmaps/mine", 403}, {"eve", "", "/api/v1/nodes", 403},
	} {
		groups := []string{}
		if c.group != "" {
			groups = append(groups, c.group)
		}
		if code, _, _ := n.as(c.who, groups...).send("GET", c.path, "", "null"); code != c.code {
			t.Errorf("%s %s GET %s: %d, want %d", c.who, c.group, c.path, code, c.code)
		}
	}
	// /metrics answers nothing here, but to those who may ask.
	if code, _, _ := n.as("eve", "staff").send("GET", "/metrics", "", "null"); code == http.StatusForbidden {
		t.Error("a URL that a role names is refused")
	}
}

// TestWhoAsks: who asks for a certificate is the API's to say.
func TestWhoAsks(t *testing.T) {
	n := newNode(t, nil)
	n.expect(http.StatusCreated, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "", `{metadata: {name: eve}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: eve}], roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}}`)
	n.expect(http.StatusCreated, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "", `{metadata: {name: asks}, rules: [{apiGroups: [certificates.k8s.io], resources: [certificatesigningrequests], verbs: [create]}]}`)
	n.expect(http.StatusCreated, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "", `{metadata: {name: asks}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: eve}], roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: asks}}`)
	got := n.as("eve", "staff").expect(http.StatusCreated, "POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", "",
		`{metadata: {name: r}, spec: {request: `+requestPEM(t, "eve")+`, signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], username: admin, groups: ["system:masters"], uid: x, extra: {a: [b]}}}`)
	if at(got, "spec", "username") != "eve" || !strings.Contains(fmt.Sprint(at(got, "spec", "groups")), "staff") || strings.Contains(fmt.Sprint(at(got, "spec", "groups")), "masters") ||
		at(got, "spec", "uid") != nil || at(got, "spec", "extra", "a") != nil {
		t.Errorf("who asks: %v", got["spec"])
	}
}

// requestPEM is a certificate request of a name, as the API takes it in JSON.
func requestPEM(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	check(t, err)
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// TestExpansion: a claim grows only where its class lets it.
func TestExpansion(t *testing.T) {
	n := newNode(t, nil)
	const claims = "/api/v1/namespaces/default/persistentvolumeclaims"
	for class, code := range map[string]int{"fixed": http.StatusForbidden, "growing": http.StatusOK} {
		n.expect(http.StatusCreated, "POST", "/apis/storage.k8s.io/v1/storageclasses", "", `{metadata: {name: `+class+`}, provisioner: example.com/p, allowVolumeExpansion: `+fmt.Sprint(class == "growing")+`}`)
		n.expect(http.StatusCreated, "POST", claims, "", `{metadata: {name: `+class+`}, spec: {accessModes: [ReadWriteOnce], storageClassName: `+class+`, volumeName: v, resources: {requests: {storage: 1Gi}}}}`)
		n.expect(http.StatusOK, "PATCH", claims+"/"+class+"/status", mergePatch, `{"status":{"phase":"Bound","capacity":{"storage":"1Gi"}}}`)
		if got, _, _ := n.send("PATCH", claims+"/"+class, mergePatch, `{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`); got != code {
			t.Errorf("a claim of class %s grows: %d, want %d", class, got, code)
		}
	}
}
