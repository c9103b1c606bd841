package member

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"murmur/crdt"
	"murmur/crdt/store"
)

// What members say of themselves and of the cluster's keys stands in documents of the store, which no API shows. Any member
// can write any document, so each carries the signature of who wrote it: a statement. One that is not signed by who may say it
// is as if it were not there.
const (
	// ResourceMembers has one statement of each member about itself, under its node ID.
	ResourceMembers = "murmur.io/members"
	// ResourceRevoked has one statement of an issuer for each node that was shut out, under its node ID.
	ResourceRevoked = "murmur.io/revoked"
	// ResourceAuthorities has one statement of an issuer for each CA that follows another, under its hash.
	ResourceAuthorities = "murmur.io/authorities"
	// ResourceGossipKeys has one statement of an issuer for each gossip key that follows another.
	ResourceGossipKeys = "murmur.io/gossipkeys"
	// ResourceRotations has statements of issuers that the keys of ServiceAccount tokens are to be made anew.
	ResourceRotations = "murmur.io/rotations"
	// ResourceSecrets has a statement of an issuer with the hash of the cluster's permanent join secret.
	ResourceSecrets = "murmur.io/joinsecrets"
)

// Resources are all of these.
var Resources = []string{ResourceMembers, ResourceRevoked, ResourceAuthorities, ResourceGossipKeys, ResourceRotations, ResourceSecrets}

// statement is a body under the signature of a member.
type statement struct {
	Body json.RawMessage `json:"body"`
	// Certificate is PEM: that of the member, and those by which it is believed.
	Certificate []byte `json:"certificate"`
	Signature   []byte `json:"signature"`
}

// maxStatement bounds what is read of one, maxRevocation of one that names every member.
const (
	maxStatement  = 64 << 10
	maxRevocation = 1 << 20
)

func digest(k crdt.Key, body []byte) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "murmur statement 1\x00%s\x00%s\x00", k.Resource, k.Name)
	h.Write(body)
	return h.Sum(nil)
}

// state makes a statement.
func state(id *Identity, k crdt.Key, body any) (*statement, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	key, err := decodeKey(id.Key)
	if err != nil {
		return nil, fmt.Errorf("this node's key: %w", err)
	}
	if len(id.Certificate) == 0 {
		return nil, errors.New("this node has no certificate yet")
	}
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest(k, b))
	return &statement{Body: b, Certificate: id.Certificate, Signature: sig}, err
}

// object is the statement as the store has it. All of it is one field, so that no merge mixes two.
func (s *statement) object(k crdt.Key) (*unstructured.Unstructured, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "murmur.io/v1", "kind": "Statement", "metadata": map[string]any{"name": k.Name},
		"statement": base64.StdEncoding.EncodeToString(b),
	}}, nil
}

// statementOf reads what the store has, unverified.
func statementOf(e *store.Entry) (*statement, error) {
	value, err := e.Map()
	if err != nil {
		return nil, err
	}
	text, _ := value["statement"].(string)
	most := maxStatement
	if e.Key.Resource == ResourceRevoked {
		most = maxRevocation
	}
	if len(text) > most {
		return nil, fmt.Errorf("a statement of %d bytes, want at most %d", len(text), most)
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	s := &statement{}
	return s, json.Unmarshal(b, s)
}

// said is a statement whose signature was checked.
type said struct {
	by   Member
	leaf *x509.Certificate
	body []byte
}

// memo remembers which statements were believed by whom who believes the same, so that a look at a hundred of them costs no
// hundred signatures. It is only a memory: it can be emptied at any time.
type memo struct {
	mu sync.Mutex
	of map[[32]byte]said
}

const maxMemo = 4096

// verify checks who signed a statement. A certificate that has expired since counts: the statement was made before.
func (t *Trust) verify(k crdt.Key, s *statement) (said, error) {
	h := sha256.New()
	h.Write(t.name[:])
	h.Write(digest(k, s.Body))
	h.Write(digest(k, s.Certificate))
	h.Write(s.Signature)
	name := [32]byte(h.Sum(nil))
	t.memo.mu.Lock()
	known, ok := t.memo.of[name]
	t.memo.mu.Unlock()
	if ok {
		return known, nil
	}
	known, err := t.verifyAnew(k, s)
	if err != nil {
		return known, err
	}
	t.memo.mu.Lock()
	defer t.memo.mu.Unlock()
	if t.memo.of == nil || len(t.memo.of) >= maxMemo {
		t.memo.of = map[[32]byte]said{}
	}
	t.memo.of[name] = known
	return known, nil
}

func (t *Trust) verifyAnew(k crdt.Key, s *statement) (said, error) {
	certs, err := decodeCerts(s.Certificate)
	if err != nil {
		return said{}, err
	}
	m, err := t.Member(certs, certs[0].NotBefore.Add(time.Second))
	if err != nil {
		return said{}, err
	}
	public, ok := certs[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(public, digest(k, s.Body), s.Signature) {
		return said{}, errors.New("the signature is not that of its certificate")
	}
	return said{by: m, leaf: certs[0], body: s.Body}, nil
}

// heard reads the statements of one resource that are believed, by name. Those of issuers only, or of each about itself.
func heard[T any](t *Trust, snap *store.Snapshot, resource string) map[string]heardOf[T] {
	out := map[string]heardOf[T]{}
	for name, s := range spoken[resource].Of(snap) {
		if h, ok := believed[T](t, crdt.Key{Resource: resource, Name: name}, s); ok {
			out[name] = h
		}
	}
	return out
}

// spoken are the statements of each resource by name, believed or not.
var spoken = func() map[string]*store.Memo[map[string]*statement] {
	out := map[string]*store.Memo[map[string]*statement]{}
	for _, resource := range Resources {
		out[resource] = store.NewMemo(resource, func(all iter.Seq[*store.Entry]) map[string]*statement {
			said := map[string]*statement{}
			for e := range all {
				if s, err := statementOf(e); err == nil {
					said[e.Key.Name] = s
				}
			}
			return said
		})
	}
	return out
}()

// heardIn reads one statement of a resource, if it is believed.
func heardIn[T any](t *Trust, snap *store.Snapshot, resource, name string) (h heardOf[T], ok bool) {
	e, ok := snap.Get(crdt.Key{Resource: resource, Name: name})
	if !ok {
		return h, false
	}
	s, err := statementOf(e)
	if err != nil {
		return h, false
	}
	return believed[T](t, e.Key, s)
}

// believed reads a statement, if it is believed.
func believed[T any](t *Trust, k crdt.Key, s *statement) (h heardOf[T], ok bool) {
	var err error
	if h.said, err = t.verify(k, s); err != nil {
		return h, false
	}
	if mine := k.Resource == ResourceMembers; mine && h.by.ID != k.Name || !mine && !h.by.Issuer {
		return h, false
	}
	return h, json.Unmarshal(h.said.body, &h.value) == nil
}

type heardOf[T any] struct {
	said
	value T
}

// publish writes a statement of this node.
func publish(ctx context.Context, replica *store.Store, id *Identity, k crdt.Key, body any) error {
	s, err := state(id, k, body)
	if err != nil {
		return err
	}
	obj, err := s.object(k)
	if err != nil {
		return err
	}
	for {
		base, _ := replica.Snapshot().Get(k)
		_, err := replica.Commit(ctx, store.Write{Key: k, Object: obj, Base: base})
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
}

// The bodies.

// aboutMember is what a member says of itself.
type aboutMember struct {
	Node string `json:"node"`
	// TokenKeys are the public halves of its keys for ServiceAccount tokens, in PKIX DER.
	TokenKeys [][]byte `json:"tokenKeys"`
	// Proofs show of each that the member holds the private half, in the same order.
	Proofs [][]byte `json:"proofs,omitempty"`
	// Gossip are the names of the gossip keys that it reads, the one that it writes with first.
	Gossip []string `json:"gossip"`
	// Authority is the hash of the CA whose key it holds; empty if it holds none.
	Authority string `json:"authority,omitempty"`
}

// aboutAuthority is a CA that follows another.
type aboutAuthority struct {
	Certificate []byte `json:"certificate"`
	// Cross is the same CA, signed by the one before, whose hash is Previous.
	Cross    []byte    `json:"cross"`
	Previous string    `json:"previous"`
	At       time.Time `json:"at"`
	// Overlap is how long the one before is believed at least.
	Overlap time.Duration `json:"overlap"`
	// Without are the IDs of the issuers that were shut out when it was made: those cannot know its key.
	Without []string `json:"without,omitempty"`
}

// aboutGossipKey is a gossip key that follows another.
type aboutGossipKey struct {
	Key     []byte        `json:"key"`
	At      time.Time     `json:"at"`
	Overlap time.Duration `json:"overlap"`
	// Stolen tells that those before are in wrong hands. They are read for the overlap and no longer, whoever has not come along.
	Stolen bool `json:"stolen,omitempty"`
}

// aboutRotation is an order to make keys for ServiceAccount tokens anew.
type aboutRotation struct {
	At      time.Time     `json:"at"`
	Overlap time.Duration `json:"overlap"`
}

// aboutSecret is the hash of the permanent join secret.
type aboutSecret struct {
	Hash string `json:"hash"`
}
