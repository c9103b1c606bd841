package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// upstreamDir has the module that names upstream's programs and their versions.
const upstreamDir = "test/bench/upstream"

// buildUpstream builds etcd and kube-apiserver, which takes minutes the first time, and returns where they are.
func buildUpstream(ctx context.Context) (string, error) {
	built, err := filepath.Abs(filepath.Join(upstreamDir, ".cache"))
	if err != nil {
		return "", err
	}
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir, cmd.Stderr = upstreamDir, os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(out)), nil
	}
	version, err := run("list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	if err != nil {
		return "", err
	}
	flags := "-s -w -X k8s.io/component-base/version.gitVersion=" + version
	for program, pkg := range map[string]string{"etcd": "go.etcd.io/etcd/server/v3", "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver"} {
		if _, err := run("build", "-ldflags", flags, "-o", filepath.Join(built, program), pkg); err != nil {
			return "", err
		}
	}
	return built, nil
}

// upstream is an etcd and a kube-apiserver on this machine's loopback, set up as kubeadm does: TLS between all, client
// certificates, RBAC.
type upstream struct {
	dir, kubeconfig string
	programs        []*exec.Cmd
}

// upstreamData is on the same disk as the labs are.
const upstreamData = "/var/lib"

// startUpstream returns when the API is ready. The caller ends it, unless there is an error.
func startUpstream(ctx context.Context, built string) (u *upstream, err error) {
	dir, err := os.MkdirTemp(upstreamData, "murmur-bench-")
	if err != nil {
		return nil, err
	}
	u = &upstream{dir: dir, kubeconfig: filepath.Join(dir, "kubeconfig")}
	defer func() {
		if err != nil {
			err = u.explain(err)
			u.end()
		}
	}()
	pki, err := newAuthority(dir)
	if err != nil {
		return nil, err
	}
	server, err := pki.issue("server", pkix.Name{CommonName: "kube-apiserver"})
	if err != nil {
		return nil, err
	}
	admin, err := pki.issue("admin", pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	if err != nil {
		return nil, err
	}
	var ports [3]string
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	etcd, peer, api := "https://127.0.0.1:"+ports[0], "https://127.0.0.1:"+ports[1], "https://127.0.0.1:"+ports[2]
	err = u.start(filepath.Join(built, "etcd"),
		"--name=bench", "--data-dir="+filepath.Join(dir, "etcd"), "--log-level=warn",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=bench="+peer,
		"--cert-file="+server.cert, "--key-file="+server.key, "--client-cert-auth", "--trusted-ca-file="+pki.file,
		"--peer-cert-file="+server.cert, "--peer-key-file="+server.key, "--peer-client-cert-auth", "--peer-trusted-ca-file="+pki.file)
	if err != nil {
		return nil, err
	}
	err = u.start(filepath.Join(built, "kube-apiserver"),
		"--etcd-servers="+etcd, "--etcd-cafile="+pki.file, "--etcd-certfile="+server.cert, "--etcd-keyfile="+server.key,
		"--bind-address=127.0.0.1", "--secure-port="+ports[2], "--tls-cert-file="+server.cert, "--tls-private-key-file="+server.key,
		"--client-ca-file="+pki.file, "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer="+api, "--service-account-key-file="+server.key, "--service-account-signing-key-file="+server.key,
		"--service-cluster-ip-range=10.96.0.0/12", "--endpoint-reconciler-type=none", "--cert-dir="+dir)
	if err != nil {
		return nil, err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["bench"] = &clientcmdapi.Cluster{Server: api, CertificateAuthority: pki.file}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificate: admin.cert, ClientKey: admin.key}
	config.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench", AuthInfo: "admin"}
	config.CurrentContext = "bench"
	if err := clientcmd.WriteToFile(*config, u.kubeconfig); err != nil {
		return nil, err
	}
	return u, u.ready(ctx, pki, admin, api)
}

// ready waits until the API says so.
func (u *upstream) ready(ctx context.Context, pki *authority, as keyPair, api string) error {
	roots := x509.NewCertPool()
	roots.AddCert(pki.cert)
	certificate, err := tls.LoadX509KeyPair(as.cert, as.key)
	if err != nil {
		return err
	}
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}}}}
	for until := time.Now().Add(time.Minute); time.Now().Before(until); {
		r, err := c.Get(api + "/readyz")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return nil
			}
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("upstream's API is not ready after a minute")
}

func (u *upstream) log(program string) string {
	return filepath.Join(u.dir, filepath.Base(program)+".log")
}

func (u *upstream) start(program string, args ...string) error {
	log, err := os.Create(u.log(program))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // an interrupt from the terminal is for us
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	u.programs = append(u.programs, cmd)
	return nil
}

// explain adds the ends of the logs.
func (u *upstream) explain(err error) error {
	for _, p := range u.programs {
		b, _ := os.ReadFile(u.log(p.Path))
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		err = fmt.Errorf("%w\n%s: %s", err, filepath.Base(p.Path), strings.Join(lines[max(0, len(lines)-5):], "\n"))
	}
	return err
}

// end kills the programs and removes their disk.
func (u *upstream) end() {
	for _, p := range u.programs {
		_ = p.Process.Kill()
		_ = p.Wait()
	}
	_ = os.RemoveAll(u.dir)
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// authority signs the certificates of one upstream.
type authority struct {
	dir, file string
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
	serial    int64
}

// keyPair names two files.
type keyPair struct{ cert, key string }

func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir, file: filepath.Join(dir, "ca.crt"), key: key, serial: 1}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: "bench"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, writePEM(a.file, "CERTIFICATE", der)
}

func (a *authority) issue(name string, subject pkix.Name) (keyPair, error) {
	pair := keyPair{filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair, err
	}
	a.serial++
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: subject, NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}, a.cert, key.Public(), a.key)
	if err != nil {
		return pair, err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return pair, err
	}
	return pair, errors.Join(writePEM(pair.cert, "CERTIFICATE", der), writePEM(pair.key, "EC PRIVATE KEY", private))
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
