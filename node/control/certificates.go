package control

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/kubernetes/pkg/apis/certificates"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/rendezvous"
)

// Signer signs approved certificate signing requests with the cluster's CA.
type Signer interface {
	// Sign is the certificate, in PEM, of a request in DER.
	Sign(request []byte, usages []certificatesv1.KeyUsage, life time.Duration) ([]byte, error)
	// Issuers are the nodes that can sign.
	Issuers() []string
}

const requests = "certificates.k8s.io/certificatesigningrequests"

// Names that no certificate is signed for, or none but a node's own.
const (
	nodesGroup   = "system:nodes"
	nodePrefix   = "system:node:"
	apiUser      = "system:apiserver"
	mastersGroup = "system:masters"
)

// Lives of certificates, and of requests that are done with; upstream's defaults.
const (
	longestLife  = 365 * 24 * time.Hour
	shortestLife = 10 * time.Minute
	keepDone     = time.Hour
	keepOpen     = 24 * time.Hour
)

// signing decides about one request. Of the issuers in sight one signs it: two would sign twice.
func signing(s Signer) func(*world, *store.Entry) plan {
	return func(w *world, e *store.Entry) plan {
		r, err := store.As[certificatesv1.CertificateSigningRequest](e)
		if err != nil {
			return plan{}
		}
		return answer(w, s.Issuers(), r)
	}
}

func answer(w *world, issuers []string, r *certificatesv1.CertificateSigningRequest) plan {
	if r.DeletionTimestamp != nil || len(r.Status.Certificate) > 0 || !has(r, certificatesv1.CertificateApproved) ||
		has(r, certificatesv1.CertificateDenied) || has(r, certificatesv1.CertificateFailed) || !signs(r.Spec.SignerName) {
		return plan{}
	}
	issuers = slices.DeleteFunc(slices.Clone(issuers), func(n string) bool { return !slices.Contains(w.alive, n) })
	if rendezvous.First(rendezvous.OwnerKey(r.UID), issuers) != w.self {
		return plan{}
	}
	parsed, err := certificates.ParseCSR(r.Spec.Request)
	if err == nil {
		err = parsed.CheckSignature() // that who made it has the key
	}
	if err == nil {
		err = signable(parsed, r)
	}
	if err == nil && r.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		node, _ := store.Get[corev1.Node](w.snap, crdt.Key{Resource: "nodes", Name: strings.TrimPrefix(parsed.Subject.CommonName, nodePrefix)})
		err = ownAddresses(parsed, r.Spec.Username, node)
	}
	out := r.DeepCopy()
	if err != nil {
		out.Status.Conditions = append(out.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(),
			LastUpdateTime: metav1.NewTime(w.now), LastTransitionTime: metav1.NewTime(w.now),
		})
		return plan{writes: []write{{verb: status, obj: out}}}
	}
	return plan{writes: []write{{verb: sign, obj: out}}}
}

// signs tells whether the requests of a signer are ours to sign. What a member has is signed by the door, and
// legacy-unknown says nothing of what a certificate is good for: neither is ever signed here.
func signs(signer string) bool {
	return signer == certificatesv1.KubeAPIServerClientSignerName || signer == certificatesv1.KubeletServingSignerName
}

// signable says why a request must not be signed.
func signable(r *x509.CertificateRequest, of *certificatesv1.CertificateSigningRequest) error {
	usages := of.Spec.Usages
	if len(r.URIs) > 0 {
		return errors.New("URI subject alternative names are not signed: members of the cluster are marked by them")
	}
	if of.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		names := sets.NewString()
		for _, u := range usages {
			names.Insert(string(u))
		}
		return certificates.ValidateKubeletServingCSR(r, names)
	}
	// With such a certificate one would be a member.
	if strings.HasPrefix(r.Subject.CommonName, nodePrefix) || slices.Contains(r.Subject.Organization, nodesGroup) {
		return errors.New("a node's certificate is signed when it joins, and by nothing else")
	}
	if r.Subject.CommonName == apiUser {
		return fmt.Errorf("no certificate is signed for %s: it is the API itself", apiUser)
	}
	if slices.Contains(r.Subject.Organization, mastersGroup) {
		return fmt.Errorf("no certificate is signed for the group %s", mastersGroup)
	}
	client := false
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
		case certificatesv1.UsageClientAuth:
			client = true
		default:
			return fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	if !client {
		return fmt.Errorf("missing required usage for client certificate: %s", certificatesv1.UsageClientAuth)
	}
	return nil
}

// ownAddresses says why a serving certificate is not a node's own: it is asked for by the node, for names and addresses that
// are the node's. With another's one could play another's API.
func ownAddresses(r *x509.CertificateRequest, by string, node *corev1.Node) error {
	if by != r.Subject.CommonName {
		return fmt.Errorf("%s asks for the serving certificate of %s", by, r.Subject.CommonName)
	}
	if node == nil {
		return fmt.Errorf("there is no node of the name %s", strings.TrimPrefix(r.Subject.CommonName, nodePrefix))
	}
	own := map[string]bool{node.Name: true}
	for _, a := range node.Status.Addresses {
		own[a.Address] = true
	}
	names := slices.Clone(r.DNSNames)
	for _, ip := range r.IPAddresses {
		names = append(names, ip.String())
	}
	for _, n := range names {
		if !own[n] {
			return fmt.Errorf("%s is no address of node %s", n, node.Name)
		}
	}
	return nil
}

// life is how long a certificate is to be good.
func life(seconds *int32) time.Duration {
	if seconds == nil {
		return longestLife
	}
	return min(max(csr.ExpirationSecondsToDuration(*seconds), shortestLife), longestLife)
}

// signed is a request with its certificate.
func signed(s Signer, r *certificatesv1.CertificateSigningRequest) (*certificatesv1.CertificateSigningRequest, error) {
	block, _ := pem.Decode(r.Spec.Request)
	if block == nil {
		return nil, errors.New("no request") // decided from one
	}
	cert, err := s.Sign(block.Bytes, r.Spec.Usages, life(r.Spec.ExpirationSeconds))
	if err != nil {
		return nil, err
	}
	out := r.DeepCopy()
	out.Status.Certificate = cert
	return out, nil
}

func has(r *certificatesv1.CertificateSigningRequest, condition certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == condition && (c.Status == "" || c.Status == corev1.ConditionTrue)
	})
}

// cleaning deletes requests that nobody needs any more: an hour after they were answered, a day if nobody did.
func cleaning(w *world, e *store.Entry) plan {
	r, err := store.As[certificatesv1.CertificateSigningRequest](e)
	if err != nil || r.DeletionTimestamp != nil {
		return plan{}
	}
	return clean(w, r)
}

func clean(w *world, r *certificatesv1.CertificateSigningRequest) plan {
	done := r.CreationTimestamp.Add(keepOpen)
	issued := len(r.Status.Certificate) > 0
	for _, c := range r.Status.Conditions {
		kept := keepDone
		if c.Type == certificatesv1.CertificateApproved && !issued {
			kept = keepOpen
		}
		if !c.LastUpdateTime.IsZero() {
			done = c.LastUpdateTime.Add(kept)
		}
	}
	if w.now.Before(done) {
		return plan{wake: done}
	}
	return plan{writes: []write{deletion(crdt.Key{Resource: requests, Name: r.Name}, r.UID)}}
}
