package member

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// ErrOtherCA is returned to a joiner whose token is of another cluster than the one that answers.
var ErrOtherCA = errors.New("the token is of another cluster, or was made before the cluster's CA was rotated: its CA hash is not that of a CA which answers there")

// Join asks a member for admission. What comes of it is the identity of a new member, or, if like is not nil, that of the same
// node with a certificate of today.
func Join(ctx context.Context, address, tok string, req Request, hosts []string, like *Identity, now time.Time) (*Identity, error) {
	hash, secret, err := ParseToken(tok)
	if err != nil {
		return nil, err
	}
	id := &Identity{NodeID: req.NodeID, NodeName: req.NodeName}
	if like != nil {
		id = like.clone()
	}
	if _, err := id.ensureKeys(now); err != nil {
		return nil, err
	}
	key, err := decodeKey(id.Key)
	if err != nil {
		return nil, fmt.Errorf("this node's key: %w", err)
	}
	if req.CSR, err = newRequest(key, hosts); err != nil {
		return nil, err
	}
	reply, err := askToJoin(ctx, address, hash, secret, req)
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", address, err)
	}
	if like != nil && reply.Cluster != like.Cluster.ID {
		return nil, fmt.Errorf("join %s: it is a member of another cluster", address)
	}
	if err := id.take(reply); err != nil {
		return nil, fmt.Errorf("join %s: %w", address, err)
	}
	pair, err := id.pair()
	if err != nil {
		return nil, fmt.Errorf("join %s: the certificate in its answer is of no use: %w", address, err)
	}
	t, err := id.trust(&memo{})
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", address, err)
	}
	if m, err := t.Member([]*x509.Certificate{pair.Leaf}, now); err != nil || m.ID != req.NodeID || m.Name != req.NodeName {
		return nil, fmt.Errorf("join %s: the certificate in its answer is of %q: %w", address, m.Name, err)
	}
	return id, nil
}

// take makes an identity one of the cluster that admitted it.
func (id *Identity) take(r *Reply) error {
	if len(r.GossipKeys) == 0 || len(r.GossipKeys) > maxRing {
		return fmt.Errorf("its answer has %d gossip keys", len(r.GossipKeys))
	}
	id.Certificate, id.Crosses = r.Certificate, r.Crosses
	id.Cluster = Cluster{ID: r.Cluster, CACert: r.Authorities, GossipKey: r.GossipKeys[0], Settings: r.Settings}
	id.GossipKeys = r.GossipKeys[1:]
	for _, d := range r.Denied {
		id.deny(d)
	}
	id.Robbed, id.Words, id.Known = mergedKeep(id.Robbed, r.Robbed), r.Words, r.Known
	id.Inviters = append([]Inviter{r.Inviter}, r.Members...)
	return nil
}

func askToJoin(ctx context.Context, address, hash, secret string, req Request) (*Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	// Whoever answers here has proven nothing yet, and is told nothing.
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}}
	defer stranger.CloseIdleConnections()
	b, err := fetch(ctx, stranger, http.MethodGet, "https://"+address+pathCA, "", nil)
	if err != nil {
		return nil, err
	}
	certs, err := decodeCerts(b)
	if err != nil {
		return nil, ErrOtherCA
	}
	var ca *x509.Certificate
	for _, c := range certs {
		if Hash(c) == hash {
			ca = c
		}
	}
	if ca == nil {
		return nil, ErrOtherCA
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	member := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS12,
		// The member may be reached by an address that its certificate does not name; the CA is what the token vouches for.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			o := x509.VerifyOptions{Roots: pool, Intermediates: x509.NewCertPool()}
			for _, c := range cs.PeerCertificates[1:] {
				o.Intermediates.AddCert(c)
			}
			// A joiner's clock may stand anywhere before it has met anybody.
			if leaf := cs.PeerCertificates[0]; time.Now().Before(leaf.NotBefore) {
				o.CurrentTime = leaf.NotBefore
			}
			_, err := cs.PeerCertificates[0].Verify(o)
			return err
		},
	}}}
	defer member.CloseIdleConnections()
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	if b, err = fetch(ctx, member, http.MethodPost, "https://"+address+pathJoin, secret, body); err != nil {
		return nil, err
	}
	reply := &Reply{}
	if err := json.Unmarshal(b, reply); err != nil {
		return nil, fmt.Errorf("its answer is damaged: %w", err)
	}
	if len(reply.Certificate) == 0 || len(reply.GossipKeys) == 0 || reply.Cluster == "" {
		return nil, errors.New("the member there runs an older murmur, which hands out the keys of the cluster to who joins: update it first, or join by way of another")
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
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
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
