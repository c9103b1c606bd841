package member

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"murmur/crdt"
	"murmur/crdt/store"
)

// The join protocol, over the API's port. GET ca answers the CA certificate, which proves nothing until the joiner has
// compared it with the hash in its token; only then, over TLS verified with that CA, does it send the secret and a certificate
// request to POST join.
const (
	JoinPath = "/murmur/v1/"
	pathCA   = JoinPath + "ca"
	pathJoin = JoinPath + "join"
	maxJoin  = 64 << 10
	// maxReply bounds an answer: it names every member of the cluster.
	maxReply  = 4 << 20
	joinLimit = 10 * time.Second
)

var (
	// ErrRefused is returned to a joiner whose token is not accepted.
	ErrRefused = errors.New("the token was refused: it has expired, was used or deleted, or was not copied whole")
	// ErrOlder is returned to a joiner that asks for the cluster's keys, as the programs of before did.
	ErrOlder = errors.New("this machine runs an older murmur than the cluster, which admits only who makes its own key: update it, then join again")
	// errOutOfReach is returned to a joiner while no issuer can be asked.
	// errReplaced is returned while the CA whose key this issuer holds is being replaced: what it signs is not believed.
	errReplaced   = errors.New("the key of the CA was stolen and is being replaced: try again in a minute")
	errOutOfReach = errors.New("the member that was asked cannot admit anybody itself, and no issuer is in its reach: join by way of an issuer, or when one is back")
)

// Request is what a joiner says of itself.
type Request struct {
	NodeID   string     `json:"nodeID"`
	NodeName string     `json:"nodeName"`
	Addr     netip.Addr `json:"addr"`
	// CSR is a PKCS #10 request in PEM, under the key that the joiner keeps.
	CSR []byte `json:"csr,omitempty"`
}

// Reply is what a token yields: a certificate, and what is needed to meet the members.
type Reply struct {
	Cluster     string `json:"clusterID"`
	Certificate []byte `json:"certificate"`
	// Authorities is a PEM bundle of the CAs that are believed, Crosses the certificates by which they vouch for each other.
	Authorities []byte          `json:"authorities"`
	Crosses     []byte          `json:"crosses,omitempty"`
	GossipKeys  [][]byte        `json:"gossipKeys"`
	Settings    json.RawMessage `json:"settings"`
	Inviter     Inviter         `json:"inviter"`
	// Members are others that are alive, for a joiner whose inviter dies.
	Members []Inviter `json:"members,omitempty"`
	// Denied, Robbed, Words and Known are what the joiner has to know to believe nobody who was shut out.
	Denied []Denial         `json:"denied,omitempty"`
	Robbed [][]byte         `json:"robbed,omitempty"`
	Words  []word           `json:"words,omitempty"`
	Known  map[string]known `json:"known,omitempty"`
}

// DoorConfig is what a door is made of.
type DoorConfig struct {
	Self    *Self
	Store   *store.Store
	Inviter Inviter
	// Taken says who else uses a node name or address; Others lists live members but this one and the joiner.
	Taken  func(Request) error
	Others func(joiner string) []Inviter
	// Spend marks the Secret of a token as used, and fails if that was done elsewhere meanwhile.
	Spend func(context.Context, *corev1.Secret) error
	// Ask asks an issuer in reach; nil: there is none.
	Ask func(ctx context.Context, path string, in, out any) error
	// Record records who asked to be admitted, and the outcome; nil: nobody does.
	Record func(context.Context, Admission)
	Now    func() time.Time
	Log    *slog.Logger
}

// Door admits joiners.
type Door struct {
	cfg      DoorConfig
	refusals refusals
	// admitted is the last joiner that was admitted since the daemon started.
	admitted atomic.Pointer[string]
}

// NewDoor makes a door.
func NewDoor(c DoorConfig) *Door {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Door{cfg: c}
}

// Admitted is the last joiner that was admitted since the daemon started, if there was one.
func (d *Door) Admitted() (name string, ok bool) {
	if p := d.admitted.Load(); p != nil {
		return *p, true
	}
	return "", false
}

func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodGet && r.URL.Path == pathCA:
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(d.cfg.Self.Identity().Cluster.CACert)
	case r.Method == http.MethodPost && r.URL.Path == pathJoin:
		d.join(w, r)
	default:
		http.NotFound(w, r)
	}
}

// refused is an answer that is no admission.
type refused struct {
	Status int    `json:"status"`
	Text   string `json:"text"`
}

func (e *refused) Error() string { return e.Text }

func (d *Door) join(w http.ResponseWriter, r *http.Request) {
	from := source(r.RemoteAddr)
	if wait := d.refusals.wait(from, d.cfg.Now()); wait > 0 {
		seconds := int(wait/time.Second) + 1
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		http.Error(w, fmt.Sprintf("tokens from this address were refused: the next one is looked at in %d s", seconds), http.StatusTooManyRequests)
		return
	}
	secret, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	var req Request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJoin)).Decode(&req); err != nil {
		http.Error(w, "bad join request: "+err.Error(), http.StatusBadRequest)
		return
	}
	asked := d.admission(secret, req, from)
	reply, err := d.relayed(r.Context(), secret, req, asked)
	d.record(r.Context(), asked, reply, err)
	var no *refused
	switch {
	case errors.As(err, &no):
		if no.Status == http.StatusUnauthorized {
			d.refusals.note(from, d.cfg.Now())
		}
		http.Error(w, no.Text, no.Status)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		d.refusals.forget(from)
		d.admitted.Store(&req.NodeName)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(reply)
	}
}

// relayed admits a joiner, here or at an issuer. The token is looked at before anything else: a stranger is told nothing of who is
// here.
func (d *Door) relayed(ctx context.Context, secret string, req Request, asked Admission) (*Reply, error) {
	if _, issuer, err := d.cfg.Self.Identity().authority(); err != nil || issuer {
		if err != nil {
			return nil, err
		}
		return d.admit(ctx, secret, req)
	}
	if d.cfg.Ask == nil {
		return nil, errOutOfReach
	}
	var out joinAnswer
	if err := d.cfg.Ask(ctx, PathJoin, joinQuestion{Secret: secret, Request: req, AuditID: asked.ID, From: asked.From}, &out); err != nil {
		d.cfg.Log.Warn("relay a joiner to an issuer", "node", req.NodeName, "err", err)
		return nil, errOutOfReach
	}
	if out.Refused != nil {
		return nil, out.Refused
	}
	if out.Reply == nil {
		return nil, errOutOfReach
	}
	out.Reply.Inviter, out.Reply.Members = d.cfg.Inviter, d.cfg.Others(req.NodeName)
	return out.Reply, nil
}

// admit looks at a token and a request and signs.
func (d *Door) admit(ctx context.Context, secret string, req Request) (*Reply, error) {
	no := func(status int, err error) (*Reply, error) { return nil, &refused{status, err.Error()} }
	id, t, now := d.cfg.Self.Identity(), d.cfg.Self.Trust(), d.cfg.Now()
	key := sha256.Sum256(req.CSR)
	csr, csrErr := parseRequest(req.CSR)
	if csrErr == nil {
		key = sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	}
	g, err := d.accepts(secret, hex.EncodeToString(key[:]), now)
	if err != nil {
		d.cfg.Log.Warn("join refused", "node", req.NodeName, "address", req.Addr, "err", err)
		return no(http.StatusUnauthorized, ErrRefused)
	}
	switch {
	case len(req.CSR) == 0:
		return no(http.StatusBadRequest, ErrOlder)
	case csrErr != nil:
		return no(http.StatusBadRequest, fmt.Errorf("bad certificate request: %w", csrErr))
	case !validID.MatchString(req.NodeID):
		return no(http.StatusBadRequest, fmt.Errorf("bad join request: the node ID %q is none", req.NodeID))
	case len(validation.IsDNS1123Subdomain(req.NodeName)) > 0:
		return no(http.StatusBadRequest, fmt.Errorf("bad join request: the node name %q is none", req.NodeName))
	case t.Denied(req.NodeID):
		return no(http.StatusForbidden, errors.New("this node was revoked: remove its data directory to join as a new one"))
	}
	snap := d.cfg.Store.Snapshot()
	// Who has a member's ID must have its key, also when the CA has been replaced since.
	taken := fmt.Errorf("the node ID %s is that of a member which has another key", req.NodeID)
	if k, ok := id.Known[req.NodeID]; ok {
		if theirs := sha256.Sum256(csr.RawSubjectPublicKeyInfo); !slices.Equal(k.Key, theirs[:]) {
			return no(http.StatusConflict, taken)
		}
	} else if e, ok := snap.Get(crdt.Key{Resource: ResourceMembers, Name: req.NodeID}); ok {
		if s, err := statementOf(e); err == nil {
			if certs, err := decodeCerts(s.Certificate); err == nil && string(certs[0].RawSubjectPublicKeyInfo) != string(csr.RawSubjectPublicKeyInfo) {
				return no(http.StatusConflict, taken)
			}
		}
	}
	if err := foreign(csr, req, snap); err != nil {
		return no(http.StatusConflict, err)
	}
	if err := d.cfg.Taken(req); err != nil {
		return no(http.StatusConflict, err)
	}
	a, _, err := id.authority()
	if err != nil {
		return nil, err
	}
	if t.robbed[keyName(a.Certificate)] {
		return nil, errReplaced
	}
	certificate, err := a.signNode(csr, Member{Name: req.NodeName, ID: req.NodeID, Issuer: g.issuer}, now)
	if err != nil {
		return nil, err
	}
	if g.spend != nil {
		used := g.spend.DeepCopy()
		used.Data[dataUsedBy] = []byte(hex.EncodeToString(key[:]))
		if err := d.cfg.Spend(ctx, used); err != nil {
			d.cfg.Log.Warn("join refused: the token could not be marked as used", "node", req.NodeName, "err", err)
			return nil, fmt.Errorf("mark the token as used: %w", err)
		}
	}
	d.cfg.Log.Info("admitted", "node", req.NodeName, "address", req.Addr, "issuer", g.issuer, "id", req.NodeID)
	return &Reply{
		Cluster: id.Cluster.ID, Certificate: append(certificate, encodeCerts(crosses(t, a.Certificate)...)...),
		Authorities: id.Cluster.CACert, Crosses: id.Crosses, GossipKeys: id.ring(), Settings: id.Cluster.Settings,
		Inviter: d.cfg.Inviter, Members: d.cfg.Others(req.NodeName),
		Denied: id.Denied, Robbed: id.Robbed, Words: id.Words, Known: id.Known,
	}, nil
}

// accepts knows the permanent secret and the bootstrap tokens.
func (d *Door) accepts(secret, joiner string, now time.Time) (grant, error) {
	if secret == "" {
		return grant{}, errors.New("no token")
	}
	snap := d.cfg.Store.Snapshot()
	if why := d.cfg.Self.permanentRefused(snap, secret); why == nil {
		return grant{issuer: true}, nil
	} else if !errors.Is(why, errUnknown) {
		return grant{}, why
	}
	name, rest, ok := strings.Cut(secret, ".")
	if !ok {
		return grant{}, errUnknown
	}
	s, ok := store.Get[corev1.Secret](snap, TokenKey(name))
	if !ok {
		return grant{}, errUnknown
	}
	return weigh(s, rest, joiner, now)
}

var errUnknown = errors.New("it is no token that is known")

// permanentRefused tells why a secret does not admit for being a permanent one; nil if it does. A revocation ends them all: who was shut out may have
// had the secret that admitted it. One of a cluster of before, which stands on the disk of every member, admits while members of before are there.
func (s *Self) permanentRefused(snap *store.Snapshot, secret string) error {
	id := s.Identity()
	hash := id.PermanentSecret
	if w, ok := wordsOf[aboutSecret](id, ResourceSecrets)[permanent]; ok {
		hash = w.Hash
	} else if h, ok := heardIn[aboutSecret](s.Trust(), snap, ResourceSecrets, permanent); ok {
		hash = h.value.Hash
	}
	before := id.Cluster.Secret != "" && equal(secret, id.Cluster.Secret)
	switch {
	case !before && (hash == "" || !equal(hashSecret(secret), hash)):
		return errUnknown
	case len(id.Denied) > 0:
		return errors.New("it is a permanent secret, and a member was revoked since: `murmur token create` makes tokens")
	case before && !s.others():
		return errors.New("it is the permanent secret of the version before, which admits nobody any more: `murmur token create` makes tokens")
	}
	return nil
}

// foreign refuses a request for the name or address of another node: with such a certificate its API could be played.
func foreign(csr *x509.CertificateRequest, req Request, snap *store.Snapshot) error {
	for _, h := range csr.DNSNames {
		if _, ok := snap.Get(crdt.Key{Resource: "nodes", Name: h}); ok && h != req.NodeName {
			return fmt.Errorf("the certificate is asked for the name %s, which is another node's", h)
		}
	}
	for _, ip := range csr.IPAddresses {
		if ip.String() == req.Addr.String() {
			continue
		}
		for e := range snap.Indexed(store.ByAddress, ip.String(), "nodes", "", "") {
			if e.Key.Name != req.NodeName {
				return fmt.Errorf("the certificate is asked for the address %s, which is that of %s", ip, e.Key.Name)
			}
		}
	}
	return nil
}

func source(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

// refusals delays those whose tokens were refused: each address by itself, a second at first, twice as long each time.
type refusals struct {
	mu sync.Mutex
	of map[string]refusal
}

type refusal struct {
	times int
	until time.Time
}

const (
	maxRefusals  = 1024
	refusalPause = time.Second
	refusalMost  = time.Minute
	refusalsFree = 2
)

func (r *refusals) wait(from string, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.of[from].until.Sub(now)
}

// note counts a refusal. The first ones are free: people mistype.
func (r *refusals) note(from string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[string]refusal{}
	}
	if _, ok := r.of[from]; !ok && len(r.of) >= maxRefusals {
		for k, v := range r.of {
			if v.until.Before(now) {
				delete(r.of, k)
			}
		}
		for k := range r.of {
			if len(r.of) < maxRefusals {
				break
			}
			delete(r.of, k)
		}
	}
	n := r.of[from]
	n.times++
	if n.times > refusalsFree {
		n.until = now.Add(min(refusalPause<<min(n.times-refusalsFree-1, 10), refusalMost))
	}
	r.of[from] = n
}

func (r *refusals) forget(from string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.of, from)
}
