package member

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Trust is what a node believes of certificates at one moment. It is a value and never changes.
type Trust struct {
	// roots are the CAs, that which signs today first; chains are certificates by which one CA vouches for another.
	roots, chains []*x509.Certificate
	pool, between *x509.CertPool
	// pinned names, for a CA whose key was stolen, the only leaf certificates of it that are still believed.
	pinned map[string]map[[32]byte]bool
	// denied are node IDs, deniedNames the names of nodes for certificates that have no ID.
	denied, deniedNames map[string]bool
	// name is the same for two that believe the same; memo remembers what was verified under it.
	name [32]byte
	memo *memo
}

func newTrust(roots, chains []*x509.Certificate, pinned map[string]map[[32]byte]bool, denied []Denial, m *memo) *Trust {
	said, _ := json.Marshal([]any{encodeCerts(roots...), encodeCerts(chains...), fmt.Sprint(pinned), denied})
	t := &Trust{
		roots: roots, chains: chains, pool: x509.NewCertPool(), between: x509.NewCertPool(), pinned: pinned, name: sha256.Sum256(said), memo: m,
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
	}
	return t
}

// Pool is the set of CAs, for what can use nothing better.
func (t *Trust) Pool() *x509.CertPool { return t.pool }

// Bundle is the CAs in PEM, in an order that is the same on all members: it stands in objects that any of them writes.
func (t *Trust) Bundle() []byte {
	return encodeCerts(slices.SortedFunc(slices.Values(t.roots), func(a, b *x509.Certificate) int { return cmp.Compare(Hash(a), Hash(b)) })...)
}

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
	return fmt.Errorf("%w: it is of a CA whose key was stolen", ErrNoMember)
}

// keeps refuses a chain that ends at a CA whose key was stolen, but for the leaf certificates that were known before.
func (t *Trust) keeps(chain []*x509.Certificate) bool {
	pins, stolen := t.pinned[Hash(chain[len(chain)-1])]
	return !stolen || pins[sha256.Sum256(chain[0].Raw)]
}

// Refuse is the error of a certificate that must not be believed though its chain is good: ErrRevoked. It is cheap.
func (t *Trust) Refuse(leaf *x509.Certificate) error {
	if len(t.denied) == 0 && len(t.pinned) == 0 {
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
		return ErrNoMember
	}
	return t.Refuse(chain[0])
}

// Denied tells whether a node ID was shut out.
func (t *Trust) Denied(id string) bool { return t.denied[id] }
