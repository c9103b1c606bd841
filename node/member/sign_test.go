package member

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"testing"
	"time"

	"crypto/rand"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// TestSign: an issuer signs what was approved, under its CA and for no longer than asked; nobody becomes a member or an administrator by it.
func TestSign(t *testing.T) {
	now := time.Now()
	id, err := Found("n1", json.RawMessage("{}"), "", now)
	if err != nil {
		t.Fatal(err)
	}
	issuer, other := &Self{}, &Self{}
	issuer.id.Store(id)
	without := id.clone()
	without.Cluster.CAKey = nil
	other.id.Store(without)
	mark := &url.URL{Scheme: markScheme, Host: markNode, Path: "/x"}
	request := func(template x509.CertificateRequest) []byte {
		t.Helper()
		key, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	client, server := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}, []certificatesv1.KeyUsage{certificatesv1.UsageServerAuth}
	ann := x509.CertificateRequest{Subject: pkix.Name{CommonName: "ann", Organization: []string{"dev"}}}
	node := x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}, DNSNames: []string{"n1"}}
	for _, c := range []struct {
		name   string
		self   *Self
		der    []byte
		usages []certificatesv1.KeyUsage
		signed bool
	}{
		{"a person", issuer, request(ann), client, true},
		{"a kubelet's server", issuer, request(node), server, true},
		{"a member", issuer, request(node), client, false},
		{"marked", issuer, request(x509.CertificateRequest{Subject: ann.Subject, URIs: []*url.URL{mark}}), client, false},
		{"an administrator", issuer, request(x509.CertificateRequest{Subject: pkix.Name{CommonName: "eve", Organization: []string{"system:masters"}}}), client, false},
		{"for signing others", issuer, request(ann), []certificatesv1.KeyUsage{certificatesv1.UsageCertSign}, false},
		{"damaged", issuer, request(ann)[:40], client, false},
		{"by no issuer", other, request(ann), client, false},
	} {
		cert, err := c.self.Sign(c.der, c.usages, time.Hour, now)
		if (err == nil) != c.signed {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil {
			continue
		}
		block, _ := pem.Decode(cert)
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		roots, err := id.roots()
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		for _, root := range roots {
			pool.AddCert(root)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if leaf.IsCA || len(leaf.URIs) > 0 || leaf.NotAfter.After(now.Add(time.Hour)) {
			t.Errorf("%s: %v until %s", c.name, leaf.IsCA, leaf.NotAfter)
		}
	}
}

// TestKeyOfTheCABefore: an issuer whose key is of an earlier CA than its certificate has no key, and is to ask for one; it starts all the
// same.
func TestKeyOfTheCABefore(t *testing.T) {
	now := time.Now()
	id, err := Found("n1", json.RawMessage("{}"), "", now)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Found("n1", json.RawMessage("{}"), "", now)
	if err != nil {
		t.Fatal(err)
	}
	id.Cluster.CACert = other.Cluster.CACert
	if _, ok, err := id.authority(); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}

// TestLearntKeysAreReadForAWhile: a key that was dropped and is told again, by a member that has not heard so, is read long enough to tell
// it.
func TestLearntKeysAreReadForAWhile(t *testing.T) {
	now := time.Now()
	s := &Self{}
	old, current := newGossipKey(), newGossipKey()
	s.learnt.Store(gossipName(old), now)
	ring := Ring{current}
	if got := s.withLearnt(ring, Ring{current, old}, now.Add(learntFor-1)); !got.has(old) || len(got) != 2 {
		t.Error("it is dropped at once")
	}
	if got := s.withLearnt(ring, Ring{current, old}, now.Add(learntFor)); got.has(old) {
		t.Error("it is read for ever")
	}
	if got := s.withLearnt(ring, Ring{current, newGossipKey()}, now); len(got) != 1 {
		t.Error("one that nobody told is kept")
	}
}
