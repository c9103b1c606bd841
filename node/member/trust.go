package member

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Trust is what a node believes of certificates at one moment. It is a value and never changes.
type Trust struct {
	// roots are the CAs, that which signs today first; chains are certificates by which one CA vouches for another.
	roots, chains []*x509.Certificate
	pool, between *x509.CertPool
	bundle        []byte
	// robbed names the public keys of CAs whose private half somebody may hold who was shut out. Of what such a CA signed, or one for which
	// only it vouches, the members in pins are still believed.
	robbed, pins map[[32]byte]bool
	// denied are node IDs, deniedNames the names of nodes for certificates that have no ID.
	denied, deniedNames map[string]bool
	// name is the same for two that believe the same; memo remembers what was verified under it.
	name [32]byte
	memo *memo
}

// errRobbed is returned for a certificate that one who was shut out can have made.
var errRobbed = fmt.Errorf("%w: it is of a CA whose key was stolen", ErrNoMember)

func newTrust(roots, chains []*x509.Certificate, robbed map[[32]byte]bool, denied []Denial, m *memo) *Trust {
	t := &Trust{
		roots: roots, chains: chains, pool: x509.NewCertPool(), between: x509.NewCertPool(), robbed: robbed, pins: map[[32]byte]bool{}, memo: m,
		denied: map[string]bool{}, deniedNames: map[string]bool{},
	}
	for _, c := range roots {
		t.pool.AddCert(c)
	}
	for _, c := range chains {
		t.between.AddCert(c)
	}
	for _, d := range denied {
		t.denied[d.ID] = true
		if d.Node != "" {
			t.deniedNames[d.Node] = true
		}
		for _, k := range d.Keep {
			if len(k) == sha256.Size {
				t.pins[[32]byte(k)] = true
			}
		}
	}
	t.bundle = encodeCerts(slices.SortedFunc(slices.Values(roots), func(a, b *x509.Certificate) int { return cmp.Compare(Hash(a), Hash(b)) })...)
	said, _ := json.Marshal([]any{encodeCerts(roots...), encodeCerts(chains...), fmt.Sprint(robbed), denied})
	t.name = sha256.Sum256(said)
	return t
}

// keyName names a public key.
func keyName(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// pinOf names a member by all that makes it one: with the key of a CA certificates can be made of any name, but not for any key.
func pinOf(leaf *x509.Certificate) ([32]byte, bool) {
	m, err := memberOf(leaf)
	if err != nil {
		return [32]byte{}, false
	}
	h := sha256.New()
	fmt.Fprintf(h, "murmur member 1\x00%s\x00%s\x00%v\x00", m.Name, m.ID, m.Issuer)
	h.Write(leaf.RawSubjectPublicKeyInfo)
	return [32]byte(h.Sum(nil)), true
}

// Pool is the set of CAs, for what can use nothing better.
func (t *Trust) Pool() *x509.CertPool { return t.pool }

// Bundle is the CAs in PEM, in an order that is the same on all members: it stands in objects that any of them writes. It is for reading only:
// controllers ask for it at every change of what they watch.
func (t *Trust) Bundle() []byte { return t.bundle }

// Member checks the certificate of a peer, with the ones that it sent along, and tells who it is. Only that it has expired
// counts of time: a certificate of tomorrow was signed by the CA all the same, and it is this node's clock that is wrong.
func (t *Trust) Member(chain []*x509.Certificate, now time.Time) (Member, error) {
	if len(chain) == 0 {
		return Member{}, ErrNoMember
	}
	leaf := chain[0]
	if now.Before(leaf.NotBefore) {
		now = leaf.NotBefore
	}
	if err := t.chain(leaf, chain[1:], x509.ExtKeyUsageClientAuth, now); err != nil {
		return Member{}, err
	}
	m, err := memberOf(leaf)
	if err != nil {
		return m, err
	}
	return m, t.Refuse(leaf)
}

// chain checks who signed a certificate.
func (t *Trust) chain(leaf *x509.Certificate, sent []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	between := t.between
	if len(sent) > 0 {
		between = t.between.Clone()
		for _, c := range sent {
			between.AddCert(c)
		}
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: t.pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: now})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoMember, err)
	}
	for _, c := range chains {
		if t.keeps(c) {
			return nil
		}
	}
	return errRobbed
}

// keeps refuses a chain in which a CA signs whose key was stolen, at its end or between, but for the members that were known before.
func (t *Trust) keeps(chain []*x509.Certificate) bool {
	if !slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return t.robbed[keyName(c)] }) {
		return true
	}
	pin, ok := pinOf(chain[0])
	return ok && t.pins[pin]
}

// Stands is the error of what a connection has shown that was believed once and must not be any more: who it is was shut out, or can have been
// made by one who was. That a certificate has expired since, or its CA is gone, ends no connection.
func (t *Trust) Stands(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return ErrNoMember
	}
	if err := t.Refuse(chain[0]); err != nil || len(t.robbed) == 0 {
		return err
	}
	if err := t.chain(chain[0], chain[1:], x509.ExtKeyUsageAny, chain[0].NotBefore.Add(time.Second)); errors.Is(err, errRobbed) {
		return err
	}
	return nil
}

// Refuse is the error of a certificate that must not be believed though its chain is good: ErrRevoked. It is cheap.
func (t *Trust) Refuse(leaf *x509.Certificate) error {
	if len(t.denied) == 0 {
		return nil
	}
	m, err := memberOf(leaf)
	if err != nil {
		return nil // not a node's
	}
	if m.ID != "" && t.denied[m.ID] || m.Legacy && t.deniedNames[m.Name] {
		return fmt.Errorf("%w: %s", ErrRevoked, m.Name)
	}
	return nil
}

// Client tells whether a chain that upstream's authenticator has built is believed.
func (t *Trust) Client(chain []*x509.Certificate) error {
	if !t.keeps(chain) {
		return errRobbed
	}
	return t.Refuse(chain[0])
}

// Denied tells whether a node ID was shut out.
func (t *Trust) Denied(id string) bool { return t.denied[id] }
