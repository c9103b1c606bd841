package volume

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// lookAtCertificates is how often a pod's certificates are looked at.
	lookAtCertificates = time.Minute
	// askAgain is how soon a renewal is asked for again that could not be asked for.
	askAgain = 10 * time.Second
	// overdueAfter is how long after the time of its renewal a certificate is overdue.
	overdueAfter = 10 * time.Minute
	// spread is over how long renewals are spread that are due at once.
	spread = 5 * time.Minute
	// longestReason bounds what of a signer's words is repeated.
	longestReason = 1024
)

// certificateKey is a podCertificate source: the pod, the volume and which of its sources it is.
type certificateKey struct {
	pod    types.UID
	volume string
	source int
}

// certificate is what is had for one source, and what is asked for. It is changed by look, a function of values, which is
// upstream's state machine (KEP-4317).
type certificate struct {
	// key and chain, PEM, are in use; nil before the first is issued.
	key, chain []byte
	// refreshAt is when the next is asked for, notAfter when this one is void.
	refreshAt, notAfter time.Time
	overdue, expired    bool // that has been said

	// asked is the request that waits for an answer, askedKey the key that it is for.
	asked    request
	askedKey []byte

	// refused is the signer's last word: nothing more is asked for.
	refused string
}

// request names a PodCertificateRequest. A name alone may be that of another, made by somebody after this one was deleted.
type request struct {
	name string
	uid  types.UID
}

// warning is an event about a pod.
type warning struct{ reason, message string }

// look is what a certificate comes to when its request is what it is now, nil if there is none any more, and what is to be
// said about it. jitter delays the renewal of what was issued.
func (c certificate) look(req *certificatesv1.PodCertificateRequest, jitter time.Duration, now time.Time) (certificate, []warning) {
	var warn []warning
	switch {
	case c.asked == request{}:
	case req == nil:
		c.asked, c.askedKey = request{}, nil
	default:
		for _, cond := range req.Status.Conditions {
			switch cond.Type {
			case certificatesv1.PodCertificateRequestConditionTypeDenied:
				return refusal("denied", "was denied", req, cond)
			case certificatesv1.PodCertificateRequestConditionTypeFailed:
				return refusal("failed", "failed", req, cond)
			case certificatesv1.PodCertificateRequestConditionTypeIssued:
				if req.Status.BeginRefreshAt == nil || req.Status.NotAfter == nil {
					continue // the API lets no such thing pass
				}
				c = certificate{key: c.askedKey, chain: certificates([]byte(req.Status.CertificateChain)),
					refreshAt: req.Status.BeginRefreshAt.Add(jitter), notAfter: req.Status.NotAfter.Time}
			}
		}
	}
	if c.key == nil {
		return c, nil
	}
	if now.After(c.refreshAt.Add(overdueAfter)) && !c.overdue {
		c.overdue = true
		warn = append(warn, warning{"CertificateOverdueForRefresh", "PodCertificate refresh overdue"})
	}
	if now.After(c.notAfter) && !c.expired {
		c.expired = true
		warn = append(warn, warning{"CertificateExpired", "PodCertificate expired"})
	}
	return c, warn
}

// refusal is where it ends when a signer says no, as upstream also for a renewal.
func refusal(state, verb string, req *certificatesv1.PodCertificateRequest, cond metav1.Condition) (certificate, []warning) {
	message := cond.Message
	if len(message) > longestReason {
		message = message[:longestReason] + "..."
	}
	said := fmt.Sprintf("reason=%q, message=%q", cond.Reason, message)
	return certificate{refused: fmt.Sprintf("PodCertificateRequest was permanently %s: %s", state, said)},
		[]warning{{cond.Type, fmt.Sprintf("PodCertificateRequest %s/%s %s, %s", req.Namespace, req.Name, verb, said)}}
}

// due tells whether one is to be asked for.
func (c certificate) due(now time.Time) bool {
	return c.refused == "" && c.asked == request{} && (c.key == nil || !now.Before(c.refreshAt))
}

// again is when to look again though nothing has changed.
func (c certificate) again(now time.Time) time.Time {
	next := now.Add(lookAtCertificates)
	if c.asked == (request{}) && c.refreshAt.After(now) && c.refreshAt.Before(next) {
		return c.refreshAt
	}
	return next
}

// jitter is how much later than its signer says a certificate is renewed. It is drawn from what only this request has.
func (r request) jitter() time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(r.uid))
	return time.Duration(h.Sum64() % uint64(spread))
}

// certificate puts a pod's key and its certificates. It asks for them if it is time to; until the first are there it fails.
func (v *Volumes) certificate(ctx context.Context, f *files, at certificateKey, s *corev1.PodCertificateProjection, mode *int32) (time.Time, error) {
	if v.cfg.Certificates == nil {
		return time.Time{}, errors.New("this node asks for no certificates of pods")
	}
	now := time.Now()
	v.mu.Lock()
	c, ok := v.certificates[at]
	v.mu.Unlock()
	if !ok {
		c = v.left(at, s, now)
	}
	var req *certificatesv1.PodCertificateRequest
	if got, ok := f.objects.PodCertificateRequest(f.pod.Namespace, c.asked.name); ok && got.UID == c.asked.uid {
		req = got
	}
	c, warn := c.look(req, c.asked.jitter(), now)
	var err error
	if c.due(now) {
		c.asked, c.askedKey, err = v.ask(ctx, f, s)
	}
	v.mu.Lock()
	v.certificates[at] = c
	v.mu.Unlock()
	for _, w := range warn {
		if err != nil {
			w.message += ": " + err.Error()
		}
		v.cfg.Warn(f.pod, w.reason, w.message)
	}
	switch {
	case c.refused != "":
		return time.Time{}, errors.New(c.refused)
	case c.key == nil && err != nil:
		return time.Time{}, err
	case c.key == nil:
		return time.Time{}, fmt.Errorf("credential bundle is not issued yet: PodCertificateRequest %s/%s waits for the signer %q", f.pod.Namespace, c.asked.name, s.SignerName)
	}
	if s.CredentialBundlePath != "" {
		f.own(s.CredentialBundlePath, bytes.Join([][]byte{c.key, c.chain}, nil), mode)
	}
	if s.KeyPath != "" {
		f.own(s.KeyPath, c.key, mode)
	}
	if s.CertificateChainPath != "" {
		f.own(s.CertificateChainPath, c.chain, mode)
	}
	if err != nil {
		return now.Add(askAgain), nil
	}
	return c.again(now), nil
}

// ask makes a key and a request for a certificate of it.
func (v *Volumes) ask(ctx context.Context, f *files, s *corev1.PodCertificateProjection) (request, []byte, error) {
	p := f.pod
	account, ok := f.objects.ServiceAccount(p.Namespace, p.Spec.ServiceAccountName)
	if !ok {
		return request{}, nil, fmt.Errorf("while fetching service account: serviceaccount %q not found", p.Spec.ServiceAccountName)
	}
	node, ok := f.objects.Node(v.cfg.Node)
	if !ok {
		return request{}, nil, fmt.Errorf("while fetching node: node %q not found", v.cfg.Node)
	}
	// One at a time: the big ones take a processor a second or more.
	select {
	case v.making <- struct{}{}:
	case <-ctx.Done():
		return request{}, nil, ctx.Err()
	}
	key, stub, err := newKey(s.KeyType)
	<-v.making
	if err != nil {
		return request{}, nil, err
	}
	made, err := v.cfg.Certificates(ctx, &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, GenerateName: "req-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID}},
		},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: s.SignerName, PodName: p.Name, PodUID: p.UID,
			ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
			NodeName: types.NodeName(node.Name), NodeUID: node.UID,
			MaxExpirationSeconds: s.MaxExpirationSeconds, StubPKCS10Request: stub, UnverifiedUserAnnotations: s.UserAnnotations,
		},
	})
	if err != nil {
		return request{}, nil, fmt.Errorf("while creating PodCertificateRequest: %w", err)
	}
	return request{made.Name, made.UID}, key, nil
}

// newKey makes a private key, PEM, and the empty PKCS#10 request that proves it is held.
func newKey(kind string) (key, stub []byte, err error) {
	var private crypto.Signer
	switch kind {
	case "RSA3072":
		private, err = rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		private, err = rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("unknown key type %q", kind)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("while generating a key: %w", err)
	}
	if stub, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private); err != nil {
		return nil, nil, fmt.Errorf("while generating stub PKCS#10 request: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("while marshaling key to PKCS#8: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), stub, nil
}

// certificates are those of a chain and nothing that stands between them.
func certificates(chain []byte) []byte {
	var out bytes.Buffer
	for {
		var block *pem.Block
		if block, chain = pem.Decode(chain); block == nil {
			return out.Bytes()
		}
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}))
	}
}

// left is what an earlier life of this daemon has left in the volume: a pod that runs keeps it until there is another, which is
// asked for at once, for what its signer said of the renewal is not there.
func (v *Volumes) left(at certificateKey, s *corev1.PodCertificateProjection, now time.Time) certificate {
	root, err := os.OpenRoot(v.path(at.pod, "projected", at.volume))
	if err != nil {
		return certificate{}
	}
	defer root.Close()
	var key, chain []byte
	if s.CredentialBundlePath != "" {
		bundle, err := root.ReadFile(s.CredentialBundlePath)
		if err != nil {
			return certificate{}
		}
		block, rest := pem.Decode(bundle)
		if block == nil {
			return certificate{}
		}
		key, chain = pem.EncodeToMemory(block), rest
	} else if s.KeyPath != "" && s.CertificateChainPath != "" {
		var errKey, errChain error
		key, errKey = root.ReadFile(s.KeyPath)
		chain, errChain = root.ReadFile(s.CertificateChainPath)
		if errKey != nil || errChain != nil {
			return certificate{}
		}
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return certificate{}
	}
	return certificate{key: key, chain: certificates(chain), refreshAt: now, notAfter: pair.Leaf.NotAfter}
}

func (v *Volumes) forgetCertificates(uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.DeleteFunc(v.certificates, func(k certificateKey, _ certificate) bool { return k.pod == uid })
}
