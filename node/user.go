package node

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/util/certificate/csr"

	"murmur/crdt"
	"murmur/crdt/store"
)

// UserRequest asks for a client certificate. The key stays with who asks.
type UserRequest struct {
	// Request is a certificate request in DER.
	Request []byte        `json:"request"`
	TTL     time.Duration `json:"ttl"`
}

// UserReply is what a kubeconfig is made of, but for the key.
type UserReply struct {
	// Certificate and CA are PEM.
	Certificate []byte `json:"certificate"`
	CA          []byte `json:"ca"`
	// Server is the URL of this node's API for other machines.
	Server string `json:"server"`
}

const requestsResource = "certificates.k8s.io/certificatesigningrequests"

// signedWithin bounds the wait for an issuer.
const signedWithin = 30 * time.Second

// createUser has a certificate signed by way of the CSR API, as anybody could who may create and approve requests.
func (n *Node) createUser(ctx context.Context, req UserRequest) (UserReply, error) {
	if err := n.settled(); err != nil {
		return UserReply{}, err
	}
	// What a box that can be stolen makes must not outlive it: a certificate is good until it ends.
	if !n.self.Issuer() {
		return UserReply{}, errors.New("this member is no issuer, and makes no users: ask on one that is")
	}
	ctx, cancel := context.WithTimeout(ctx, signedWithin)
	defer cancel()
	api := n.api.As("murmur:admin", user.SystemPrivilegedGroup)
	obj, err := api.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "murmur-user-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: req.Request}),
			SignerName: certificatesv1.KubeAPIServerClientSignerName, ExpirationSeconds: csr.DurationToExpirationSeconds(req.TTL),
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	})
	if err != nil {
		return UserReply{}, fmt.Errorf("request a certificate: %w", err)
	}
	asked := obj.(*certificatesv1.CertificateSigningRequest)
	now := metav1.Now()
	asked.Status.Conditions = append(asked.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "MurmurUserCreate",
		Message: "approved by murmur user create on " + n.id.NodeName, LastUpdateTime: now, LastTransitionTime: now,
	})
	wake := n.store.Subscribe(requestsResource)
	defer wake.Close()
	if _, err := api.Approve(ctx, asked); err != nil {
		return UserReply{}, fmt.Errorf("approve the certificate: %w", err)
	}
	for {
		r, ok := store.Get[certificatesv1.CertificateSigningRequest](n.store.Snapshot(), crdt.Key{Resource: requestsResource, Name: asked.Name})
		if !ok {
			return UserReply{}, fmt.Errorf("the request %s was deleted", asked.Name)
		}
		if i := slices.IndexFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
			return c.Type == certificatesv1.CertificateFailed || c.Type == certificatesv1.CertificateDenied
		}); i >= 0 {
			return UserReply{}, errors.New(r.Status.Conditions[i].Message)
		}
		if cert := r.Status.Certificate; len(cert) > 0 {
			return UserReply{Certificate: cert, CA: n.self.Trust().Bundle(), Server: "https://" + net.JoinHostPort(n.cfg.AdvertiseAddress, strconv.Itoa(int(n.cfg.HTTPSPort)))}, nil
		}
		select {
		case <-wake.C:
		case <-ctx.Done():
			return UserReply{}, fmt.Errorf("no issuer has signed the request %s within %s: one must be in reach; the request stays", asked.Name, signedWithin)
		}
	}
}

// signer signs certificate signing requests as far as this node holds the CA's key.
type signer struct{ *Node }

func (s signer) Sign(request []byte, usages []certificatesv1.KeyUsage, life time.Duration) ([]byte, error) {
	return s.self.Sign(request, usages, life, time.Now())
}

func (s signer) Issuers() []string { return s.self.Issuers(s.store.Snapshot()) }
