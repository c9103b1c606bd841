package node

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"murmur/gossip"
)

// Cluster is what every member of a cluster holds and a joiner is given: with it a node can admit others, whoever else is
// reachable. It is secret.
type Cluster struct {
	ID string `json:"id"`
	// CACert and CAKey are PEM. The CA signs nodes, administrators and nothing else.
	CACert []byte `json:"caCert"`
	CAKey  []byte `json:"caKey"`
	// ServiceAccountKey is PEM; it signs the tokens of pods.
	ServiceAccountKey []byte `json:"serviceAccountKey"`
	GossipKey         []byte `json:"gossipKey"`
	// Secret is the second half of the permanent join token.
	Secret   string   `json:"secret"`
	Settings Settings `json:"settings"`
}

// identity is who this node is, on its disk.
type identity struct {
	// NodeID is drawn once per data directory.
	NodeID   string  `json:"nodeID"`
	NodeName string  `json:"nodeName"`
	Cluster  Cluster `json:"cluster"`
	// Inviters are the members by which a joiner finds the cluster, first the one that invited it; empty once it has the
	// cluster's state.
	Inviters []inviter `json:"inviters,omitempty"`
	// Opened tells that there has been a store: without one the node must not act.
	Opened bool `json:"opened,omitempty"`
	// Alone is the word of who restored this node that all others which the backup knows are gone: it forgets them when it starts.
	Alone bool `json:"alone,omitempty"`
}

const (
	caLife    = 20 * 365 * 24 * time.Hour
	certLife  = 365 * 24 * time.Hour
	adminLife = 365 * 24 * time.Hour
	// backdate lets a peer whose clock is behind accept a new certificate.
	backdate = 24 * time.Hour
)

func identityFile(dataDir string) string { return filepath.Join(dataDir, "identity.json") }

// loadIdentity reads the identity of a data directory; nil if it has none.
func loadIdentity(dataDir string) (*identity, error) {
	b, err := os.ReadFile(identityFile(dataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	id := &identity{}
	if err := json.Unmarshal(b, id); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): restore it from a backup, or remove %s and join again", identityFile(dataDir), err, dataDir)
	}
	return id, nil
}

// noIdentity is what is wrong with a data directory that has a store only.
func noIdentity(dataDir string) error {
	return fmt.Errorf("%s holds the state of a cluster, but %s, which says of which, is gone: restore it from a backup, or remove %s to begin anew",
		filepath.Join(dataDir, "store"), identityFile(dataDir), dataDir)
}

func (id *identity) save(dataDir string) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(identityFile(dataDir), b, 0o600)
}

// writeFile replaces a file as a whole, durably.
func writeFile(path string, b []byte, mode os.FileMode) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, werr := f.Write(b)
	if err := errors.Join(werr, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// newCluster founds a cluster.
func newCluster(settings Settings, secret string) (Cluster, error) {
	c := Cluster{ID: uuid.NewString(), Settings: settings, Secret: secret, GossipKey: make([]byte, 32)}
	if c.Secret == "" {
		c.Secret = newSecret(16)
	}
	_, _ = rand.Read(c.GossipKey)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "murmur-ca-" + c.ID[:8]},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return c, err
	}
	c.CACert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if c.CAKey, err = encodeKey(key); err != nil {
		return c, err
	}
	sa, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	c.ServiceAccountKey, err = encodeKey(sa)
	return c, err
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return n
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}

func decodeKey(b []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("no PEM key")
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

func decodeCert(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// caHash is the first half of a token: the SHA-256 of the CA certificate.
func caHash(caCert []byte) (string, error) {
	cert, err := decodeCert(caCert)
	if err != nil {
		return "", fmt.Errorf("cluster CA: %w", err)
	}
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:]), nil
}

// pool is the set of the cluster's CAs.
func (c Cluster) pool() (*x509.CertPool, error) {
	cert, err := decodeCert(c.CACert)
	if err != nil {
		return nil, fmt.Errorf("cluster CA: %w", err)
	}
	p := x509.NewCertPool()
	p.AddCert(cert)
	return p, nil
}

// issue signs a new key pair as a user, and as a server for names and addresses if there are any.
func (c Cluster) issue(user string, groups []string, life time.Duration, hosts ...string) (certPEM, keyPEM []byte, err error) {
	ca, err := decodeCert(c.CACert)
	if err != nil {
		return nil, nil, fmt.Errorf("cluster CA: %w", err)
	}
	caKey, err := decodeKey(c.CAKey)
	if err != nil {
		return nil, nil, fmt.Errorf("cluster CA's key: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: user, Organization: groups},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(hosts) > 0 {
		tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, &key.PublicKey, caKey)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate of %s: %w", user, err)
	}
	keyPEM, err = encodeKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, err
}

// nodeCertificate is this node's certificate, as a client and a server. It is made anew at every start and before
// half its life is over: nothing but the CA needs to be kept.
func (id *identity) nodeCertificate(cfg Config) (tls.Certificate, error) {
	s := id.Cluster.Settings
	hosts := append([]string{
		id.NodeName, "localhost", "127.0.0.1", cfg.NodeIP.String(), cfg.AdvertiseAddress,
		s.ServiceCIDR.Masked().Addr().Next().String(),
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + s.ClusterDomain,
	}, cfg.TLSSANs...)
	cert, key, err := id.Cluster.issue(gossip.NodeUser(id.NodeName), []string{"system:nodes"}, certLife, hosts...)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

func (id *identity) serviceAccountKey() (crypto.Signer, error) {
	key, err := decodeKey(id.Cluster.ServiceAccountKey)
	if err != nil {
		return nil, fmt.Errorf("key of ServiceAccount tokens: %w", err)
	}
	return key, nil
}

// writeKubeconfig makes this node's administrator credentials.
func (id *identity) writeKubeconfig(path string, port uint16) error {
	cert, key, err := id.Cluster.issue("murmur:admin", []string{"system:masters"}, adminLife)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "murmur",
		"clusters": []any{map[string]any{"name": "murmur", "cluster": map[string]any{
			"server": fmt.Sprintf("https://127.0.0.1:%d", port), "certificate-authority-data": id.Cluster.CACert}}},
		"users": []any{map[string]any{"name": "murmur", "user": map[string]any{
			"client-certificate-data": cert, "client-key-data": key}}},
		"contexts": []any{map[string]any{"name": "murmur", "context": map[string]any{"cluster": "murmur", "user": "murmur"}}},
	}, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'), 0o600)
}
