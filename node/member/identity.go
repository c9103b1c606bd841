package member

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"

	"murmur/durable"
)

// Cluster is what a member holds of its cluster. Of the keys, only an issuer has that of the CA.
type Cluster struct {
	ID string `json:"id"`
	// CACert is a PEM bundle of the CAs that are believed, the one that signs today first; CAKey is the key of that one, empty
	// at members that are no issuers.
	CACert []byte `json:"caCert"`
	CAKey  []byte `json:"caKey,omitempty"`
	// ServiceAccountKey is the key by which all members of a cluster of before signed ServiceAccount tokens. It is believed until
	// it is rotated. At an issuer of a newer cluster it is the node's own, for a program of before that is started on this disk.
	ServiceAccountKey []byte `json:"serviceAccountKey,omitempty"`
	GossipKey         []byte `json:"gossipKey"`
	// Secret is the permanent join secret of a cluster of before.
	Secret string `json:"secret,omitempty"`
	// Settings are the node's own affair: they are handed to joiners as they are.
	Settings json.RawMessage `json:"settings"`
}

// Inviter is a member as a joiner needs to know it.
type Inviter struct {
	NodeName string         `json:"nodeName"`
	Serf     netip.AddrPort `json:"serf"`
}

// TokenKey is a key that signs ServiceAccount tokens.
type tokenKey struct {
	Key   []byte    `json:"key"`
	Since time.Time `json:"since"`
	// Proof shows with its public half that this node holds it: see proveKey.
	Proof []byte `json:"proof,omitempty"`
}

// Denial is a node that was shut out. It is never taken back.
type Denial struct {
	ID   string    `json:"id"`
	Node string    `json:"node,omitempty"`
	At   time.Time `json:"at"`
	// Issuer tells that it held the key of the CA: of every CA that was not made without it only the members in Keep are believed. See pinOf.
	Issuer bool     `json:"issuer,omitempty"`
	Keep   [][]byte `json:"keep,omitempty"`
}

// known is a member as it was heard of: its key, its node, and what names it to others. See pinOf.
type known struct {
	Key  []byte `json:"key"`
	Node string `json:"node"`
	Pin  []byte `json:"pin"`
}

// Identity is who this node is, on its disk. It is a value: Self.Update makes the next.
type Identity struct {
	// NodeID is drawn once per data directory.
	NodeID   string  `json:"nodeID"`
	NodeName string  `json:"nodeName"`
	Cluster  Cluster `json:"cluster"`
	// Inviters are the members by which a joiner finds the cluster, first the one that invited it; empty once it has the
	// cluster's state.
	Inviters []Inviter `json:"inviters,omitempty"`
	// Opened tells that there has been a store: without one the node must not act.
	Opened bool `json:"opened,omitempty"`
	// Alone is the word of who restored this node that all others which the backup knows are gone: it forgets them when it starts.
	Alone bool `json:"alone,omitempty"`

	// Key is this node's own, PEM, and Certificate what an issuer made of it, followed by the certificates by which those who
	// trust an earlier CA trust today's.
	Key         []byte `json:"key,omitempty"`
	Certificate []byte `json:"certificate,omitempty"`
	// TokenKeys sign ServiceAccount tokens, the newest first; the later ones are only believed.
	TokenKeys []tokenKey `json:"tokenKeys,omitempty"`
	// GossipKeys are those that are believed beside Cluster.GossipKey, which is what this node writes with.
	GossipKeys [][]byte `json:"gossipKeys,omitempty"`
	// Denied are the nodes of which this one has heard that they were shut out.
	Denied []Denial `json:"denied,omitempty"`
	// Crosses are certificates by which an earlier CA vouches for a later one, PEM.
	Crosses []byte `json:"crosses,omitempty"`
	// Former are the hashes of CAs that were believed once.
	Former []string `json:"former,omitempty"`
	// Robbed names the keys of those of them that somebody held who was shut out.
	Robbed [][]byte `json:"robbed,omitempty"`
	// Words are what issuers have said that all go by.
	Words []word `json:"words,omitempty"`
	// Known are members, by ID, with the keys under which they were first heard of: none ever changes its own.
	Known map[string]known `json:"known,omitempty"`
	// PermanentSecret is the hash of the secret that was given when the cluster was founded, until it is in the store.
	PermanentSecret string `json:"permanentSecret,omitempty"`
}

func identityFile(dir string) string { return filepath.Join(dir, "identity.json") }

// File is where the identity of a data directory is.
func File(dir string) string { return identityFile(dir) }

// Load reads the identity of a data directory; nil if it has none.
func Load(dir string) (*Identity, error) {
	b, err := os.ReadFile(identityFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	id := &Identity{}
	if err := json.Unmarshal(b, id); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): restore it from a backup, or remove %s and join again", identityFile(dir), err, dir)
	}
	return id, nil
}

// Missing is what is wrong with a data directory that has a store only.
func Missing(dir string) error {
	return fmt.Errorf("%s holds the state of a cluster, but %s, which says of which, is gone: restore it from a backup, or remove %s to begin anew",
		filepath.Join(dir, "store"), identityFile(dir), dir)
}

// Save writes an identity to a data directory, durably.
func (id *Identity) Save(dir string) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return durable.Write(identityFile(dir), b, 0o600)
}

// Found makes the identity of the first member of a new cluster. A secret, if one is given, admits joiners for ever: of it only
// the hash is kept.
func Found(node string, settings json.RawMessage, secret string, now time.Time) (*Identity, error) {
	if secret != "" {
		if err := CheckSecret(secret); err != nil {
			return nil, err
		}
	}
	id := &Identity{NodeID: uuid.NewString(), NodeName: node, Cluster: Cluster{ID: uuid.NewString(), Settings: settings, GossipKey: newGossipKey()}}
	if secret != "" {
		id.PermanentSecret = hashSecret(secret)
	}
	a, err := newAuthority(id.Cluster.ID, now)
	if err != nil {
		return nil, err
	}
	id.Cluster.CACert = encodeCerts(a.Certificate)
	if id.Cluster.CAKey, err = encodeKey(a.Key); err != nil {
		return nil, err
	}
	return id, nil
}

// clone is a copy that shares nothing that is ever changed in place.
func (id *Identity) clone() *Identity {
	c := *id
	c.Inviters, c.TokenKeys, c.GossipKeys, c.Denied = slices.Clone(id.Inviters), slices.Clone(id.TokenKeys), slices.Clone(id.GossipKeys), slices.Clone(id.Denied)
	c.Words, c.Former, c.Robbed, c.Known = slices.Clone(id.Words), slices.Clone(id.Former), slices.Clone(id.Robbed), maps.Clone(id.Known)
	return &c
}

// CAHash is the first half of a token: the hash of the CA that signs today.
func (id *Identity) CAHash() (string, error) {
	certs, err := decodeCerts(id.Cluster.CACert)
	if err != nil {
		return "", fmt.Errorf("cluster CA: %w", err)
	}
	return Hash(certs[0]), nil
}

// authority is the CA as an issuer has it.
func (id *Identity) authority() (Authority, bool, error) {
	if len(id.Cluster.CAKey) == 0 {
		return Authority{}, false, nil
	}
	certs, err := decodeCerts(id.Cluster.CACert)
	if err != nil {
		return Authority{}, false, fmt.Errorf("cluster CA: %w", err)
	}
	key, err := decodeKey(id.Cluster.CAKey)
	if err != nil {
		return Authority{}, false, fmt.Errorf("cluster CA's key: %w", err)
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return Authority{}, false, nil // that of a CA before: the new one is still to be asked for
	}
	return Authority{certs[0], key}, true, nil
}

// pair is this node's certificate with its key, nil if it has none yet.
func (id *Identity) pair() (*tls.Certificate, error) {
	if len(id.Certificate) == 0 || len(id.Key) == 0 {
		return nil, nil
	}
	c, err := tls.X509KeyPair(id.Certificate, id.Key)
	if err != nil {
		return nil, fmt.Errorf("this node's certificate: %w", err)
	}
	return &c, nil
}

// Issuer tells whether this node is one: its certificate says so. One of before holds the CA's key and has none yet.
func (id *Identity) Issuer() bool {
	c, err := id.pair()
	if err != nil || c == nil {
		return len(id.Cluster.CAKey) > 0
	}
	m, err := memberOf(c.Leaf)
	return err == nil && m.Issuer
}

// ensureKeys makes the keys that every member has of its own.
func (id *Identity) ensureKeys(now time.Time) (changed bool, err error) {
	if len(id.Key) == 0 {
		k, err := newKey()
		if err != nil {
			return false, err
		}
		if id.Key, err = encodeKey(k); err != nil {
			return false, err
		}
		id.Certificate, changed = nil, true
	}
	if len(id.TokenKeys) == 0 {
		k, err := newTokenKey(now)
		if err != nil {
			return false, err
		}
		id.TokenKeys, changed = []tokenKey{k}, true
	}
	for i := range id.TokenKeys {
		if k := &id.TokenKeys[i]; len(k.Proof) == 0 {
			if k.Proof, err = proveKey(k.Key, id.NodeID); err != nil {
				return false, err
			}
			changed = true
		}
	}
	if len(id.Cluster.ServiceAccountKey) == 0 && len(id.Cluster.CAKey) > 0 {
		id.Cluster.ServiceAccountKey, changed = id.TokenKeys[0].Key, true
	}
	return changed, nil
}

// shared is the key by which all members of a cluster of before signed tokens; nil if there is none.
func (id *Identity) shared() *ecdsa.PrivateKey {
	for _, k := range id.TokenKeys {
		if string(k.Key) == string(id.Cluster.ServiceAccountKey) {
			return nil
		}
	}
	key, err := decodeKey(id.Cluster.ServiceAccountKey)
	if err != nil {
		return nil
	}
	return key
}

// selfSign gives an issuer its certificate, and those by which who trusts an earlier CA trusts it.
func (id *Identity) selfSign(hosts []string, now time.Time) error {
	a, ok, err := id.authority()
	if err != nil || !ok {
		return errors.Join(err, errNoIssuer)
	}
	key, err := decodeKey(id.Key)
	if err != nil {
		return fmt.Errorf("this node's key: %w", err)
	}
	b, err := newRequest(key, hosts)
	if err != nil {
		return err
	}
	req, err := parseRequest(b)
	if err != nil {
		return err
	}
	if id.Certificate, err = a.signNode(req, Member{Name: id.NodeName, ID: id.NodeID, Issuer: true}, now); err != nil {
		return err
	}
	t, err := id.trust(nil)
	if err != nil {
		return err
	}
	id.Certificate = append(id.Certificate, encodeCerts(crosses(t, a.Certificate)...)...)
	return nil
}

var errNoIssuer = errors.New("this node is no issuer: it does not hold the CA's key")

// certs are the bundle's.
func (id *Identity) roots() ([]*x509.Certificate, error) {
	certs, err := decodeCerts(id.Cluster.CACert)
	if err != nil {
		return nil, fmt.Errorf("cluster CA: %w", err)
	}
	return certs, nil
}

// Knows tells whether a CA's hash is that of one which is or was this cluster's.
func (id *Identity) Knows(hash string) bool {
	certs, err := id.roots()
	return slices.Contains(id.Former, hash) || err == nil && slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return Hash(c) == hash })
}

// Anew is the identity of the same member with nothing but what makes it one: it was forgotten and takes the state of others. An issuer
// gets another ID; one that is none keeps that which its certificate says.
func (id *Identity) Anew(inviters []Inviter) *Identity {
	to := id.clone()
	to.Inviters, to.Opened, to.Alone = inviters, false, false
	if len(to.Cluster.CAKey) > 0 {
		to.NodeID, to.Key, to.Certificate, to.TokenKeys = uuid.NewString(), nil, nil, nil
		to.dropOwn(id)
	}
	return to
}

// Restored is the identity in a backup as that of another incarnation: the node that was backed up may be alive.
func (id *Identity) Restored(alone bool) *Identity {
	to := id.clone()
	to.NodeID, to.Alone, to.Inviters = uuid.NewString(), alone, nil
	to.Key, to.Certificate, to.TokenKeys = nil, nil, nil
	to.dropOwn(id)
	return to
}

// dropOwn forgets a key for tokens that was the node's own and stood as that of the cluster.
func (id *Identity) dropOwn(old *Identity) {
	if old.shared() == nil {
		id.Cluster.ServiceAccountKey = nil
	}
}
