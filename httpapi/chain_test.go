package httpapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

const mergePatch = "application/merge-patch+json"

// as is the same node's API, asked by another user.
func (n *node) as(user string, groups ...string) *node {
	return &node{Server: n.Server, t: n.t, store: n.store, ca: n.ca, url: n.url, web: n.client(user, groups...)}
}

// TestDefaultClasses: what names no class gets the default one, the newest of several; and what storage has gets its finalizer.
func TestDefaultClasses(t *testing.T) {
	n := newNode(t, nil)
	const claimsPath = "/api/v1/namespaces/default/persistentvolumeclaims"
	claim := func(name, more string) string {
		return `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: ` + name + `}, spec: {` + more + `accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}`
	}
	n.expect(http.StatusCreated, "POST", claimsPath, "", claim("none", ""))
	if got := at(n.expect(http.StatusOK, "GET", claimsPath+"/none", "", "null"), "spec", "storageClassName"); got != nil {
		t.Errorf("without a default class a claim has %v", got)
	}
	class := func(name, more string) {
		n.expect(http.StatusCreated, "POST", "/apis/storage.k8s.io/v1/storageclasses", "", `{apiVersion: storage.k8s.io/v1, kind: StorageClass,
			metadata: {name: `+name+`, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}, provisioner: example.test/none`+more+`}`)
	}
	class("std", "")
	a := n.expect(http.StatusCreated, "POST", claimsPath, "", claim("a", ""))
	if at(a, "spec", "storageClassName") != "std" || fmt.Sprint(at(a, "metadata", "finalizers")) != "[kubernetes.io/pvc-protection]" {
		t.Errorf("a claim: %v %v", at(a, "spec", "storageClassName"), at(a, "metadata", "finalizers"))
	}
	if got := n.expect(http.StatusCreated, "POST", claimsPath, "", claim("own", `storageClassName: "", `)); at(got, "spec", "storageClassName") != "" {
		t.Errorf("a claim that wants no class: %v", at(got, "spec", "storageClassName"))
	}
	// Of several the newest is used. Creation is told to the second, so the elder is made older.
	key := crdt.Key{Resource: "storage.k8s.io/storageclasses", Name: "std"}
	e, _ := n.store.Snapshot().Get(key)
	elder := &storagev1.StorageClass{}
	check(t, e.Into(elder))
	elder.TypeMeta = metav1.TypeMeta{APIVersion: "storage.k8s.io/v1", Kind: "StorageClass"}
	elder.CreationTimestamp = metav1.NewTime(elder.CreationTimestamp.Add(-time.Hour))
	_, err := n.store.Commit(context.Background(), store.Write{Key: key, Object: elder, Base: e})
	check(t, err)
	class("zzz", "")
	if got := n.expect(http.StatusCreated, "POST", claimsPath, "", claim("b", "")); at(got, "spec", "storageClassName") != "zzz" {
		t.Errorf("with two default classes: %v", at(got, "spec", "storageClassName"))
	}

	volume := n.expect(http.StatusCreated, "POST", "/api/v1/persistentvolumes", "", `{apiVersion: v1, kind: PersistentVolume, metadata: {name: v},
		spec: {capacity: {storage: 1Mi}, accessModes: [ReadWriteOnce], hostPath: {path: /v}}}`)
	if fmt.Sprint(at(volume, "metadata", "finalizers")) != "[kubernetes.io/pv-protection]" {
		t.Errorf("a volume: %v", at(volume, "metadata", "finalizers"))
	}
	// A claim grows only if its class lets it.
	n.expect(http.StatusOK, "PATCH", claimsPath+"/a", mergePatch, `{"spec":{"volumeName":"v"}}`)
	n.expect(http.StatusOK, "PATCH", claimsPath+"/a/status", mergePatch, `{"status":{"phase":"Bound","capacity":{"storage":"1Mi"}}}`)
	n.expect(http.StatusForbidden, "PATCH", claimsPath+"/a", mergePatch, `{"spec":{"resources":{"requests":{"storage":"2Mi"}}}}`,
		"only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")

	n.expect(http.StatusCreated, "POST", "/apis/networking.k8s.io/v1/ingressclasses", "", `{apiVersion: networking.k8s.io/v1, kind: IngressClass,
		metadata: {name: web, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}, spec: {controller: example.test/web}}`)
	ingress := n.expect(http.StatusCreated, "POST", "/apis/networking.k8s.io/v1/namespaces/default/ingresses", "",
		`{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {defaultBackend: {service: {name: x, port: {number: 80}}}}}`)
	if at(ingress, "spec", "ingressClassName") != "web" {
		t.Errorf("an ingress: %v", at(ingress, "spec", "ingressClassName"))
	}
}

// TestExternalIPs: an address of one's choice is refused, unless the node was told to let it in. What is there stays, and can be taken away.
func TestExternalIPs(t *testing.T) {
	const path = "/api/v1/namespaces/default/services"
	service := func(name, ips string) string {
		return `{apiVersion: v1, kind: Service, metadata: {name: ` + name + `}, spec: {externalIPs: [` + ips + `], ports: [{port: 53}]}}`
	}
	n := newNode(t, nil)
	n.expect(http.StatusForbidden, "POST", path, "", service("s", "10.43.0.10"), "Use of external IPs is denied by admission control")
	n.expect(http.StatusCreated, "POST", path, "", service("s", ""))
	n.expect(http.StatusForbidden, "PATCH", path+"/s", mergePatch, `{"spec":{"externalIPs":["10.43.0.10"]}}`)

	n = newNode(t, func(c *Config) { c.ExternalIPs = true })
	n.expect(http.StatusCreated, "POST", path, "", service("s", "203.0.113.9"))
}

// TestNodeIsKeptToItself: a node writes what is its own and reads what has to do with its pods.
func TestNodeIsKeptToItself(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	admin := n.As("admin", "system:masters")
	for _, name := range []string{"mine", "theirs"} {
		_, err := admin.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}})
		check(t, err)
		_, err = admin.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}})
		check(t, err)
		n.expect(http.StatusCreated, "POST", "/api/v1/namespaces/default/persistentvolumeclaims", "",
			`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: `+name+`}, spec: {volumeName: `+name+`, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}`)
		n.expect(http.StatusCreated, "POST", "/api/v1/persistentvolumes", "", `{apiVersion: v1, kind: PersistentVolume, metadata: {name: `+name+`}, spec: {
			capacity: {storage: 1Mi}, accessModes: [ReadWriteOnce], hostPath: {path: /v}, claimRef: {namespace: default, name: `+name+`}}}`)
		on := map[string]string{"mine": "n1", "theirs": "n2"}[name]
		_, err = admin.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{NodeName: on,
			Containers: []corev1.Container{{Name: "c", Image: "i", EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}}}},
			Volumes: []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}},
				{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}}})
		check(t, err)
		made, err := admin.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: on, Labels: map[string]string{"topology.kubernetes.io/zone": "z-" + on}}})
		check(t, err)
		// Until somebody says that it is ready it is not.
		if taints := made.(*corev1.Node).Spec.Taints; len(taints) != 1 || taints[0].Key != corev1.TaintNodeNotReady || taints[0].Effect != corev1.TaintEffectNoSchedule {
			t.Errorf("a new node has the taints %v", taints)
		}
	}
	asNode := n.as("system:node:n1", "system:nodes")
	const core = "/api/v1/namespaces/default/"
	for _, c := range []struct {
		code               int
		method, path, body string
	}{
		{200, "GET", core + "secrets/mine", ""},
		{403, "GET", core + "secrets/theirs", ""},
		{403, "GET", core + "secrets/absent", ""},
		{403, "GET", core + "secrets", ""},
		{403, "GET", "/api/v1/secrets", ""},
		{200, "GET", core + "secrets?fieldSelector=metadata.name%3Dmine", ""},
		{200, "GET", core + "configmaps/mine", ""},
		{403, "GET", core + "configmaps/theirs", ""},
		{200, "GET", core + "persistentvolumeclaims/mine", ""},
		{403, "GET", core + "persistentvolumeclaims/theirs", ""},
		{200, "GET", "/api/v1/persistentvolumes/mine", ""},
		{403, "GET", "/api/v1/persistentvolumes/theirs", ""},
		{200, "GET", core + "pods/mine", ""},
		{403, "GET", core + "pods/theirs", ""},
		{403, "GET", "/api/v1/pods", ""},
		{200, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", ""},
		{403, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2", ""},
		{200, "GET", "/api/v1/nodes/n1", ""},
		{403, "GET", "/api/v1/nodes/n2", ""},
		{200, "GET", "/api/v1/services", ""},

		{200, "PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"mine":"1"}}}`},
		{403, "PATCH", "/api/v1/nodes/n2", `{"metadata":{"labels":{"mine":"1"}}}`},
		{403, "PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"node-restriction.kubernetes.io/trusted":"1"}}}`},
		{403, "PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`},
		{403, "PATCH", "/api/v1/nodes/n1", `{"spec":{"taints":null}}`},
		{403, "PATCH", "/api/v1/nodes/n1", `{"metadata":{"annotations":{"murmur.io/serf":"10.0.0.1:1"}}}`},
		{200, "PATCH", core + "pods/mine/status", `{"status":{"message":"m"}}`},
		{403, "PATCH", core + "pods/theirs/status", `{"status":{"message":"m"}}`},
		{403, "PATCH", core + "pods/mine/status", `{"metadata":{"labels":{"a":"b"}}}`},
		{403, "PATCH", core + "pods/mine/status", `{"metadata":{"annotations":{"placement.murmur.io/claim.n1":"{}"}}}`},
		{403, "POST", core + "pods/theirs/eviction", `{apiVersion: policy/v1, kind: Eviction, metadata: {name: theirs}}`},
		{403, "DELETE", core + "pods/theirs", ""},
		{403, "POST", core + "pods", `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: n1, containers: [{name: c, image: i}]}}`},
		{201, "POST", core + "pods/mine/eviction", `{apiVersion: policy/v1, kind: Eviction, metadata: {name: mine}}`},
	} {
		kind, body := "", c.body
		if c.method == "PATCH" {
			kind = mergePatch
		}
		if body == "" {
			body = "null"
		}
		if code, out, _ := asNode.send(c.method, c.path, kind, body); code != c.code {
			t.Errorf("%s %s %s: %d, want %d: %v", c.method, c.path, c.body, code, c.code, out["message"])
		}
	}
	// A pod that is bound through the API has where its node is in its labels.
	_, err := admin.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bound", Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	check(t, err)
	n.expect(http.StatusCreated, "POST", core+"pods/bound/binding", "", `{apiVersion: v1, kind: Binding, metadata: {name: bound}, target: {kind: Node, name: n1}}`)
	if got := at(n.expect(http.StatusOK, "GET", core+"pods/bound", "", "null"), "metadata", "labels", "topology.kubernetes.io/zone"); got != "z-n1" {
		t.Errorf("a bound pod's zone is %v", got)
	}
}

// TestCertificateRequests: who may write approvals and certificates may do so for the signers that he was given, and nobody asks for an
// administrator's.
func TestCertificateRequests(t *testing.T) {
	n := newNode(t, nil)
	request := func(name, signer string, groups ...string) string {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(t, err)
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "someone", Organization: groups}}, key)
		check(t, err)
		return fmt.Sprintf(`{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {name: %s}, spec: {signerName: %s, usages: [client auth], request: %q}}`,
			name, signer, base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
	}
	const path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	n.expect(http.StatusForbidden, "POST", path, "", request("master", "kubernetes.io/kube-apiserver-client", "system:masters"), "system:masters group is not allowed")
	n.expect(http.StatusCreated, "POST", path, "", request("a", "example.test/ours", "people"))
	n.expect(http.StatusCreated, "POST", path, "", request("b", "example.test/theirs", "people"))
	n.expect(http.StatusCreated, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: approver}, rules: [
		{apiGroups: [certificates.k8s.io], resources: [certificatesigningrequests/approval, certificatesigningrequests/status, clustertrustbundles], verbs: [update, patch, create]},
		{apiGroups: [certificates.k8s.io], resources: [signers], resourceNames: [example.test/ours], verbs: [approve, sign, attest]}]}`)
	n.expect(http.StatusCreated, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding,
		metadata: {name: approver}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: approver}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: approver}]}`)
	approver := n.as("approver")
	approved := `{"status":{"conditions":[{"type":"Approved","status":"True","reason":"R","message":"m"}]}}`
	approver.expect(http.StatusOK, "PATCH", path+"/a/approval", mergePatch, approved)
	approver.expect(http.StatusForbidden, "PATCH", path+"/b/approval", mergePatch, approved, `user not permitted to approve requests with signerName \"example.test/theirs\"`)
	certificate := fmt.Sprintf(`{"status":{"certificate":%q}}`, base64.StdEncoding.EncodeToString(n.ca.pem))
	approver.expect(http.StatusOK, "PATCH", path+"/a/status", mergePatch, certificate)
	approver.expect(http.StatusForbidden, "PATCH", path+"/b/status", mergePatch, certificate, `user not permitted to sign requests with signerName \"example.test/theirs\"`)

	bundle := func(signer string) string {
		return fmt.Sprintf(`{apiVersion: certificates.k8s.io/v1, kind: ClusterTrustBundle, metadata: {name: "%s:b"}, spec: {signerName: %s, trustBundle: %q}}`,
			map[string]string{"example.test/ours": "example.test:ours", "example.test/theirs": "example.test:theirs"}[signer], signer, n.ca.pem)
	}
	const bundles = "/apis/certificates.k8s.io/v1/clustertrustbundles"
	approver.expect(http.StatusCreated, "POST", bundles, "", bundle("example.test/ours"))
	approver.expect(http.StatusForbidden, "POST", bundles, "", bundle("example.test/theirs"), "user not permitted to attest")
}
