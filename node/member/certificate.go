package member

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Lives of certificates.
const (
	authorityLife = 20 * 365 * 24 * time.Hour
	nodeLife      = 365 * 24 * time.Hour
	adminLife     = 365 * 24 * time.Hour
	// backdate lets a peer whose clock is behind accept a new certificate.
	backdate = 24 * time.Hour
)

// written is a time before which no clock of today can stand.
var written = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	// nodeUser is in front of a node's name in the common name of its certificate, nodeGroup the organization.
	nodeUser  = "system:node:"
	nodeGroup = "system:nodes"
	// adminUser and adminGroup are who the kubeconfig of an issuer is.
	adminUser  = "murmur:admin"
	adminGroup = "system:masters"
	// The marks of a node's certificate are URIs in its subject alternative names, under the signature as all of it is:
	// murmur://node/ID, and murmur://role/issuer.
	markScheme = "murmur"
	markNode   = "node"
	markRole   = "role"
	roleIssuer = "issuer"
)

var (
	// ErrNoMember is returned for a certificate that is not that of a member.
	ErrNoMember = errors.New("the certificate is not that of a member of this cluster")
	// ErrRevoked is returned for a certificate of a node that was shut out.
	ErrRevoked = errors.New("the node was revoked")
)

// Member is who a certificate names, and what it may do.
type Member struct {
	// Name is the Kubernetes node name, ID the unique name of its data directory.
	Name, ID string
	// Issuer members hold the CA's key and admit others.
	Issuer bool
	// Legacy members have a certificate without marks, which the programs of before made of the CA's key that each of them
	// held: they are issuers, and have no ID.
	Legacy bool
}

// validID is what may stand in a mark, in the name of a document and in a log.
var validID = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,62}[a-z0-9])?$`)

// memberOf reads the marks of a certificate whose signature has been checked. Both usages are wanted: a certificate that
// the API's signers give to people is good for clients only, whatever name somebody approved.
func memberOf(c *x509.Certificate) (Member, error) {
	name, ok := strings.CutPrefix(c.Subject.CommonName, nodeUser)
	if !ok || name == "" || !slices.Contains(c.Subject.Organization, nodeGroup) ||
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return Member{}, fmt.Errorf("%w: it is of %q", ErrNoMember, c.Subject.CommonName)
	}
	m := Member{Name: name}
	marked := false
	for _, u := range c.URIs {
		if u.Scheme != markScheme {
			continue
		}
		marked = true
		switch value := strings.TrimPrefix(u.Path, "/"); u.Host {
		case markNode:
			if m.ID != "" || !validID.MatchString(value) {
				return Member{}, fmt.Errorf("%w: its mark %q is none", ErrNoMember, u)
			}
			m.ID = value
		case markRole:
			m.Issuer = m.Issuer || value == roleIssuer
		}
	}
	if !marked {
		// The programs of before signed for the names of the API, too.
		if !slices.Contains(c.DNSNames, name) || !slices.Contains(c.DNSNames, "kubernetes.default.svc") {
			return Member{}, fmt.Errorf("%w: it has no mark", ErrNoMember)
		}
		m.Issuer, m.Legacy = true, true
	} else if m.ID == "" {
		return Member{}, fmt.Errorf("%w: it names no node ID", ErrNoMember)
	}
	return m, nil
}

// IsMark tells whether a URI is one of those that make a certificate a member's. Nobody else's may have one.
func IsMark(u *url.URL) bool { return u != nil && u.Scheme == markScheme }

func mark(host, value string) *url.URL {
	return &url.URL{Scheme: markScheme, Host: host, Path: "/" + value}
}

// Authority is a CA of the cluster with its key: what makes a member an issuer.
type Authority struct {
	Certificate *x509.Certificate
	Key         *ecdsa.PrivateKey
}

// newAuthority makes a CA.
func newAuthority(cluster string, now time.Time) (Authority, error) {
	key, err := newKey()
	if err != nil {
		return Authority{}, err
	}
	until := now
	if until.Before(written) {
		until = written // the clock is wrong, and will be mended
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "murmur-ca-" + cluster[:min(8, len(cluster))]},
		NotBefore: now.Add(-backdate), NotAfter: until.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	// What distinguishes it from the CA before it: two of one name would be tried for each other.
	template.Subject.SerialNumber = hex.EncodeToString(template.SerialNumber.Bytes())[:8]
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Authority{}, fmt.Errorf("make the cluster's CA: %w", err)
	}
	c, err := x509.ParseCertificate(der)
	return Authority{c, key}, err
}

// cross signs another CA, so that whoever trusts this one trusts that one.
func (a Authority) cross(next *x509.Certificate) (*x509.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: next.Subject, SubjectKeyId: next.SubjectKeyId,
		NotBefore: next.NotBefore, NotAfter: a.Certificate.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, next.PublicKey, a.Key)
	if err != nil {
		return nil, fmt.Errorf("sign the new CA with the old: %w", err)
	}
	return x509.ParseCertificate(der)
}

// plausible tells whether a clock may be right: it stands within the life of the CA.
func (a Authority) plausible(now time.Time) bool {
	return !now.Before(a.Certificate.NotBefore) && now.Before(a.Certificate.NotAfter)
}

// sign makes a certificate of a template and a public key. A clock that stands before the CA was made is wrong for certain.
func (a Authority) sign(template *x509.Certificate, public crypto.PublicKey, life time.Duration, now time.Time) ([]byte, error) {
	if made := a.Certificate.NotBefore.Add(backdate); now.Before(made) {
		now = made
	}
	template.SerialNumber = serial()
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(life)
	if template.NotAfter.After(a.Certificate.NotAfter) {
		template.NotAfter = a.Certificate.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, public, a.Key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return pemOf("CERTIFICATE", der), nil
}

// signNode makes the certificate of a member: of a request only the key and the names and addresses count.
func (a Authority) signNode(req *x509.CertificateRequest, m Member, now time.Time) ([]byte, error) {
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: nodeUser + m.Name, Organization: []string{nodeGroup}},
		DNSNames:    req.DNSNames,
		IPAddresses: req.IPAddresses,
		URIs:        []*url.URL{mark(markNode, m.ID)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if m.Issuer {
		t.URIs = append(t.URIs, mark(markRole, roleIssuer))
	}
	return a.sign(t, req.PublicKey, nodeLife, now)
}

// signAdmin makes an administrator's certificate.
func (a Authority) signAdmin(public crypto.PublicKey, now time.Time) ([]byte, error) {
	return a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: adminUser, Organization: []string{adminGroup}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, public, adminLife, now)
}

// maxHosts bounds the names and addresses in a request.
const maxHosts = 64

// newRequest asks for the certificate of a node that is reached by some names and addresses.
func newRequest(key *ecdsa.PrivateKey, hosts []string) ([]byte, error) {
	t := &x509.CertificateRequest{Subject: pkix.Name{Organization: []string{nodeGroup}}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else if h != "" {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, t, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return pemOf("CERTIFICATE REQUEST", der), nil
}

// parseRequest reads a request that its own key has signed.
func parseRequest(b []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("no PEM certificate request")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := req.CheckSignature(); err != nil {
		return nil, err
	}
	if k, ok := req.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("its key is a %T, want one on P-256", req.PublicKey)
	}
	if n := len(req.DNSNames) + len(req.IPAddresses); n > maxHosts {
		return nil, fmt.Errorf("it names %d hosts, want at most %d", n, maxHosts)
	}
	return req, nil
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return n.SetBit(n, 119, 1)
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return pemOf("EC PRIVATE KEY", der), err
}

func decodeKey(b []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("no PEM key")
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

// decodeCerts reads all certificates of a PEM bundle; one at least.
func decodeCerts(b []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no PEM certificate")
	}
	return out, nil
}

func encodeCerts(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pemOf("CERTIFICATE", c.Raw)...)
	}
	return out
}

// Hash names a CA in tokens and documents: the SHA-256 of its certificate.
func Hash(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.Raw)
	return hex.EncodeToString(sum[:])
}

// renewAt is when a certificate is to be replaced: at half its life.
func renewAt(c *x509.Certificate) time.Time { return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2) }

// due tells whether a certificate is to be replaced: half its life is over, or it was made by a clock that has been put back
// since.
func due(c *x509.Certificate, now time.Time) bool {
	return now.Before(c.NotBefore) || !now.Before(renewAt(c))
}
