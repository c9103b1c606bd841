package control

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// requestOf is a request in PEM.
func requestOf(t *testing.T, template x509.CertificateRequest) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// TestSigning: approved requests for people and kubelets' servers are signed, once; what would make a member, an administrator or
// anything of no signer is not.
func TestSigning(t *testing.T) {
	client := []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature}
	server := []certificatesv1.KeyUsage{certificatesv1.UsageServerAuth, certificatesv1.UsageDigitalSignature}
	person := pkix.Name{CommonName: "ann", Organization: []string{"dev"}}
	kubelet := x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}
	mark, err := url.Parse("murmur://node/x")
	if err != nil {
		t.Fatal(err)
	}
	const people, kubelets = certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeletServingSignerName
	approved := []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved}
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- replica.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ran; replica.Close() })
	for _, name := range []string{"n1", "n2"} {
		n := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0." + name[1:]}}}}
		if _, err := replica.Commit(ctx, store.Write{Key: crdt.Key{Resource: "nodes", Name: name}, Object: n}); err != nil {
			t.Fatal(err)
		}
	}
	snap := replica.Snapshot()
	for _, c := range []struct {
		name, signer string
		template     x509.CertificateRequest
		usages       []certificatesv1.KeyUsage
		conditions   []certificatesv1.RequestConditionType
		want         string // "sign", "", or what the failure says
	}{
		{"a person", people, x509.CertificateRequest{Subject: person}, client, approved, "sign"},
		{"not approved", people, x509.CertificateRequest{Subject: person}, client, nil, ""},
		{"denied too", people, x509.CertificateRequest{Subject: person}, client, []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied}, ""},
		{"failed", people, x509.CertificateRequest{Subject: person}, client, []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateFailed}, ""},
		{"an administrator", people, x509.CertificateRequest{Subject: pkix.Name{CommonName: "eve", Organization: []string{"system:masters"}}}, client, approved, "system:masters"},
		{"a node", people, x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n9"}}, client, approved, "when it joins"},
		{"of the group of nodes", people, x509.CertificateRequest{Subject: pkix.Name{CommonName: "eve", Organization: []string{"system:nodes"}}}, client, approved, "when it joins"},
		{"marked as a member", people, x509.CertificateRequest{Subject: person, URIs: []*url.URL{mark}}, client, approved, "URI"},
		{"a person's server", people, x509.CertificateRequest{Subject: person}, server, approved, "server auth"},
		{"without a usage", people, x509.CertificateRequest{Subject: person}, nil, approved, "client auth"},
		{"a kubelet's server", kubelets, kubelet, server, approved, "sign"},
		{"of another's address", kubelets, x509.CertificateRequest{Subject: kubelet.Subject, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 2)}}, server, approved, "no address of node n1"},
		{"of the API's name", kubelets, x509.CertificateRequest{Subject: kubelet.Subject, DNSNames: []string{"kubernetes.default.svc"}}, server, approved, "no address of node n1"},
		{"another node's", kubelets, x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n2", Organization: kubelet.Subject.Organization}, DNSNames: []string{"n2"}}, server, approved, "asks for the serving certificate"},
		{"the API's own name", people, x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:apiserver"}}, client, approved, "the API itself"},
		{"a kubelet's client", kubelets, kubelet, client, approved, "usages"},
		{"another's server", kubelets, x509.CertificateRequest{Subject: person, IPAddresses: kubelet.IPAddresses}, server, approved, "organization"},
		{"a kubelet", certificatesv1.KubeAPIServerClientKubeletSignerName, kubelet, client, approved, ""},
		{"of no signer", "kubernetes.io/legacy-unknown", x509.CertificateRequest{Subject: person}, client, approved, ""},
		{"of another's signer", "example.com/x", x509.CertificateRequest{Subject: person}, client, approved, ""},
	} {
		r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"},
			Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: c.signer, Usages: c.usages, Request: requestOf(t, c.template), Username: "system:node:n1"}}
		for _, one := range c.conditions {
			r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: one, Status: corev1.ConditionTrue})
		}
		done := 0
		for _, self := range []string{"n1", "n2", "n3"} {
			w := &world{now: time.Now(), self: self, alive: []string{"n1", "n2", "n3"}, snap: snap}
			p := answer(w, []string{"n1", "n2", "gone"}, r)
			if len(p.writes) == 0 {
				continue
			}
			done++
			got := p.writes[0]
			conditions := got.obj.(*certificatesv1.CertificateSigningRequest).Status.Conditions
			switch {
			case self == "n3":
				t.Errorf("%s: %s answers, which is no issuer", c.name, self)
			case got.verb == sign && c.want != "sign", got.verb != sign && c.want == "sign":
				t.Errorf("%s: %s, want %q", c.name, got.verb, c.want)
			case got.verb == status && !strings.Contains(conditions[len(conditions)-1].Message, c.want):
				t.Errorf("%s: %q, want %q", c.name, conditions[len(conditions)-1].Message, c.want)
			}
		}
		if want := 1; c.want == "" && done != 0 || c.want != "" && done != want {
			t.Errorf("%s: %d nodes answer", c.name, done)
		}
		if p := answer(&world{now: time.Now(), self: "n1", alive: []string{"n1"}}, []string{"gone"}, r); len(p.writes) != 0 {
			t.Errorf("%s: answered without an issuer in reach", c.name)
		}
	}
	seconds := func(s int32) *int32 { return &s }
	for want, s := range map[time.Duration]*int32{365 * 24 * time.Hour: nil, 10 * time.Minute: seconds(1), time.Hour: seconds(3600)} {
		if got := life(s); got != want {
			t.Errorf("life: %s, want %s", got, want)
		}
	}
	if got := life(seconds(1 << 30)); got != longestLife {
		t.Errorf("the longest life: %s", got)
	}
}

// TestCleaning: requests go an hour after they were answered, and a day after nobody did.
func TestCleaning(t *testing.T) {
	made := time.Now().Truncate(time.Second)
	at := func(d time.Duration) metav1.Time { return metav1.NewTime(made.Add(d)) }
	for name, c := range map[string]struct {
		condition certificatesv1.RequestConditionType
		issued    bool
		kept      time.Duration
	}{
		"open":         {"", false, 24 * time.Hour},
		"approved":     {certificatesv1.CertificateApproved, false, time.Hour + 24*time.Hour},
		"issued":       {certificatesv1.CertificateApproved, true, 2 * time.Hour},
		"denied":       {certificatesv1.CertificateDenied, false, 2 * time.Hour},
		"not signable": {certificatesv1.CertificateFailed, false, 2 * time.Hour},
	} {
		r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r", CreationTimestamp: at(0)}}
		if c.condition != "" {
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: c.condition, Status: corev1.ConditionTrue, LastUpdateTime: at(time.Hour)}}
		}
		if c.issued {
			r.Status.Certificate = []byte("x")
		}
		if p := clean(&world{now: made.Add(c.kept - time.Second)}, r); len(p.writes) != 0 || !p.wake.Equal(made.Add(c.kept)) {
			t.Errorf("%s: %+v before its time", name, p)
		}
		if p := clean(&world{now: made.Add(c.kept)}, r); len(p.writes) != 1 || p.writes[0].verb != remove {
			t.Errorf("%s: %+v when it is time", name, p)
		}
	}
}
