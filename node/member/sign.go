package member

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// ErrNoIssuer is returned where the CA's key is needed and not there.
var ErrNoIssuer = errors.New("this node does not hold the key of the cluster's CA")

// Sign makes the certificate, in PEM, of a request in DER that was approved: its subject and names, for the usages given. What
// would make its holder a member is refused here too, whoever has decided.
func (s *Self) Sign(request []byte, usages []certificatesv1.KeyUsage, life time.Duration, now time.Time) ([]byte, error) {
	a, ok, err := s.Identity().authority()
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrNoIssuer
	}
	if t := s.Trust(); t != nil && t.robbed[keyName(a.Certificate)] {
		return nil, ErrNoIssuer // what it signs is not believed: another makes it
	}
	r, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	t := &x509.Certificate{Subject: r.Subject, DNSNames: r.DNSNames, IPAddresses: r.IPAddresses, EmailAddresses: r.EmailAddresses}
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageClientAuth:
			t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		case certificatesv1.UsageServerAuth:
			t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		case certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
		default:
			return nil, fmt.Errorf("a certificate for %s is not signed", u)
		}
	}
	node := strings.HasPrefix(r.Subject.CommonName, nodeUser) || slices.Contains(r.Subject.Organization, nodeGroup)
	if len(r.URIs) > 0 || node && slices.Contains(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || slices.Contains(r.Subject.Organization, adminGroup) {
		return nil, fmt.Errorf("a certificate of %s is not signed on request: it would make a member or an administrator", r.Subject)
	}
	return a.sign(t, r.PublicKey, life, now)
}
