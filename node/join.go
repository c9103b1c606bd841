package node

import (
	"bytes"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
)

// The join protocol, over the API's port. GET ca answers the CA certificate, which proves nothing until the joiner has
// compared it with the hash in its token; only then, over TLS verified with that CA, does it send the secret to POST join.
const (
	joinPath  = "/murmur/v1/"
	pathCA    = joinPath + "ca"
	pathJoin  = joinPath + "join"
	maxJoin   = 64 << 10
	joinLimit = 10 * time.Second
)

var (
	// ErrRefused is returned to a joiner whose token is not accepted.
	ErrRefused = errors.New("the token was refused: it has expired, was deleted, or was not copied whole")
	// ErrOtherCA is returned to a joiner whose token is of another cluster than the one that answers.
	ErrOtherCA = errors.New("the token is of another cluster: its CA hash is not that of the CA which answers there")
)

// joinRequest is what a joiner says of itself.
type joinRequest struct {
	NodeID   string     `json:"nodeID"`
	NodeName string     `json:"nodeName"`
	Addr     netip.Addr `json:"addr"`
}

// inviter is a member as a joiner needs to know it.
type inviter struct {
	NodeName string         `json:"nodeName"`
	Serf     netip.AddrPort `json:"serf"`
}

// joinReply is all that a new member needs.
type joinReply struct {
	Cluster Cluster `json:"cluster"`
	Inviter inviter `json:"inviter"`
	// Members are others that are alive, for a joiner whose inviter dies.
	Members []inviter `json:"members,omitempty"`
}

// door admits joiners.
type door struct {
	cluster Cluster
	self    inviter
	store   *crdt.Store
	// taken says who else uses a node name or address, others lists live members but this one and the joiner.
	taken  func(joinRequest) error
	others func(joiner string) []inviter
	log    *slog.Logger
	// admitted is the last joiner that was admitted since the daemon started.
	admitted atomic.Pointer[string]
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodGet && r.URL.Path == pathCA:
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(d.cluster.CACert)
	case r.Method == http.MethodPost && r.URL.Path == pathJoin:
		d.join(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (d *door) join(w http.ResponseWriter, r *http.Request) {
	secret, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !d.accepts(secret, time.Now()) {
		d.log.Warn("join refused: wrong token", "from", r.RemoteAddr)
		http.Error(w, ErrRefused.Error(), http.StatusUnauthorized)
		return
	}
	var req joinRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJoin)).Decode(&req); err != nil || req.NodeID == "" || req.NodeName == "" {
		http.Error(w, "bad join request", http.StatusBadRequest)
		return
	}
	if err := d.taken(req); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	d.admitted.Store(&req.NodeName)
	d.log.Info("admitted", "node", req.NodeName, "address", req.Addr)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(joinReply{Cluster: d.cluster, Inviter: d.self, Members: d.others(req.NodeName)})
}

// accepts knows the cluster's own secret and the bootstrap tokens that have not expired.
func (d *door) accepts(secret string, now time.Time) bool {
	if secret == "" {
		return false
	}
	if equal(secret, d.cluster.Secret) {
		return true
	}
	id, rest, ok := strings.Cut(secret, ".")
	if !ok {
		return false
	}
	s, ok := crdt.Get[corev1.Secret](d.store.Snapshot(), bootstrapKey(id))
	if !ok || s.Type != corev1.SecretTypeBootstrapToken || !equal(rest, string(s.Data["token-secret"])) {
		return false
	}
	expires, err := time.Parse(time.RFC3339, string(s.Data["expiration"]))
	return err == nil && now.Before(expires)
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func bootstrapKey(id string) crdt.Key {
	return crdt.Key{Resource: "secrets", Namespace: "kube-system", Name: "bootstrap-token-" + id}
}

// askToJoin asks a member for admission.
func askToJoin(ctx context.Context, address, tok string, req joinRequest) (*joinReply, error) {
	hash, secret, err := parseToken(tok)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	// Whoever answers here has proven nothing yet, and is told nothing.
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}}
	defer stranger.CloseIdleConnections()
	ca, err := fetch(ctx, stranger, http.MethodGet, "https://"+address+pathCA, "", nil)
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", address, err)
	}
	if got, err := caHash(ca); err != nil || got != hash {
		return nil, fmt.Errorf("join %s: %w", address, ErrOtherCA)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	member := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: pool, MinVersion: tls.VersionTLS12,
		// The member may be reached by an address that its certificate does not name; the CA is what the token vouches for.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool})
			return err
		},
	}}}
	defer member.CloseIdleConnections()
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	b, err := fetch(ctx, member, http.MethodPost, "https://"+address+pathJoin, secret, body)
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", address, err)
	}
	reply := &joinReply{}
	if err := json.Unmarshal(b, reply); err != nil {
		return nil, fmt.Errorf("join %s: its answer is damaged: %w", address, err)
	}
	return reply, nil
}

func fetch(ctx context.Context, c *http.Client, method, url, bearer string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("no member answers there: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxJoin))
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return b, nil
	case http.StatusUnauthorized:
		return nil, ErrRefused
	case http.StatusNotFound:
		return nil, errors.New("what answers there is no murmur node")
	}
	return nil, errors.New(strings.TrimSpace(string(b)))
}
