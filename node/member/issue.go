package member

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"

	"murmur/crdt/store"
)

// What members ask an issuer over the streams. Who asks is proven by the certificate of its stream, and nothing that it says
// gives it more than that certificate has.
const (
	// Service is the stream service on which an issuer answers.
	Service = "issuer"
	// ServiceRing is the stream service on which every member answers another one that has lost the gossip key.
	ServiceRing = "ring"

	PathSign = "/v1/sign"
	PathKey  = "/v1/key"
	PathJoin = "/v1/join"
	PathRing = "/v1/ring"
)

type signRequest struct {
	Request []byte `json:"request"`
}

type signReply struct {
	Certificate []byte `json:"certificate"`
}

type keyRequest struct {
	Authority string `json:"authority"`
}

type keyReply struct {
	Key []byte `json:"key"`
}

type joinQuestion struct {
	Secret  string  `json:"secret"`
	Request Request `json:"request"`
	// AuditID is that under which the member that asks records it, From where the joiner asked it from.
	AuditID string `json:"auditID,omitempty"`
	From    string `json:"from,omitempty"`
}

type joinAnswer struct {
	Reply   *Reply   `json:"reply,omitempty"`
	Refused *refused `json:"refused,omitempty"`
}

// RingReply is what a member that has lost the gossip key is told.
type RingReply struct {
	Keys [][]byte `json:"keys"`
}

// peerKey is, in a request's context, the member that asks.
type peerKey struct{}

// WithPeer is the context of a connection on a stream.
func (s *Self) WithPeer(ctx context.Context, c net.Conn) context.Context {
	p, ok := c.(interface{ PeerCertificates() []*x509.Certificate })
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, p.PeerCertificates())
}

// asker is the member that asks, as its certificate says now.
func (s *Self) asker(r *http.Request) (Member, []*x509.Certificate, error) {
	chain, ok := r.Context().Value(peerKey{}).([]*x509.Certificate)
	if !ok {
		return Member{}, nil, ErrNoMember
	}
	m, err := s.Verify(chain)
	return m, chain, err
}

// Asker is the member that asks, as its certificate says now.
func (s *Self) Asker(r *http.Request) (Member, error) {
	m, _, err := s.asker(r)
	return m, err
}

// Issue answers members on the service Service.
func (s *Self) Issue(door *Door) http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{PathSign, PathKey, PathJoin} {
		answer(mux, path, s, func(ctx context.Context, m Member, leaf *x509.Certificate, in json.RawMessage) (any, error) {
			return s.answerTo(ctx, door, m, leaf, path, in)
		})
	}
	return mux
}

// answerTo is the answer of an issuer to one question of a member.
func (s *Self) answerTo(ctx context.Context, door *Door, m Member, leaf *x509.Certificate, path string, question any) (any, error) {
	id := s.Identity()
	a, ok, err := id.authority()
	if err != nil || !ok {
		return nil, errors.Join(err, errNoIssuer)
	}
	b, err := json.Marshal(question)
	if err != nil {
		return nil, err
	}
	switch path {
	case PathSign:
		var in signRequest
		if err := json.Unmarshal(b, &in); err != nil {
			return nil, err
		}
		return s.resign(a, door, m, leaf, in)
	case PathKey:
		var in keyRequest
		if err := json.Unmarshal(b, &in); err != nil {
			return nil, err
		}
		switch {
		case !m.Issuer:
			return nil, fmt.Errorf("%s is no issuer: it does not get the CA's key", m.Name)
		case Hash(a.Certificate) != in.Authority:
			return nil, errors.New("this issuer holds the key of another CA")
		}
		// Who was shut out before this CA was made may ask under any name, until this node has heard so.
		for _, shut := range wordsOf[aboutAuthority](id, ResourceAuthorities)[in.Authority].Without {
			if !s.Trust().Denied(shut) {
				return nil, fmt.Errorf("this issuer has yet to hear of the revocation of %s, before which it gives the CA's key to nobody", shut)
			}
		}
		s.log.Info("gave the CA's key to an issuer", "node", m.Name)
		return keyReply{Key: id.Cluster.CAKey}, nil
	case PathJoin:
		var in joinQuestion
		if err := json.Unmarshal(b, &in); err != nil {
			return nil, err
		}
		asked := door.admission(in.Secret, in.Request, in.From)
		asked.ByWayOf = m.Name
		if uuid.Validate(in.AuditID) == nil {
			asked.ID = in.AuditID
		}
		reply, err := door.admit(ctx, in.Secret, in.Request)
		door.record(ctx, asked, reply, err)
		var no *refused
		if errors.As(err, &no) {
			return joinAnswer{Refused: no}, nil
		}
		return joinAnswer{Reply: reply}, err
	}
	return nil, fmt.Errorf("there is no question %s", path)
}

// resign gives a member a certificate that says what its present one says.
func (s *Self) resign(a Authority, door *Door, m Member, leaf *x509.Certificate, in signRequest) (any, error) {
	req, err := parseRequest(in.Request)
	switch {
	case err != nil:
		return nil, fmt.Errorf("bad certificate request: %w", err)
	case string(req.RawSubjectPublicKeyInfo) != string(leaf.RawSubjectPublicKeyInfo):
		return nil, errors.New("the request is not under the key of the certificate that asks")
	case s.Trust().robbed[keyName(a.Certificate)]:
		return nil, errReplaced
	case m.Legacy:
		return nil, errors.New("a certificate without marks is not renewed: it is of a program that makes its own")
	}
	if err := foreign(req, Request{NodeName: m.Name}, door.cfg.Store.Snapshot()); err != nil {
		return nil, err
	}
	c, err := a.signNode(req, m, s.now())
	if err != nil {
		return nil, err
	}
	s.log.Info("signed a member's certificate", "node", m.Name)
	return signReply{Certificate: append(c, encodeCerts(crosses(s.Trust(), a.Certificate)...)...)}, nil
}

// AnswerRing answers members on the service ServiceRing.
func (s *Self) AnswerRing() http.Handler {
	mux := http.NewServeMux()
	answer(mux, PathRing, s, func(context.Context, Member, *x509.Certificate, struct{}) (any, error) {
		return RingReply{Keys: s.Ring()}, nil
	})
	return mux
}

// Learn takes in the gossip keys that a member told. Those that are new are only read: the store says which to write with.
func (s *Self) Learn(keys [][]byte) (changed bool, err error) {
	var fresh [][]byte
	for _, k := range keys {
		if len(k) == 32 && !s.Ring().has(k) {
			fresh = append(fresh, k)
		}
	}
	if len(fresh) == 0 || len(s.Ring())+len(fresh) > maxRing {
		return false, nil
	}
	for _, k := range fresh {
		s.learnt.Store(gossipName(k), s.now())
	}
	return true, s.Update(func(id *Identity) error {
		for _, k := range fresh {
			if !id.ring().has(k) {
				id.GossipKeys = append(id.GossipKeys, k)
			}
		}
		return nil
	})
}

const maxRing = 16

// learntFor is how long a key that a member told is read although it is to be dropped: the one that still writes with it must be heard
// to be told so.
const learntFor = 30 * time.Second

// withLearnt is a ring with those of another that were learnt a moment ago.
func (s *Self) withLearnt(ring, have Ring, now time.Time) Ring {
	for _, k := range have {
		if at, ok := s.learnt.Load(gossipName(k)); ok && !ring.has(k) && now.Sub(at.(time.Time)) < learntFor {
			ring = append(ring, k)
		}
	}
	return ring
}

// answer serves one question.
func answer[In any](mux *http.ServeMux, path string, s *Self, f func(context.Context, Member, *x509.Certificate, In) (any, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		m, chain, err := s.asker(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		var in In
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJoin)).Decode(&in); err != nil {
			http.Error(w, "bad question: "+err.Error(), http.StatusBadRequest)
			return
		}
		out, err := f(r.Context(), m, chain[0], in)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out)
	})
}

// askLimit bounds a question to an issuer.
const askLimit = 5 * time.Second

// Ask asks one member over a stream that dial opens.
func Ask(ctx context.Context, dial func(context.Context) (net.Conn, error), path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}
	defer client.CloseIdleConnections()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	b, err := fetch(ctx, client, http.MethodPost, "http://member"+path, "", body)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

// Issuers are the names of the members that hold the CA's key or are to get it, as they say themselves.
func (s *Self) Issuers(snap *store.Snapshot) (out []string) {
	for _, m := range s.id.Load().members(s.Trust(), snap) {
		if m.by.Issuer {
			out = append(out, m.by.Name)
		}
	}
	return out
}
