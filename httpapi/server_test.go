package httpapi

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt/store"
)

// authority is a cluster CA for a test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	return &authority{key, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue signs a certificate; with groups it is a client's.
func (a *authority) issue(t testing.TB, name string, groups ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	check(t, err)
	raw, err := x509.MarshalECPrivateKey(key)
	check(t, err)
	cert, err := tls.X509KeyPair(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
	check(t, err)
	return cert
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is the API of one node on loopback, over a store in memory.
type node struct {
	*Server
	t     testing.TB
	store *store.Store
	ca    *authority
	url   string
	admin string       // kubeconfig
	web   *http.Client // as admin; made by send
}

func newNode(t testing.TB, change func(*Config)) *node {
	t.Helper()
	dir := t.TempDir()
	store, err := store.Open(store.Config{Cluster: "test"})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	stored := make(chan error, 1)
	go func() { stored <- store.Run(ctx) }()
	ca := newAuthority(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	cfg := Config{
		Store: store, Node: "n1", Listener: l, ServiceAccountKey: key,
		TLS: &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "localhost")}, ClientCAs: pool},
		Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	check(t, err)
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Run(serving) }()
	check(t, s.Bootstrap(ctx))
	for _, ns := range []string{"default", "kube-system"} {
		_, err := s.As("system:serviceaccount:kube-system:service-account-controller", "system:masters").
			Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: ns}})
		check(t, err)
	}
	n := &node{Server: s, t: t, store: store, ca: ca, url: "https://" + l.Addr().String()}
	n.admin = n.kubeconfig(dir, "admin", "system:masters")
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		cancel()
		<-stored
		store.Close()
	})
	return n
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

func (n *node) kubeconfig(dir, user string, groups ...string) string {
	n.t.Helper()
	cert := n.ca.issue(n.t, user, groups...)
	key, err := x509.MarshalECPrivateKey(cert.PrivateKey.(*ecdsa.PrivateKey))
	check(n.t, err)
	path := filepath.Join(dir, user)
	check(n.t, os.WriteFile(path+".ca", n.ca.pem, 0o600))
	check(n.t, os.WriteFile(path+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600))
	check(n.t, os.WriteFile(path+".key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key}), 0o600))
	check(n.t, os.WriteFile(path+".yaml", fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: u, user: {client-certificate: %q, client-key: %q}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
`, n.url, path+".ca", path+".crt", path+".key"), 0o600))
	return path + ".yaml"
}

// client is an HTTP client with a certificate for the user, or none.
func (n *node) client(user string, groups ...string) *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(n.ca.cert)
	c := &tls.Config{RootCAs: pool}
	if user != "" {
		c.Certificates = []tls.Certificate{n.ca.issue(n.t, user, groups...)}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}}
}

// kubectls are the real clients that are there.
func kubectls(t testing.TB) []string {
	var out []string
	for _, path := range []string{"../bin/kubectl", "/usr/bin/kubectl"} {
		if _, err := os.Stat(path); err == nil {
			abs, err := filepath.Abs(path)
			check(t, err)
			out = append(out, abs)
		}
	}
	if len(out) == 0 {
		t.Skip("no kubectl: neither bin/kubectl (make build) nor /usr/bin/kubectl")
	}
	return out
}

// kubectl runs one command and returns what it printed; err is its exit.
func (n *node) kubectl(bin, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+n.admin, "KUBE_EDITOR=sed -i s/front/back/", "HOME="+filepath.Dir(n.admin))
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (n *node) must(bin, stdin string, args ...string) string {
	n.t.Helper()
	out, err := n.kubectl(bin, stdin, args...)
	if err != nil {
		n.t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	check(t, err)
	return string(b)
}
