package httpapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

const podCertificates = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests"

// TestPodCertificateRequests: a node asks for the certificates of its own pods, for the signers that they name, and reads its own
// requests; a signer answers for the names that it was given, once.
func TestPodCertificateRequests(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	admin := n.As("admin", "system:masters")
	account, ok := store.Get[corev1.ServiceAccount](n.store.Snapshot(), crdt.Key{Resource: "serviceaccounts", Namespace: "default", Name: "default"})
	if !ok {
		t.Fatal("no ServiceAccount")
	}
	const ours, theirs = "example.test/ours", "example.test/theirs"
	pods, nodes := map[string]*corev1.Pod{}, map[string]*corev1.Node{}
	for name, on := range map[string]string{"mine": "n1", "other": "n2"} {
		obj, err := admin.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: on}})
		check(t, err)
		nodes[on] = obj.(*corev1.Node)
		obj, err = admin.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{NodeName: on,
			Containers: []corev1.Container{{Name: "c", Image: "i"}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{PodCertificate: &corev1.PodCertificateProjection{SignerName: ours, KeyType: "ECDSAP256", CredentialBundlePath: "b"}}}}}}}}})
		check(t, err)
		pods[name] = obj.(*corev1.Pod)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	check(t, err)
	request := func(name, pod string, change func(*certificatesv1.PodCertificateRequest)) *certificatesv1.PodCertificateRequest {
		p := pods[pod]
		r := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: ours, PodName: p.Name, PodUID: p.UID, ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
			NodeName: "n1", NodeUID: nodes["n1"].UID, StubPKCS10Request: stub}}
		if change != nil {
			change(r)
		}
		return r
	}
	asNode := n.As("system:node:n1", "system:nodes")
	for _, c := range []struct {
		name, pod, want string
		change          func(*certificatesv1.PodCertificateRequest)
	}{
		{"a", "mine", "", nil},
		{"b", "other", `pod "default/other" is not running on node "n1"`, nil},
		{"c", "mine", `does not mount a podCertificate projected volume for signer "example.test/theirs"`, func(r *certificatesv1.PodCertificateRequest) { r.Spec.SignerName = theirs }},
		{"d", "mine", "which is not the requesting node", func(r *certificatesv1.PodCertificateRequest) { r.Spec.NodeName, r.Spec.NodeUID = "n2", nodes["n2"].UID }},
		{"e", "mine", "differs from running pod", func(r *certificatesv1.PodCertificateRequest) { r.Spec.PodUID = "00000000-0000-0000-0000-000000000000" }},
		{"f", "mine", "names service account UID", func(r *certificatesv1.PodCertificateRequest) {
			r.Spec.ServiceAccountUID = "00000000-0000-0000-0000-000000000000"
		}},
		{"g", "mine", "stubPKCS10Request", func(r *certificatesv1.PodCertificateRequest) { r.Spec.StubPKCS10Request = stub[:10] }},
	} {
		_, err := asNode.Create(ctx, request(c.name, c.pod, c.change))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("request %s: %v, want %q", c.name, err, c.want)
		}
	}
	// Who was given the right to make any request makes any.
	_, err = admin.Create(ctx, request("elsewhere", "other", func(r *certificatesv1.PodCertificateRequest) { r.Spec.NodeName, r.Spec.NodeUID = "n2", nodes["n2"].UID }))
	check(t, err)

	made := n.expect(http.StatusOK, "GET", podCertificates+"/a", "", "null")
	if at(made, "spec", "maxExpirationSeconds") != float64(86400) {
		t.Errorf("the longest life is %v", at(made, "spec", "maxExpirationSeconds"))
	}
	web := n.as("system:node:n1", "system:nodes")
	for _, c := range []struct {
		code               int
		method, path, body string
	}{
		{200, "GET", "/a", "null"},
		{403, "GET", "/elsewhere", "null"},
		{403, "GET", "", "null"},
		{200, "GET", "?fieldSelector=spec.nodeName%3Dn1", "null"},
		{403, "GET", "?fieldSelector=spec.nodeName%3Dn2", "null"},
		{403, "DELETE", "/a", "null"},
		{403, "PATCH", "/a", `{"metadata":{"labels":{"a":"b"}}}`},
		{403, "PATCH", "/a/status", `{"status":{"conditions":[{"type":"Denied","status":"True","reason":"R","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`},
	} {
		kind := ""
		if c.method == "PATCH" {
			kind = mergePatch
		}
		if code, out, _ := web.send(c.method, podCertificates+c.path, kind, c.body); code != c.code {
			t.Errorf("%s %s by a node: %d, want %d: %v", c.method, c.path, code, c.code, out["message"])
		}
	}
	for selector, want := range map[string]int{"spec.signerName=" + ours: 2, "spec.signerName=" + theirs: 0, "spec.podName=mine": 1} {
		items, _ := n.expect(http.StatusOK, "GET", podCertificates+"?fieldSelector="+strings.Replace(selector, "=", "%3D", 1), "", "null")["items"].([]any)
		if len(items) != want {
			t.Errorf("%s selects %d", selector, len(items))
		}
	}

	n.expect(http.StatusCreated, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: signer}, rules: [
		{apiGroups: [certificates.k8s.io], resources: [podcertificaterequests/status], verbs: [update, patch]},
		{apiGroups: [certificates.k8s.io], resources: [signers], resourceNames: [`+ours+`], verbs: [sign]}]}`)
	n.expect(http.StatusCreated, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding,
		metadata: {name: signer}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: signer}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: signer}]}`)
	signer := n.as("signer")
	denied := `{"status":{"conditions":[{"type":"Denied","status":"True","reason":"R","message":"m","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`
	_, err = admin.Create(ctx, request("not-ours", "mine", func(r *certificatesv1.PodCertificateRequest) { r.Spec.SignerName = theirs }))
	check(t, err)
	signer.expect(http.StatusUnprocessableEntity, "PATCH", podCertificates+"/not-ours/status", mergePatch, denied, `User \"signer\" is not permitted to \"sign\" for signer \"example.test/theirs\"`)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	signer.expect(http.StatusUnprocessableEntity, "PATCH", podCertificates+"/a/status", mergePatch, n.issued(&stranger.PublicKey), "was not issued to the requested public key")
	signer.expect(http.StatusOK, "PATCH", podCertificates+"/a/status", mergePatch, n.issued(&key.PublicKey))
	signer.expect(http.StatusUnprocessableEntity, "PATCH", podCertificates+"/a/status", mergePatch, denied)
	signer.expect(http.StatusOK, "PATCH", podCertificates+"/elsewhere/status", mergePatch, denied)
	n.expect(http.StatusUnprocessableEntity, "PATCH", podCertificates+"/a", mergePatch, `{"spec":{"podName":"x"}}`, "immutable")
	n.expect(http.StatusOK, "PATCH", podCertificates+"/a", mergePatch, `{"metadata":{"labels":{"a":"b"}}}`)

	r, err := http.NewRequest("GET", n.url+podCertificates, nil)
	check(t, err)
	r.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	res, err := n.web.Do(r)
	check(t, err)
	defer res.Body.Close()
	var table metav1.Table
	check(t, json.NewDecoder(res.Body).Decode(&table))
	want := []string{"a mine default n1 example.test/ours Issued", "elsewhere other default n2 example.test/ours Denied", "not-ours mine default n1 example.test/theirs Pending"}
	var rows []string
	for _, row := range table.Rows {
		cells := make([]string, 0, len(row.Cells))
		for _, c := range row.Cells {
			cells = append(cells, fmt.Sprint(c))
		}
		rows = append(rows, strings.Join(cells[:min(6, len(cells))], " "))
	}
	if !slices.Equal(rows, want) {
		t.Errorf("the table is %q, want %q", rows, want)
	}
}

// issued is the status of a request whose certificate the test's CA has signed.
func (n *node) issued(public *ecdsa.PublicKey) string {
	n.t.Helper()
	from := time.Now().Add(-time.Minute).UTC().Truncate(time.Second)
	until := from.Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "pod"}, NotBefore: from, NotAfter: until}, n.ca.cert, public, n.ca.key)
	check(n.t, err)
	chain := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	at := func(t time.Time) string { return t.Format(time.RFC3339) }
	return fmt.Sprintf(`{"status":{"certificateChain":%q,"notBefore":%q,"beginRefreshAt":%q,"notAfter":%q,
		"conditions":[{"type":"Issued","status":"True","reason":"Signed","message":"m","lastTransitionTime":%q}]}}`,
		chain, at(from), at(until.Add(-20*time.Minute)), at(until), at(from))
}

// TestPodCertificateExpiration: how long a pod's certificate may last is bounded where the pod is made.
func TestPodCertificateExpiration(t *testing.T) {
	n := newNode(t, nil)
	for seconds, want := range map[int]string{3599: "if provided, maxExpirationSeconds must be >= 3600", 91*86400 + 1: "if provided, maxExpirationSeconds must be <= 7862400"} {
		code, out, _ := n.send("POST", "/api/v1/namespaces/default/pods", "", fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}],
			volumes: [{name: v, projected: {sources: [{podCertificate: {signerName: example.test/s, keyType: ED25519, credentialBundlePath: b, maxExpirationSeconds: %d}}]}}]}}`, seconds))
		if message := fmt.Sprint(out["message"]); code != http.StatusUnprocessableEntity || !strings.Contains(message, want) {
			t.Errorf("%d seconds: %d %s", seconds, code, message)
		}
	}
}

// TestPodCertificateRequestPatches: every kind of patch changes labels and issues a certificate, by JSON patch also where there was no status.
func TestPodCertificateRequestPatches(t *testing.T) {
	n := newNode(t, nil)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	check(t, err)
	label, issued := `{"metadata":{"labels":{"a":"b"}}}`, n.issued(&key.PublicKey)
	var status struct{ Status map[string]json.RawMessage }
	check(t, json.Unmarshal([]byte(issued), &status))
	var adds []string
	for field, value := range status.Status {
		adds = append(adds, fmt.Sprintf(`{"op":"add","path":"/status/%s","value":%s}`, field, value))
	}
	apply := func(body string) string {
		return `{"apiVersion":"certificates.k8s.io/v1","kind":"PodCertificateRequest",` + body[1:]
	}
	for _, c := range []struct{ kind, query, label, status string }{
		{"application/apply-patch+yaml", "?fieldManager=test&force=true", apply(label), apply(issued)},
		{"application/strategic-merge-patch+json", "", label, issued},
		{mergePatch, "", label, issued},
		{"application/json-patch+json", "", `[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]`, "[" + strings.Join(adds, ",") + "]"},
	} {
		made := n.expect(http.StatusCreated, "POST", podCertificates, "", fmt.Sprintf(`{apiVersion: certificates.k8s.io/v1, kind: PodCertificateRequest, metadata: {generateName: req-}, spec: {
			signerName: example.test/s, podName: p, podUID: 12345678-1234-1234-1234-123456789012, serviceAccountName: default, serviceAccountUID: 12345678-1234-1234-1234-123456789013,
			nodeName: n1, nodeUID: 12345678-1234-1234-1234-123456789014, stubPKCS10Request: %q}}`, base64.StdEncoding.EncodeToString(stub)))
		path := podCertificates + "/" + at(made, "metadata", "name").(string)
		if got := n.expect(http.StatusOK, "PATCH", path+c.query, c.kind, c.label); at(got, "metadata", "labels", "a") != "b" {
			t.Errorf("%s: labels %v", c.kind, at(got, "metadata", "labels"))
		}
		n.expect(http.StatusOK, "PATCH", path+"/status"+c.query, c.kind, c.status)
		got := n.expect(http.StatusOK, "GET", path+"/status", "", "null")
		conditions, _ := at(got, "status", "conditions").([]any)
		if chain, _ := at(got, "status", "certificateChain").(string); !strings.HasPrefix(chain, "-----BEGIN CERTIFICATE") || len(conditions) != 1 || at(got, "metadata", "labels", "a") != "b" {
			t.Errorf("%s: %v", c.kind, got)
		}
	}
	n.expect(http.StatusOK, "DELETE", podCertificates, "", "null")
	if items, _ := n.expect(http.StatusOK, "GET", podCertificates, "", "null")["items"].([]any); len(items) > 0 {
		t.Errorf("%d left", len(items))
	}
}
